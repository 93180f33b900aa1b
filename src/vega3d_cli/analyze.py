"""`vega3d analyze correspondence`, `probe`, `sweep` and `choose`."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vega3d_cli import common

analyze = common.make_group("Measure what the generator's features know of the scene.")
common.app.add_typer(analyze, name="analyze", rich_help_panel="Measure")

Output = Annotated[Path | None, typer.Option(help="JSON file with every clip's results.")]
Voxel = Annotated[float, typer.Option(help="Edge of a voxel [m].")]


@dataclass
class FeatureOptions:
    """The options of which features of which clips are read, which `correspondence`, `probe` and `sweep` share."""

    data: Annotated[
        Path | None,
        typer.Option(
            help="Data set of rooms, or a clip or folder of clips in the layout of ScanNet, 7-Scenes or TUM RGB-D.  "
            "[default: rooms are made, and stored in the cache]"
        ),
    ] = None
    split: Annotated[str | None, typer.Option(help="Split of rooms.  [default: test; with --data, all rooms]")] = None
    first_room: Annotated[
        int | None, typer.Option(**common.SEED, help="Number of the first room that is made.  [default: 0]")
    ] = None
    trajectories: Annotated[
        int | None, typer.Option(**common.COUNT, help="Clips of each room that is made.  [default: 1]")
    ] = None
    layout: common.Layout = None
    views: Annotated[
        int | None,
        typer.Option(
            **common.COUNT,
            help="Frames taken evenly from each clip; short clips give all, and rooms are made with 17 or more.  "
            "[default: 32, or the preset's]",
        ),
    ] = None
    clips: Annotated[
        int | None, typer.Option(**common.COUNT, help="Most clips, or rooms.  [default: 10 rooms; with --data, all]")
    ] = None
    preset: Annotated[
        Literal["paper", "vidfm3d", "probing-vlm-vgm"] | None,
        typer.Option(help="Mode, noise level, block and views of a published study; options beside it go first."),
    ] = None
    controls: Annotated[str, typer.Option(help="Of random, noise, vae; with commas.")] = ""
    block: Annotated[
        str | None, typer.Option(help="Blocks with commas, or all.  [default: the model's; of a sweep, all]")
    ] = None
    timestep: Annotated[str | None, typer.Option(help="Noise levels with commas.  [default: the model's]")] = None
    mode: Annotated[str | None, typer.Option(help="Of frame, views, clip; with commas.  [default: the model's]")] = (
        None
    )
    size: Annotated[str | None, typer.Option(help="Largest frames, WxH with commas.  [default: the model's]")] = None
    skip_lost: common.SkipLost = False
    intrinsics: common.Intrinsics = None
    cache: Annotated[Path | None, typer.Option(help="Folder of a feature cache (bf16) to read and fill.")] = None
    seed: Annotated[int, typer.Option(**common.SEED, help="Of chance and of the bootstrap.")] = 0
    workers: common.Workers = 1

    def published(self) -> Any:
        """The preset, if one was asked for."""
        from vega3d.analysis.settings import PRESETS

        return None if self.preset is None else PRESETS[self.preset]

    def read_options(self) -> Any:
        """How clips are read; raises ValueError, before anything is loaded, for what is out of range."""
        from vega3d.analysis.clips import DEFAULT_VIEWS, ReadOptions, evenly

        preset = self.published()
        views = self.views or (preset.views if preset else DEFAULT_VIEWS)
        evenly(2, views)
        areas(self.size)
        for name, text in (("--block", None if self.block == "all" else self.block), ("--timestep", self.timestep)):
            common.numbers(name, text)
        made = {"--first-room": self.first_room, "--trajectories": self.trajectories}
        refuse_beside("--data, as only rooms are made", self.data, made)
        return ReadOptions(views, self.skip_lost, common.intrinsics(self.intrinsics))

    def plan(self, loaded: common.LoadedGenerator, voxel: float = 0.1) -> Any:
        from vega3d.analysis.settings import make_grid

        config, preset = loaded.generator.config, self.published()
        blocks = list(range(config.num_layers)) if self.block == "all" else common.numbers("--block", self.block)
        timesteps, modes = common.numbers("--timestep", self.timestep), words(self.mode) or None
        if preset:
            blocks, timesteps = blocks or [preset.block(config.num_layers)], timesteps or [preset.timestep]
            modes = modes or [preset.mode]
        return make_grid(
            config,
            loaded.frames,
            blocks=blocks,
            timesteps=timesteps,
            modes=modes,
            areas=areas(self.size),
            controls=words(self.controls),
            voxel=voxel,
            seed=self.seed,
            shift=preset.shift if preset else None,
        )

    def sources(self) -> list:
        return self._found(self.data, self.split, self.clips, self.first_room, "test", 10)

    def train_sources(self, options: "ReadingOptions") -> list:
        return self._found(
            options.train_data, options.train_split, options.train_clips, options.train_first_room, "train", 20
        )

    def check_apart(self, options: "ReadingOptions") -> None:
        """Raises ValueError, before any is made, if rooms would be both trained and tested on."""
        if self.data is not None or options.train_data is not None:
            return
        first, start = self.first_room or 0, options.train_first_room or 0
        last, end = first + (self.clips or 10), start + (options.train_clips or 20)
        if (self.split or "test") == (options.train_split or "train") and first < end and start < last:
            raise ValueError(
                f"Rooms {max(first, start)} to {min(last, end) - 1} of split {self.split or 'test'} would be both "
                "trained and tested on. Choose others with --train-first-room or --train-split."
            )

    def _found(
        self, data: Path | None, split: str | None, clips: int | None, first: int | None, usual: str, rooms: int
    ) -> list:
        """The clips of a folder, or rooms that are made for it."""
        from vega3d.analysis.layouts import find_clips, make_rooms

        if data is not None:
            return find_clips(data, self.layout, split, clips)
        if self.layout not in (None, "rooms"):
            raise ValueError(
                f"--layout {self.layout} needs --data (and, for probes, --train-data): only rooms are made."
            )
        count, preset = rooms if clips is None else clips, self.published()
        settings = {"num_frames": max(17, self.views or (preset.views if preset else 0))}
        settings["trajectories"] = self.trajectories or 1
        with common.progress(f"rooms of split {split or usual}", "room", count) as advance:
            return make_rooms(
                count, split or usual, self.workers, None, lambda number: advance(number), first or 0, **settings
            )

    def measurement(
        self,
        loaded: common.LoadedGenerator,
        grid: Any,
        options: Any,
        on_progress: Callable[[int], None],
        **probes: Any,
    ) -> Any:
        """What `correspondence_rows`, `probe_rows` and `run_sweep` take."""
        from vega3d.analysis.sweep import Measurement

        return Measurement(
            generator=loaded.generator,
            grid=grid,
            options=options,
            reader=self.reader(),
            on_progress=on_progress,
            **probes,
        )

    def reader(self) -> Any:
        from vega3d.modeling.generator_vega3d import VegaGenerator

        if self.cache is None:
            return VegaGenerator.read
        from vega3d.features.cache import FeatureCache

        return FeatureCache(self.cache).read


@dataclass
class ReadingOptions:
    """The options of what probes read and train on, which `probe` and `sweep` share."""

    readings: Annotated[
        str | None,
        typer.Option(
            help="Of depth, normals, points, turn, turn_first, translation, translation_first, pose, instances, "
            "permanence; with commas.  [default: all that the probe can read]"
        ),
    ] = None
    probe: Annotated[Literal["linear", "attentive"] | None, typer.Option(help="[default: linear]")] = None
    probe_seeds: Annotated[
        str | None, typer.Option(help="Seeds of attentive probes, with commas; means over them.  [default: 0]")
    ] = None
    train_data: Annotated[
        Path | None,
        typer.Option(help="Clips of other scenes to train the probes on.  [default: rooms of split train]"),
    ] = None
    train_split: Annotated[
        str | None,
        typer.Option(help="Split of the rooms to train on.  [default: train; with --train-data, all rooms]"),
    ] = None
    train_first_room: Annotated[
        int | None, typer.Option(**common.SEED, help="Number of the first room to train on.  [default: 0]")
    ] = None
    train_clips: Annotated[
        int | None,
        typer.Option(**common.COUNT, help="Most clips, or rooms, to train on.  [default: 20 rooms; or all]"),
    ] = None

    def options(self) -> Any:
        """What probes read; raises ValueError, before anything is loaded, for what cannot be."""
        from vega3d.analysis.readings import probe_options

        refuse_beside(
            "--train-data, as only rooms are made", self.train_data, {"--train-first-room": self.train_first_room}
        )
        return probe_options(
            words(self.readings), self.probe or "linear", common.numbers("--probe-seeds", self.probe_seeds)
        )


@common.command(
    None,
    """    vega3d analyze correspondence vega3d-tiny --clips 10 --controls random,noise,vae

    vega3d analyze correspondence org/vega3d --data scans --layout scannet --skip-lost --block 20 --output x.json""",
    analyze,
)
def correspondence(
    measured: FeatureOptions,
    model: common.ModelArgument = common.MODEL,
    voxel: Voxel = 0.1,
    device: common.Device = None,
    output: Output = None,
    as_json: common.AsJson = False,
) -> None:
    """Do the features of one point agree between views, and only there? With chance and controls."""
    with held_output(output):
        common.quieten(as_json)
        options = measured.read_options()
        common.needs("scipy", "pyarrow")
        loaded = common.load_generator(model, device)
        plan = measured.plan(loaded, voxel)
        sources = measured.sources()
        from vega3d.analysis.sweep import correspondence_rows

        with common.progress("clips", "pass", plan.num_passes(len(sources))) as advance:
            rows = correspondence_rows(measured.measurement(loaded, plan, options, advance), sources)
        info = metadata(model, loaded, plan, options, sources)
        finish(rows, "correspondence", info, measured.seed, output, as_json)


@common.command(
    None,
    """    vega3d analyze probe vega3d-tiny --clips 10 --train-clips 20 --controls random

    vega3d analyze probe vega3d-tiny --mode views,frame --block 1,3,5 --timestep 100,700 --readings depth,turn

    vega3d analyze probe generator --preset vidfm3d --probe attentive --probe-seeds 0,1,2 --readings turn,pose

    vega3d analyze probe org/vega3d --data scans/val --train-data scans/train --block 10,20,25 --output probe.json""",
    analyze,
)
def probe(
    measured: FeatureOptions,
    probes: ReadingOptions,
    model: common.ModelArgument = common.MODEL,
    device: common.Device = None,
    output: Output = None,
    as_json: common.AsJson = False,
) -> None:
    """What probes read off the features: depth, normals, motion of the camera, points, objects, memory of objects."""
    with held_output(output):
        common.quieten(as_json)
        options, reading = measured.read_options(), probes.options()
        measured.check_apart(probes)
        common.needs("scipy", "pyarrow")
        loaded = common.load_generator(model, device)
        plan = measured.plan(loaded)
        sources, training = measured.sources(), measured.train_sources(probes)
        from vega3d.analysis.sweep import probe_rows

        with common.progress("clips", "pass", plan.num_passes(len(sources) + len(training))) as advance:
            rows = probe_rows(measured.measurement(loaded, plan, options, advance, probes=reading), training, sources)
        info = metadata(model, loaded, plan, options, sources, training, reading)
        finish(rows, "probe", info, measured.seed, output, as_json)


@common.command(
    None,
    """    vega3d analyze sweep vega3d-tiny --output sweep --clips 4 --timestep 100,300,700 --controls random,noise,vae

    vega3d analyze sweep org/vega3d --output sweep --data scans --mode frame,views --size 832x480""",
    analyze,
)
def sweep(
    output: Annotated[Path, typer.Option(help="Folder for the results; a killed run continues there.")],
    measured: FeatureOptions,
    asked: ReadingOptions,
    model: common.ModelArgument = common.MODEL,
    probes: Annotated[bool, typer.Option("--probes", help="Probes of each setting too.")] = False,
    voxel: Voxel = 0.1,
    device: common.Device = None,
    as_json: common.AsJson = False,
) -> None:
    """Correspondence (and probes) over blocks, noise levels, modes and sizes: tables, heat maps, curves."""
    common.quieten(as_json)
    measured.block = measured.block or ("all" if measured.preset is None else None)
    options, reading = measured.read_options(), asked.options()
    if probes:
        measured.check_apart(asked)
    else:
        given = {f"--{name.replace('_', '-')}": value for name, value in vars(asked).items()}
        refuse_beside("no --probes", True, given)
    common.needs("scipy", "pyarrow", "matplotlib")
    with common.loading(model):
        from vega3d.analysis.summary import sweep_table
        from vega3d.analysis.sweep import check_free, run_sweep

    check_free(output)
    loaded = common.load_generator(model, device)
    plan = measured.plan(loaded, voxel)
    sources = measured.sources()
    training = measured.train_sources(asked) if probes else []
    info = metadata(model, loaded, plan, options, sources, training, reading if probes else None)
    total = plan.num_passes(len(sources)) + (plan.num_passes(len(sources) + len(training)) if probes else 0)
    with common.progress("sweep", "pass", total) as advance:
        run = measured.measurement(loaded, plan, options, advance, probes=reading)
        result = run_sweep(run, sources, training, output, info)
    typer.echo(json.dumps(result, indent=2) if as_json else sweep_table(result, output))


@common.command(
    None,
    """    vega3d analyze choose sweep

    vega3d analyze choose sweep-generator --mode views --against image-twin=sweep-twin --output choice.json""",
    analyze,
)
def choose(
    sweep: Annotated[Path, typer.Argument(help="Folder of a sweep with --probes of depth and turn.")],
    mode: Annotated[str | None, typer.Option(help="Of the setting.  [default: that of the first rows]")] = None,
    against: Annotated[
        list[str] | None, typer.Option(metavar="NAME=SWEEP", help="Sweep of another generator over the same clips.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """The block and noise level to read: best at depth and the camera's turn; is it better than the controls?"""
    named = [item.partition("=") for item in against or []]
    folders = [sweep, *(Path(folder) for _, _, folder in named)]
    with held_output(output, *(folder / "clips.parquet" for folder in folders)):
        with common.loading("the sweeps"):
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


def finish(rows: list, kind: str, info: dict, seed: int, output: Path | None, as_json: bool) -> None:
    """Writes the result of a measurement, if it is to be written, and prints it."""
    from vega3d.analysis.summary import make_result, result_table, write_result

    result = make_result(rows, kind, info, seed=seed)
    if output is not None:
        write_result(output, result)
    typer.echo(json.dumps(result, indent=2) if as_json else result_table(result))


def words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def refuse_beside(what: str, is_given: object, options: dict[str, Any]) -> None:
    """Raises ValueError if options are given that mean nothing beside another."""
    useless = [name for name, value in options.items() if value is not None]
    if is_given and useless:
        raise ValueError(f"{', '.join(useless)} cannot be used with {what}. Leave it out.")


def areas(text: str | None) -> list[int] | None:
    """Areas [px] of `832x480,1280x720`; raises ValueError for anything else."""
    if text is None:
        return None
    found = []
    for size in text.split(","):
        width, cross, height = size.strip().lower().partition("x")
        if not cross or not width.isdigit() or not height.isdigit():
            raise ValueError(f"--size is {text!r}, but must be like 832x480, or several with commas.")
        found.append(int(width) * int(height))
    return found


def metadata(
    model: str,
    loaded: common.LoadedGenerator,
    plan: Any,
    options: Any,
    sources: list,
    training: list | None = None,
    probes: Any = None,
) -> dict:
    """What a result says of its making; `training` and the options of `probes` where probes are trained."""
    values = {
        "model": model,
        "generator_files": loaded.generator.files_hash(),
        "notice": loaded.notice,
        "command": shlex.join(["vega3d", *sys.argv[1:]]),
        "plan": plan.as_json(),
        "options": options._asdict(),
        "noise_seed": loaded.generator.config.noise_seed,
        "data": {"layout": sources[0].layout, "clips": [source.name for source in sources]},
    }
    values |= {} if training is None else {"train_clips": [source.name for source in training]}
    return values | ({} if probes is None else {"probes": probes._asdict()})


@contextmanager
def held_output(output: Path | None, *inputs: Path) -> Iterator[None]:
    """Holds the file that a result goes to, if there is to be one, while the command runs.

    Raises:
        ValueError: if it is none that may be written, or another run writes it.
    """
    if output is None:
        yield
        return
    from vega3d.analysis.summary import FORMAT
    from vega3d.files import check_output, only_run

    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ValueError(f"--output is {output}, but must be a file in a folder that is there, such as result.json.")
    with only_run(check_output(output, *inputs, mark=FORMAT.encode())):
        yield
