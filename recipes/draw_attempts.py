"""Draws attempts of a policy in Meta-World: a row of frames each, from the first to the last, and how it came out.

python recipes/draw_attempts.py docs/results/attempts.webp vega3d-metaworld window-open-v3:1000 coffee-button-v3:1001
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from palette import save_palette

from vega3d import VegaForActionPrediction
from vega3d.files import write_whole
from vega3d.hub.load import load_task
from vega3d.inference.acting import Attempt, watch_episode
from vega3d.robotics.metaworld import MetaWorldEnvironment
from vega3d_cli.act import largest_side

SHOWN, MOST_STEPS = 6, 200


def draw(path: Path, attempts: list[tuple[str, Attempt]]) -> None:
    figure = pyplot.figure(figsize=(1.5 * SHOWN, 1.75 * len(attempts)), layout="constrained")
    rows = np.atleast_1d(figure.subfigures(len(attempts), 1))
    for row, (name, attempt) in zip(rows, attempts, strict=True):
        assert attempt.episode is not None
        words, colour = ("done", "darkgreen") if attempt.episode.success else ("FAILED", "firebrick")
        row.suptitle(
            f"{name}: {words} after {attempt.episode.steps} steps", fontsize=9, color=colour, x=0.01, ha="left"
        )
        [frames] = attempt.frames.values()
        chosen = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
        for axis, step in zip(row.subplots(1, SHOWN), chosen, strict=True):
            axis.imshow(frames[step])
            axis.set_axis_off()
    save_palette(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("policy", help="a model's name or folder, with one camera")
    parser.add_argument("states", nargs="+", metavar="TASK:SEED")
    arguments = parser.parse_args()
    model, processor = load_task(VegaForActionPrediction, arguments.policy, device="cpu")
    attempts = []
    for state in arguments.states:
        task, _, seed = state.partition(":")
        views = tuple(model.config.action_cameras)
        with MetaWorldEnvironment(task, largest_side(processor), views) as environment:
            attempts.append((state, watch_episode(environment, model, processor, int(seed), MOST_STEPS)))
    write_whole(arguments.output, partial(draw, attempts=attempts))


if __name__ == "__main__":
    main()
