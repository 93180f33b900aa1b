"""What the options of `vega3d analyze` stand for."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vega3d_cli.common import numbers, progress


def words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def areas_of(text: str | None) -> list[int] | None:
    """Areas [px] of `832x480,1280x720`; raises ValueError for anything else."""
    if text is None:
        return None
    areas = []
    for size in text.split(","):
        width, cross, height = size.strip().lower().partition("x")
        if not cross or not width.isdigit() or not height.isdigit():
            raise ValueError(f"--size is {text!r}, but must be like 832x480, or several with commas.")
        areas.append(int(width) * int(height))
    return areas


def plan_of(loaded, block, timestep, mode, size, controls, voxel: float = 0.1, seed: int = 0):
    from vega3d.analysis.settings import make_grid

    config = loaded.generator.config
    blocks = list(range(config.num_layers)) if block == "all" else numbers("--block", block)
    return make_grid(
        config,
        loaded.frames,
        blocks,
        numbers("--timestep", timestep),
        words(mode) or None,
        areas_of(size),
        words(controls),
        voxel,
        seed,
    )


def read_options(views: int, skip_lost: bool, intrinsics: str | None):
    """Raises ValueError, before anything is loaded, for views or intrinsics out of range."""
    from vega3d.analysis.clips import ReadOptions, checked_intrinsics, evenly

    evenly(2, views)
    if intrinsics is None:
        return ReadOptions(views, skip_lost)
    try:
        values = tuple(float(value) for value in intrinsics.split(","))
    except ValueError as error:
        raise ValueError(f"--intrinsics is {intrinsics!r}, but must be fx,fy,cx,cy [px].") from error
    checked_intrinsics(values)
    return ReadOptions(views, skip_lost, values)


def clips_of(data: Path | None, layout, split: str | None, clips: int | None, workers: int, usual: str, rooms: int):
    """The clips of a folder, or rooms that are made for it."""
    from vega3d.analysis.layouts import find_clips, make_rooms

    if data is not None:
        return find_clips(data, layout, split, clips)
    if layout not in (None, "rooms"):
        raise ValueError(f"--layout {layout} needs --data (and, for probes, --train-data): only rooms are made.")
    count = rooms if clips is None else clips
    if count < 1:
        raise ValueError(f"--clips is {count}, but must be at least 1.")
    with progress(f"rooms of split {split or usual}", "room", count) as advance:
        return make_rooms(count, split or usual, workers, on_progress=lambda number: advance(number))


def reader_of(cache: Path | None):
    from vega3d.modeling.generator_vega3d import VegaGenerator

    if cache is None:
        return VegaGenerator.read
    from vega3d.features.cache import FeatureCache

    return FeatureCache(cache).read


def facts_of(model: str, loaded, plan, options, sources) -> dict:
    """What a result says of its making."""
    return {
        "model": model,
        "generator_files": loaded.generator.files_hash(),
        "notice": loaded.notice,
        "command": shlex.join(["vega3d", *sys.argv[1:]]),
        "plan": plan.as_json(),
        "options": options._asdict(),
        "noise_seed": loaded.generator.config.noise_seed,
        "data": {"layout": sources[0].layout, "clips": [source.name for source in sources]},
    }


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
