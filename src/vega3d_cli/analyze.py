"""`vega3d analyze correspondence`, `probe` and `sweep`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vega3d_cli.analyze_options import (
    clips_of,
    facts_of,
    held_output,
    plan_of,
    read_options,
    reader_of,
)
from vega3d_cli.common import COUNT, SEED, Workers, app, one_line_errors, progress, quieten
from vega3d_cli.generators import load_generator

analyze = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure what the generator's features know of the scene.",
)
app.add_typer(analyze, name="analyze")

Model = Annotated[str, typer.Argument(help="vega3d-tiny (embedded), a folder (also of a generator), or a Hub id.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Data set of rooms, or a clip or folder of clips in the layout of ScanNet, 7-Scenes or TUM RGB-D.  "
        "[default: rooms are made, and kept in the cache]"
    ),
]
TrainData = Annotated[
    Path | None, typer.Option(help="The same, of other scenes, to train probes on.  [default: rooms of split train]")
]
Split = Annotated[str | None, typer.Option(help="Split of rooms.  [default: test; with --data, all rooms]")]
Layout = Annotated[str | None, typer.Option(help="rooms, scannet, 7scenes or tum.  [default: by the files]")]
Views = Annotated[int, typer.Option(**COUNT, help="Frames taken evenly from each clip; shorter clips give all.")]
Clips = Annotated[int | None, typer.Option(**COUNT, help="Most clips.  [default: 10 rooms; with --data, all]")]
TrainClips = Annotated[int | None, typer.Option(**COUNT, help="Most clips to train on.  [default: 20 rooms; or all]")]
Controls = Annotated[str, typer.Option(help="Of random, noise, vae; with commas.")]
Blocks = Annotated[str | None, typer.Option(help="Blocks with commas, or all.  [default: the model's]")]
Timesteps = Annotated[str | None, typer.Option(help="Noise levels with commas.  [default: the model's]")]
Modes = Annotated[str | None, typer.Option(help="Of frame, views, clip; with commas.  [default: the model's]")]
Sizes = Annotated[str | None, typer.Option(help="Largest frames, WxH with commas.  [default: the model's]")]
Voxel = Annotated[float, typer.Option(help="Edge of a voxel [m].")]
SkipLost = Annotated[bool, typer.Option("--skip-lost", help="Leave out frames whose pose was lost, and say so.")]
Intrinsics = Annotated[str | None, typer.Option(help="fx,fy,cx,cy [px], where the layout stores none.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of a feature cache (bf16) to read from and add to.")]
Seed = Annotated[int, typer.Option(**SEED, help="Of chance and of the bootstrap.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [default: the GPU, if any]")]
Output = Annotated[Path | None, typer.Option(help="JSON file with every clip's figures.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object, not as a table.")]


@analyze.command(
    epilog="""Examples:

    vega3d analyze correspondence vega3d-tiny --clips 10 --controls random,noise,vae

    vega3d analyze correspondence org/vega3d --data scans --layout scannet --skip-lost --block 20 --output x.json"""
)
def correspondence(
    model: Model = "vega3d-tiny",
    data: Data = None,
    split: Split = None,
    layout: Layout = None,
    views: Views = 32,
    clips: Clips = None,
    controls: Controls = "",
    block: Blocks = None,
    timestep: Timesteps = None,
    mode: Modes = None,
    size: Sizes = None,
    voxel: Voxel = 0.1,
    skip_lost: SkipLost = False,
    intrinsics: Intrinsics = None,
    cache: Cache = None,
    seed: Seed = 0,
    workers: Workers = 1,
    device: Device = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Do the features of one point agree between views, and only there? With chance and controls."""
    with one_line_errors(), held_output(output):
        quieten(as_json)
        from vega3d.analysis.summary import make_result, result_table, write_result
        from vega3d.analysis.sweep import Measurement, correspondence_rows

        options = read_options(views, skip_lost, intrinsics)
        loaded = load_generator(model, device)
        plan = plan_of(loaded, block, timestep, mode, size, controls, voxel, seed)
        sources = clips_of(data, layout, split, clips, workers, "test", 10)
        with progress("clips", "pass", plan.num_passes(len(sources))) as advance:
            run = Measurement(
                generator=loaded.generator, grid=plan, options=options, reader=reader_of(cache), on_progress=advance
            )
            rows = correspondence_rows(run, sources)
        result = make_result(rows, "correspondence", facts_of(model, loaded, plan, options, sources), seed=seed)
        if output is not None:
            write_result(output, result)
    typer.echo(json.dumps(result, indent=2) if as_json else result_table(result))


@analyze.command(
    epilog="""Examples:

    vega3d analyze probe vega3d-tiny --clips 10 --train-clips 20 --controls random

    vega3d analyze probe org/vega3d --data scans/val --train-data scans/train --block 10,20,25 --output probe.json"""
)
def probe(
    model: Model = "vega3d-tiny",
    data: Data = None,
    train_data: TrainData = None,
    split: Split = None,
    layout: Layout = None,
    views: Views = 32,
    clips: Clips = None,
    train_clips: TrainClips = None,
    controls: Controls = "",
    block: Blocks = None,
    timestep: Timesteps = None,
    mode: Modes = None,
    size: Sizes = None,
    skip_lost: SkipLost = False,
    intrinsics: Intrinsics = None,
    cache: Cache = None,
    seed: Seed = 0,
    workers: Workers = 1,
    device: Device = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """How well depth and surface normals can be read off the features by linear maps."""
    with one_line_errors(), held_output(output):
        quieten(as_json)
        from vega3d.analysis.summary import make_result, result_table, write_result
        from vega3d.analysis.sweep import Measurement, probe_rows

        options = read_options(views, skip_lost, intrinsics)
        loaded = load_generator(model, device)
        plan = plan_of(loaded, block, timestep, mode, size, controls, seed=seed)
        sources = clips_of(data, layout, split, clips, workers, "test", 10)
        training = clips_of(train_data, layout, None, train_clips, workers, "train", 20)
        with progress("clips", "pass", plan.num_passes(len(sources) + len(training))) as advance:
            run = Measurement(
                generator=loaded.generator, grid=plan, options=options, reader=reader_of(cache), on_progress=advance
            )
            rows = probe_rows(run, training, sources)
        facts = facts_of(model, loaded, plan, options, sources) | {"train_clips": [s.name for s in training]}
        result = make_result(rows, "probe", facts, seed=seed)
        if output is not None:
            write_result(output, result)
    typer.echo(json.dumps(result, indent=2) if as_json else result_table(result))


@analyze.command(
    epilog="""Examples:

    vega3d analyze sweep vega3d-tiny --output sweep --clips 4 --timestep 100,300,700 --controls random,noise,vae

    vega3d analyze sweep org/vega3d --output sweep --data scans --mode frame,views --size 832x480"""
)
def sweep(
    output: Annotated[Path, typer.Option(help="Folder for the results; a killed run continues there.")],
    model: Model = "vega3d-tiny",
    data: Data = None,
    train_data: TrainData = None,
    split: Split = None,
    layout: Layout = None,
    views: Views = 32,
    clips: Clips = None,
    train_clips: TrainClips = None,
    controls: Controls = "",
    block: Annotated[str, typer.Option(help="Blocks with commas, or all.")] = "all",
    timestep: Timesteps = None,
    mode: Modes = None,
    size: Sizes = None,
    probes: Annotated[bool, typer.Option("--probes", help="Depth and normal probes of each cell too.")] = False,
    voxel: Voxel = 0.1,
    skip_lost: SkipLost = False,
    intrinsics: Intrinsics = None,
    cache: Cache = None,
    seed: Seed = 0,
    workers: Workers = 1,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Correspondence (and probes) over blocks, noise levels, modes and sizes: tables, heat maps, curves."""
    with one_line_errors():
        quieten(as_json)
        from vega3d.analysis.summary import sweep_table
        from vega3d.analysis.sweep import Measurement, check_free, run_sweep

        check_free(output)
        options = read_options(views, skip_lost, intrinsics)
        loaded = load_generator(model, device)
        plan = plan_of(loaded, block, timestep, mode, size, controls, voxel, seed)
        sources = clips_of(data, layout, split, clips, workers, "test", 10)
        training = clips_of(train_data, layout, None, train_clips, workers, "train", 20) if probes else []
        facts = facts_of(model, loaded, plan, options, sources) | {"train_clips": [s.name for s in training]}
        total = plan.num_passes(len(sources)) + (plan.num_passes(len(sources) + len(training)) if probes else 0)
        with progress("sweep", "pass", total) as advance:
            run = Measurement(
                generator=loaded.generator, grid=plan, options=options, reader=reader_of(cache), on_progress=advance
            )
            result = run_sweep(run, sources, training, output, facts)
    typer.echo(json.dumps(result, indent=2) if as_json else sweep_table(result, output))


@analyze.command(
    epilog="""Examples:

    vega3d analyze choose sweep

    vega3d analyze choose sweep-generator --mode views --against image-twin=sweep-twin --output choice.json"""
)
def choose(
    sweep: Annotated[Path, typer.Argument(help="Folder of a sweep with --probes.")],
    mode: Annotated[str | None, typer.Option(help="Of the cell.  [default: that of the first rows]")] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="NAME=SWEEP", help="Sweep of another generator over the same clips.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """The block and noise level to read: best at depth and at finding places again; is it better than the controls?"""
    named = [item.partition("=") for item in against or []]
    folders = [sweep, *(Path(folder) for _, _, folder in named)]
    with one_line_errors(), held_output(output, *(folder / "clips.parquet" for folder in folders)):
        from vega3d.analysis.choice import choice_table
        from vega3d.analysis.choice import choose as choose_setting
        from vega3d.analysis.summary import write_result
        from vega3d.analysis.sweep import sweep_rows

        rows = sweep_rows(sweep)
        bare = [name for name, _, folder in named if not folder]
        if bare:
            raise ValueError(f"--against is {bare[0]!r}, but must be NAME=SWEEP, such as image-twin=sweep-twin.")
        others = {name: sweep_rows(Path(folder)) for name, _, folder in named}
        result = choose_setting(rows, mode or rows[0]["mode"], others)
        if output is not None:
            write_result(output, result)
    typer.echo(json.dumps(result, indent=2) if as_json else choice_table(result))
