"""Draws boxes that a model found in rooms: right ones, then wrong ones, the first of each in a shuffled result.

A row is an expression, over the frames that show most of what it means: the box meant is green, a wrong one amber.

vega3d evaluate vega3d-tiny --benchmark rooms-grounding --proposals true --limit 70 --output grounding.json
python recipes/draw_groundings.py docs/results/groundings.webp grounding.json
"""

import argparse
import random
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from palette import save_palette

from vega3d.analysis.layouts import read_posed_video
from vega3d.evaluation.benchmarks import ROOMS
from vega3d.evaluation.result_files import read_result
from vega3d.files import write_whole
from vega3d.inference.box_views import drawn, frames_showing
from vega3d.rooms.dataset.dataset import default_cache

KINDS = ("unique", "multiple")  # of which one box is meant, and one is chosen
SHOWN = 3


def rows(result: dict[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` right answers and as many wrong ones, each of a room of its own.

    Raises:
        ValueError: if there are fewer.
    """
    found: dict[bool, dict[str, dict]] = {True: {}, False: {}}
    asked = [question for question in result["questions"] if question["question_type"] in KINDS]
    random.Random(seed).shuffle(asked)
    for question in asked:
        if question["scene"] not in {**found[True], **found[False]}:
            right = found[question["scores"]["f1@0.25"] == 1]
            if len(right) < count:
                right[question["scene"]] = question
    short = [words for words, right in (("right", True), ("wrong", False)) if len(found[right]) < count]
    if short:
        raise ValueError(f"The result has fewer than {count} {' and '.join(short)} answers about rooms of their own.")
    return [*found[True].values(), *found[False].values()]


def draw(path: Path, folder: Path, chosen: list[dict[str, Any]]) -> None:
    figure = pyplot.figure(figsize=(2.6 * SHOWN, 2.85 * len(chosen)), layout="constrained")
    for row, question in zip(figure.subfigures(len(chosen), 1), chosen, strict=True):
        clip = read_posed_video(folder, ROOMS.settings.num_frames, name=question["scan"])
        [meant], [box, *_] = question["ground_truth"], question["answer"]["boxes"]
        is_right = question["scores"]["f1@0.25"] == 1
        words, colour = ("right", "darkgreen") if is_right else ("WRONG", "firebrick")
        row.suptitle(f"{words}: {question['question']}", fontsize=8, color=colour, x=0.01, ha="left")
        frames = frames_showing(clip, meant)[:SHOWN]
        for axis in row.subplots(1, SHOWN):
            axis.set_axis_off()
        for axis, frame in zip(row.axes, frames, strict=False):
            axis.imshow(drawn(clip, frame, *([] if is_right else [box]), meant))
    save_palette(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("result", type=Path, help="of `vega3d evaluate --benchmark rooms-grounding`")
    parser.add_argument("--data", type=Path, help="folder of the rooms; those of the benchmark by default")
    parser.add_argument("--count", type=int, default=3, help="of right ones, and of wrong ones")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    arguments = parser.parse_args()
    chosen = rows(read_result(arguments.result), arguments.count, arguments.seed)
    folder = arguments.data or default_cache() / ROOMS.folder_name
    write_whole(arguments.picture, partial(draw, folder=folder, chosen=chosen))


if __name__ == "__main__":
    main()
