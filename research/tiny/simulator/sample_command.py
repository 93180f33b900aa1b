"""`python -m research.tiny.simulator sample`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from research.tiny.simulator.commands import app
from vega3d_cli.common import COUNT, SEED, load_generator, one_line_errors, progress, quieten


class SolverName(StrEnum):
    unipc = "unipc"
    euler = "euler"


@app.command(
    epilog="""Examples:

    python -m research.tiny.simulator sample world-simulator/generator --output samples

    python -m research.tiny.simulator sample world-simulator/image-twin --output samples --count 16 --no-videos

    python -m research.tiny.simulator sample vega3d-tiny --output samples --seed 7 --steps 50 --solver euler"""
)
def sample(
    model: Annotated[str, typer.Argument(help="Folder of a trained generator, vega3d-tiny, a model or a Hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for video-SEED.mp4, samples.png and samples.json.")],
    count: Annotated[int, typer.Option(**COUNT, help="Videos.")] = 4,
    seed: Annotated[int, typer.Option(**SEED, help="Of the first video; the next ones count up.")] = 0,
    steps: Annotated[int, typer.Option(**COUNT, help="Of the solver.")] = 30,
    shift: Annotated[float, typer.Option(help="Of the noise levels: more steps at high noise.")] = 5.0,
    solver: Annotated[SolverName, typer.Option(help="UniPC as in Wan, or Euler.")] = SolverName.unipc,
    num_frames: Annotated[int | None, typer.Option(**COUNT, help="1 + 4k.  [default: as trained, or 17]")] = None,
    size: Annotated[
        int | None, typer.Option(**COUNT, help="Edge of the frames [px].  [default: as trained, or 192]")
    ] = None,
    videos: Annotated[bool, typer.Option(help="MP4 files, or the PNG grid alone.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [default: the GPU, if any]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was made, as one JSON object.")] = False,
) -> None:
    """Make videos with a generator: what it believes rooms to look like while the camera moves."""
    with one_line_errors():
        quieten(as_json)
        from research.tiny.simulator.samples import check_samples
        from research.tiny.simulator.sampling import check_sampling

        seeds = list(range(seed, seed + count))
        edge = 192 if size is None else size
        check_sampling(count, 17 if num_frames is None else num_frames, edge, edge, steps, shift)
        check_samples(output, seeds)
        generator = load_generator(model, device).generator
        trained = trained_clips(generator)
        from research.tiny.simulator.samples import SampleRequest, make_samples

        request = SampleRequest(
            seeds=seeds,
            num_frames=trained["num_frames"] if num_frames is None else num_frames,
            size=trained["size"] if size is None else size,
            steps=steps,
            shift=shift,
            solver=solver.value,
        )
        with progress("sampling", "step", steps) as advance:
            facts = make_samples(generator, request, output, videos, model, on_step=advance)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for file in facts["files"]:
        typer.echo(f"{output / file}")


def trained_clips(generator) -> dict[str, int]:
    """Frames and their size [px] that a generator was trained on, where its folder says so."""
    from vega3d.modeling.files_vega3d import is_generator, read_generator_info

    if is_generator(generator.files):
        info = read_generator_info(generator.files)
        return {"num_frames": info["num_frames"], "size": info["size"]}
    return {"num_frames": 17, "size": 192}
