"""Walkthroughs a second: sampling a room, baking its light, and rendering walks that share the bake.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/synthesize.py --output synthesize.json
    python benchmarks/synthesize.py --workers 15 --rooms 48 --frames 17 --size 192 --output cores.json
    python benchmarks/synthesize.py --opengl --workers 15 --rooms 48 --frames 17 --size 192 --output card.json

Colour, depth and instance ids of every frame; loading the furniture and starting processes are not counted. The first
command uses one core, the second all of them, the third a graphics card beside them. Each compares ways in one run.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import vega3d
from vega3d.synthetic.draw_arrays import draw_arrays
from vega3d.synthetic.furniture import load_furniture
from vega3d.synthetic.render_embree import EmbreeRenderer
from vega3d.synthetic.scene import sample_scene, scene_seed
from vega3d.synthetic.stream import stream_clips
from vega3d.synthetic.walk import sample_walks

STAGES = ("scene", "bake", "walk", "render")
SAMPLED_ROOMS = 6  # at most, that both renderers show, and that warm rendering is timed on
EMBREE_ROOMS = 16  # at most, beside OpenGL


def time_room(number: int, walks: int, furniture: list, options) -> dict[str, float]:
    """Seconds of each stage."""
    marks = [time.perf_counter()]
    scene = sample_scene(scene_seed("train", number), furniture)
    marks.append(time.perf_counter())
    renderer = EmbreeRenderer(scene, options.quality)
    _ = renderer.light
    marks.append(time.perf_counter())
    paths = sample_walks(scene, walks, options.frames)
    marks.append(time.perf_counter())
    for path in paths:
        renderer.render(path, options.size, options.size)
    marks.append(time.perf_counter())
    return dict(zip(STAGES, np.diff(marks).tolist(), strict=True))


def one_core(options) -> dict:
    """Rates of one core, for many walks a bake and for one."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    furniture = load_furniture()
    for item in furniture:
        _ = item.model, item.height_map
    ways = {}
    for walks in (options.walks, 1):
        rooms = [time_room(number, walks, furniture, options) for number in tqdm(range(options.rooms))]
        seconds = {stage: sum(room[stage] for room in rooms) / options.rooms for stage in STAGES}
        rate = walks / sum(seconds.values())
        ways[f"{walks} walks a bake"] = {"walks_a_second": rate, "seconds_a_room": seconds}
        shown = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
        print(f"{walks} walks a bake: {rate:.2f} walkthroughs a second ({shown} a room)")
    first, second = (way["walks_a_second"] for way in ways.values())
    print(f"ratio {first / second:.2f}")
    return {"ways": ways, "ratio": first / second}


def time_stream(renderer: str, rooms: int, workers: int, quality: str, options) -> dict[str, float]:
    """Rate of a stream after its first rooms, whose making starts the workers."""
    # Each worker's first room carries the import of the package and the decoding of the furniture.
    first, total = 2 * workers, 2 * workers + rooms
    stream = stream_clips(
        "train",
        rooms=total,
        walks=options.walks,
        num_frames=options.frames,
        size=options.size,
        workers=workers,
        renderer=renderer,
        quality=quality,
    )
    started = time.perf_counter()
    for number, _ in enumerate(tqdm(stream, total=total * options.walks, desc=f"{renderer}, {workers} workers")):
        if number == first * options.walks - 1:
            warm = time.perf_counter()
    ended = time.perf_counter()
    rate = rooms * options.walks / (ended - warm)
    print(f"{renderer}, {workers} workers, {quality} light, {options.walks} walks a room: {rate:.1f} clips a second")
    return {"clips_a_second": rate, "rooms": rooms, "seconds": ended - warm, "seconds_to_warm": warm - started}


def many_cores(options) -> dict:
    """Rates of embree on many cores, and on half of them."""
    ways = {
        f"{workers} workers": time_stream("embree", options.rooms, workers, options.quality, options)
        for workers in dict.fromkeys((options.workers, max(1, options.workers // 2)))
    }
    rates = [way["clips_a_second"] for way in ways.values()]
    print(f"ratio {rates[0] / rates[-1]:.2f}")
    return {"ways": ways, "ratio": rates[0] / rates[-1]}


def compare_renderers(options) -> tuple[dict, dict]:
    """Agreement of both renderers, and milliseconds a frame of each for rooms that are loaded and baked."""
    from vega3d.synthetic.opengl_context import shared_context
    from vega3d.synthetic.render_opengl import OpenGLRenderer

    furniture, differences = load_furniture(), []
    times: dict[str, list[float]] = {"embree": [], "opengl": [], "pack": [], "upload": []}
    for number in tqdm(range(min(options.rooms, SAMPLED_ROOMS)), desc="both renderers"):
        scene = sample_scene(scene_seed("test", number), furniture)
        paths = sample_walks(scene, 2, options.frames)
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
            found = [renderer.render(path, options.size, options.size) for path in paths]  # not timed: warms up
            times["opengl"] += [timed_render(renderer, path, options) for path in paths * options.repeats]
        times["embree"].append((marks[1] - marks[0]) / len(paths))
        times["pack"].append(marks[2] - marks[1])
        times["upload"].append(marks[3] - marks[2])
        differences += [difference(*pair) for pair in zip(expected, found, strict=True)]
    agreement = {name: float(np.mean([one[name] for one in differences])) for name in differences[0]}
    speed = {f"{name}_ms_a_frame": 1000 * median(times[name]) / options.frames for name in ("embree", "opengl")}
    speed |= {f"{name}_ms_a_room": 1000 * median(times[name]) for name in ("pack", "upload")}
    speed["ratio"] = speed["embree_ms_a_frame"] / speed["opengl_ms_a_frame"]
    print(f"{shared_context().device}: " + ", ".join(f"{name} {value:.3f}" for name, value in speed.items()))
    print(", ".join(f"{name} {value:.5f}" for name, value in agreement.items()))
    return agreement, {"device": shared_context().device, **speed}


def timed_render(renderer, path, options) -> float:
    started = time.perf_counter()
    renderer.render(path, options.size, options.size)
    return time.perf_counter() - started


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
    """Agreement, warm speed, and the whole stream by OpenGL with full and fast light, beside embree."""
    agreement, speed = compare_renderers(options)
    ways = {
        f"opengl, {quality} light": time_stream("opengl", options.rooms, options.workers, quality, options)
        for quality in ("full", "fast")
    }
    rooms = min(options.rooms, EMBREE_ROOMS)
    ways["embree, full light"] = time_stream("embree", rooms, options.workers, "full", options)
    full, fast, embree = (way["clips_a_second"] for way in ways.values())
    ratios = {"opengl to embree": full / embree, "fast to full light": fast / full}
    print(", ".join(f"{name}: ratio {value:.2f}" for name, value in ratios.items()))
    return {"agreement": agreement, "warm": speed, "ways": ways, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--walks", type=int, default=8, help="that share a bake")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="edge of the frames [px]")
    parser.add_argument("--quality", choices=("full", "fast"), default="full", help="of the light")
    parser.add_argument("--workers", type=int, help="processes; one core without them if not given")
    parser.add_argument("--opengl", action="store_true", help="render on a graphics card; needs --workers")
    parser.add_argument("--repeats", type=int, default=5, help="of each timed walk on the graphics card")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if options.opengl and options.workers is None:
        parser.error("--opengl needs --workers, the processes that sample and bake rooms beside the graphics card")
    measure = graphics_card if options.opengl else many_cores if options.workers else one_core
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    results = {
        "command": "python benchmarks/synthesize.py",
        "processor": platform.processor(),
        "cores": os.cpu_count(),
        "versions": {"vega3d": vega3d.__version__, "numpy": np.__version__},
        "settings": settings,
        **measure(options),
    }
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
