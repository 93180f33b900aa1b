"""Steps a second of an arm's training on one GPU: plain layers with a mask, and compiled ones that skip blocks.

python -m research.tiny.benchmarks.study research/tiny/configs/study.yaml --output runs/bench --workers 15 --rooms 16

Rooms, tower and streams are made on the way, of a few rooms, at the sizes of the recipe.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from research.tiny.study.experiment import Experiment
from research.tiny.study.recipe import TRAIN, VALIDATION, Recipe, read_recipe

STEPS, COUNTED_FROM = 120, 60  # before, kernels are chosen and compiled
WAYS = {"plain": False, "compiled": True}


def steps_a_second(recipe: Recipe, options: argparse.Namespace, way: str) -> tuple[float, float]:
    """Steps a second of an arm, and the loss of the last."""
    times: list[tuple[int, float]] = []
    losses: list[float] = []

    def tell(values: dict) -> None:
        if "step" in values and "arm" not in values:
            torch.cuda.synchronize()
            times.append((values["step"], time.perf_counter()))
            losses.append(values["loss"])

    training = replace(recipe.training, steps=STEPS, compile=WAYS[way])
    recipe = replace(recipe, name=f"{recipe.name}-{way}", training=training)
    experiment = Experiment(recipe, options.output, "cuda", workers=options.workers, tell=tell)
    experiment.make_rooms([TRAIN, VALIDATION])
    experiment.tower()
    times.clear()
    experiment.train_arm(options.arm)
    counted = [(step, second) for step, second in times if step >= COUNTED_FROM]
    (first, began), (last, ended) = counted[0], counted[-1]
    return (last - first) / (ended - began), losses[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder that is not there yet")
    parser.add_argument("--arm", default="oracle")
    parser.add_argument("--rooms", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("There is no GPU, and without one layers are not compiled. Use a machine with one.")
    recipe = read_recipe(options.recipe)
    rooms = replace(recipe.rooms, train=options.rooms, validation=2, test=0, test_unseen=0)
    recipe = replace(recipe, rooms=rooms, tower=replace(recipe.tower, steps=20), seeds=[0])
    found = {}
    for way in WAYS:
        found[way], loss = steps_a_second(recipe, options, way)
        print(json.dumps({"way": way, "steps_a_second": round(found[way], 2), "loss": round(loss, 4)}), flush=True)
    print(json.dumps({"ratio": round(found["compiled"] / found["plain"], 2)}))


if __name__ == "__main__":
    main()
