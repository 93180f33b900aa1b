"""Walkthroughs a second on one core: sampling a room, baking its light, and rendering walks that share the bake.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/synthesize.py --output synthesize.json

Colour, depth and instance ids of every frame; loading the furniture is not counted. Two ways in one run: eight walks a
bake, and one.
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
from vega3d.synthetic.furniture import load_furniture
from vega3d.synthetic.render_embree import EmbreeRenderer
from vega3d.synthetic.scene import sample_scene, scene_seed
from vega3d.synthetic.walk import sample_walk

STAGES = ("scene", "bake", "walk", "render")


def time_room(number: int, walks: int, furniture: list, options) -> dict[str, float]:
    """Seconds of each stage."""
    marks = [time.perf_counter()]
    scene = sample_scene(scene_seed("train", number), furniture)
    marks.append(time.perf_counter())
    renderer = EmbreeRenderer(scene)
    _ = renderer.light
    marks.append(time.perf_counter())
    paths = [sample_walk(scene, walk, options.frames) for walk in range(walks)]
    marks.append(time.perf_counter())
    for path in paths:
        renderer.render(path, options.size, options.size)
    marks.append(time.perf_counter())
    return dict(zip(STAGES, np.diff(marks).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="edge of the frames [px]")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    furniture = load_furniture()
    for item in furniture:
        _ = item.model, item.height_map
    results: dict = {
        "command": "python benchmarks/synthesize.py",
        "processor": platform.processor(),
        "versions": {"vega3d": vega3d.__version__, "numpy": np.__version__},
        "settings": {"rooms": options.rooms, "frames": options.frames, "size": options.size},
        "ways": {},
    }
    for walks in (8, 1):
        rooms = [time_room(number, walks, furniture, options) for number in tqdm(range(options.rooms))]
        seconds = {stage: sum(room[stage] for room in rooms) / options.rooms for stage in STAGES}
        rate = walks / sum(seconds.values())
        results["ways"][f"{walks} walks a bake"] = {"walks_a_second": rate, "seconds_a_room": seconds}
        shown = ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items())
        print(f"{walks} walks a bake: {rate:.2f} walkthroughs a second ({shown} a room)")
    first, second = (way["walks_a_second"] for way in results["ways"].values())
    print(f"ratio {first / second:.2f}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
