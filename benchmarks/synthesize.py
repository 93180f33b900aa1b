"""Walkthroughs a second: sampling a room, baking its light, and rendering trajectories that share the bake.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/synthesize.py --output synthesize.json
    python benchmarks/synthesize.py --workers 15 --rooms 48 --frames 17 --size 192 --output cores.json
    python benchmarks/synthesize.py --opengl --workers 15 --rooms 48 --frames 17 --size 192 --output card.json

Colour, depth and instance ids of every frame; loading the furniture and starting processes are not counted. The first
command uses one core, the second all of them, the third a graphics card beside them; each compares ways in one run.
With `--opengl` the streams have their own numbers of trajectories and qualities of light, and embree 16 frames of
128 px.
"""

import argparse
import itertools
import json
import os
import platform
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from vega3d.rooms.dataset.stream import stream_clips
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.render.light import Quality
from vega3d.rooms.render.opengl import draw_arrays
from vega3d.rooms.scene import scene_seed
from vega3d.rooms.scene.furniture import load_furniture
from vega3d.rooms.scene.scene import sample_scene
from vega3d.rooms.scene.trajectory import sample_trajectories

STAGES = ("scene", "bake", "walk", "render")
PACKAGES = ("vega3d", "numpy", "embreex", "moderngl")
SAMPLED_ROOMS = 6  # at most, that both renderers show, and that warm rendering is timed on
EMBREE_ROOMS = 24  # at most, beside OpenGL
QUIET: dict[str, Any] = {"mininterval": 10}  # of progress bars


def time_room(number: int, trajectories: int, furniture: list, options) -> dict[str, float]:
    """Seconds of each stage."""
    marks = [time.perf_counter()]
    scene = sample_scene(scene_seed("train", number), furniture)
    marks.append(time.perf_counter())
    renderer = EmbreeRenderer(scene, options.quality)
    _ = renderer.light
    marks.append(time.perf_counter())
    paths = sample_trajectories(scene, trajectories, options.frames)
    marks.append(time.perf_counter())
    for path in paths:
        renderer.render(path, options.size, options.size)
    marks.append(time.perf_counter())
    return dict(zip(STAGES, np.diff(marks).tolist(), strict=True))


def one_core(options) -> dict:
    """Rates of one core, for many trajectories a bake and for one."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    furniture = load_furniture()
    for item in furniture:
        _ = item.model, item.height_map
    ways = {}
    for trajectories in (options.trajectories, 1):
        rooms = [time_room(number, trajectories, furniture, options) for number in tqdm(range(options.rooms), **QUIET)]
        seconds = {stage: sum(room[stage] for room in rooms) / options.rooms for stage in STAGES}
        rate = trajectories / sum(seconds.values())
        ways[f"{trajectories} walks a bake"] = {"walks_a_second": rate, "seconds_a_room": seconds}
        shown = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
        print(f"{trajectories} trajectories a bake: {rate:.2f} walkthroughs a second ({shown} a room)")
    first, second = (way["walks_a_second"] for way in ways.values())
    print(f"ratio {first / second:.2f}")
    return {"ways": ways, "ratio": first / second}


class Way(NamedTuple):
    """Settings of a stream."""

    renderer: Literal["opengl", "embree"]
    rooms: int
    trajectories: int
    frames: int
    size: int
    workers: int
    quality: Quality


def time_stream(way: Way) -> dict:
    """Rate of a stream between its first rooms, whose making starts the workers, and others that still wait."""
    # Each worker's first room carries the import of the package and the decoding of the furniture. The stream does not
    # end with what is timed, so that as many rooms wait when the clock stops as when it starts.
    first = 2 * way.workers
    stream = stream_clips(
        "train",
        trajectories=way.trajectories,
        num_frames=way.frames,
        size=way.size,
        workers=way.workers,
        renderer=way.renderer,
        quality=way.quality,
    )
    started = time.perf_counter()
    total = (first + way.rooms) * way.trajectories
    title = f"{way.renderer}, {way.workers} workers"
    for number, _ in enumerate(tqdm(itertools.islice(stream, total), total=total, desc=title, **QUIET), start=1):
        if number == first * way.trajectories:
            warm = time.perf_counter()
    seconds = time.perf_counter() - warm
    stream.close()
    rate = way.rooms * way.trajectories / seconds
    shown = f"{way.frames} frames of {way.size} px, {way.quality} light, {way.trajectories} trajectories a room"
    print(f"{title}, {shown}: {rate:.1f} clips a second")
    seeds = {"split": "train", "first": first, "last": first + way.rooms - 1}
    return {**way._asdict(), "clips_a_second": rate, "seconds": seconds, "seconds_to_warm": warm - started} | {
        "seeds": seeds
    }


def many_cores(options) -> dict:
    """Rates of embree on many cores, and on half of them."""
    counts = dict.fromkeys((options.workers, max(1, options.workers // 2)))
    settings = options.rooms, options.trajectories, options.frames, options.size
    ways = [time_stream(Way("embree", *settings, workers, options.quality)) for workers in counts]
    ratio = ways[0]["clips_a_second"] / ways[-1]["clips_a_second"]
    print(f"ratio {ratio:.2f}")
    return {"ways": ways, "ratio": ratio}


def compare_renderers(options) -> tuple[dict, dict]:
    """Agreement of both renderers, and milliseconds a frame of each for rooms that are loaded and baked."""
    from vega3d.rooms.render.opengl import OpenGLRenderer, shared_context

    furniture, differences = load_furniture(), []
    times: dict[str, list[float]] = {"embree": [], "opengl": [], "ahead": [], "pack": [], "upload": []}
    for number in tqdm(range(min(options.rooms, SAMPLED_ROOMS)), desc="both renderers", **QUIET):
        scene = sample_scene(scene_seed("test", number), furniture)
        paths = sample_trajectories(scene, 2, options.frames)
        embree = EmbreeRenderer(scene)
        light = embree.light
        marks = [time.perf_counter()]
        expected = [embree.render(path, options.size, options.size) for path in paths]
        marks.append(time.perf_counter())
        arrays = draw_arrays(scene, light)
        marks.append(time.perf_counter())
        with OpenGLRenderer(arrays) as renderer:
            renderer.context.gl.finish()
            marks.append(time.perf_counter())
            found = list(renderer.render_all(paths, options.size, options.size))  # not timed: warms up
            times["opengl"] += [timed_render(renderer, path, options) for path in paths * options.repeats]
            times["ahead"].append(timed_ahead(renderer, paths * options.repeats, options))
        times["embree"].append((marks[1] - marks[0]) / len(paths))
        times["pack"].append(marks[2] - marks[1])
        times["upload"].append(marks[3] - marks[2])
        differences += [difference(*pair) for pair in zip(expected, found, strict=True)]
    agreement = {name: float(np.mean([one[name] for one in differences])) for name in differences[0]}
    speed = {
        f"{name}_ms_a_frame": 1000 * median(times[name]) / options.frames for name in ("embree", "opengl", "ahead")
    }
    speed |= {f"{name}_ms_a_room": 1000 * median(times[name]) for name in ("pack", "upload")}
    speed["ratio"] = speed["embree_ms_a_frame"] / speed["opengl_ms_a_frame"]
    print(f"{shared_context().device}: " + ", ".join(f"{name} {value:.3f}" for name, value in speed.items()))
    print(", ".join(f"{name} {value:.5f}" for name, value in agreement.items()))
    return agreement, {"device": shared_context().device, **speed}


def timed_render(renderer, path, options) -> float:
    started = time.perf_counter()
    renderer.render(path, options.size, options.size)
    return time.perf_counter() - started


def timed_ahead(renderer, paths: list, options) -> float:
    """Seconds a trajectory, if one is read while the next is drawn."""
    started = time.perf_counter()
    for _ in renderer.render_all(paths, options.size, options.size):
        pass
    return (time.perf_counter() - started) / len(paths)


def difference(expected, found) -> dict[str, float]:
    """Shares of pixels, and the mean difference of colours of 255."""
    colour = np.abs(expected.rgb.astype(int) - found.rgb)
    return {
        "depth_beyond_1_cm": float((np.abs(expected.depth - found.depth) > 0.01).mean()),
        "other_instance": float((expected.instance != found.instance).mean()),
        "colour_mean": float(colour.mean()),
        "colour_beyond_8": float((colour.max(axis=-1) > 8).mean()),
    }


def median(values: list[float]) -> float:
    return float(np.median(values))


def graphics_card(options) -> dict:
    """Agreement, warm speed, and streams: OpenGL with few and many trajectories a room, and embree beside it."""
    agreement, speed = compare_renderers(options)
    rooms, clip = options.rooms, (options.frames, options.size, options.workers)
    lights: tuple[tuple[int, Quality], ...] = ((8, "full"), (32, "fast"))
    ways = [time_stream(Way("opengl", rooms, trajectories, *clip, quality)) for trajectories, quality in lights]
    fewer = min(rooms, EMBREE_ROOMS)
    ways += [
        time_stream(Way("embree", fewer, trajectories, 16, 128, options.workers, quality))
        for trajectories, quality in lights
    ]
    return {"agreement": agreement, "warm": speed, "ways": ways}


def version(package: str) -> str | None:
    """None if it is not installed, as the package itself if it is run from its source."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--trajectories", type=int, default=8, help="that share a bake")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="edge of the frames [px]")
    parser.add_argument("--quality", choices=("full", "fast"), default="full", help="of the light")
    parser.add_argument("--workers", type=int, help="processes; one core without them if not given")
    parser.add_argument("--opengl", action="store_true", help="render on a graphics card; needs --workers")
    parser.add_argument("--repeats", type=int, default=5, help="of each timed trajectory on the graphics card")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if options.opengl and options.workers is None:
        parser.error("--opengl needs --workers, the processes that sample and bake rooms beside the graphics card")
    measure = graphics_card if options.opengl else many_cores if options.workers else one_core
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    results = {
        "command": shlex.join(["python", "benchmarks/synthesize.py", *sys.argv[1:]]),
        "processor": platform.processor(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "settings": settings,
        **measure(options),
    }
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
