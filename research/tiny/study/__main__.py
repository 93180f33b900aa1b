"""The controlled experiment, stage after stage; the same command goes on where it was stopped or killed.

python -m research.tiny.study research/tiny/configs/experiment.yaml --output runs/experiment --device cuda \\
    --workers 15 --max-minutes 9.5 --stages rooms stage0 arms tables
python -m research.tiny.study research/tiny/configs/experiment.yaml --output runs/experiment --stages export \\
    --arm trained --checkpoint runs/vega3d-tiny
"""

import argparse
import json
import sys
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from research.tiny.study.export import export
from research.tiny.study.gates import draw_gates
from research.tiny.study.loop import LOOKED_AT_EVERY, Deadline, OutOfTimeError
from research.tiny.study.point_table import point_table, point_values
from research.tiny.study.recipe import TEST_SPLITS, VALIDATION, ArmRecipe, Recipe, read_recipe
from research.tiny.study.runner import Experiment, load_arm
from research.tiny.study.table import archive, experiment_values, markdown, read_results, write_tables
from vega3d.files import write_json, write_whole

STAGES = ("rooms", "stage0", "tokens", "streams", "base", "arms", "tables", "gates", "export")
GATE_PICTURES = 3
TOLD_EVERY = 100  # steps


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file; see research.tiny.study.recipe.Recipe.")
    parser.add_argument("--output", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES[:7]))
    parser.add_argument("--arms", nargs="+", help="arms to train and evaluate; all by default")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="seeds to train and evaluate; those of the recipe by default"
    )
    parser.add_argument(
        "--cell",
        action="append",
        default=[],
        metavar="ARM=BLOCK,TIMESTEP",
        help="that it reads, in the recipe's place",
    )
    parser.add_argument("--splits", nargs="+", help="of the stages tokens and streams; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that make rooms")
    parser.add_argument("--max-minutes", type=float, help="after which it stops with a checkpoint")
    parser.add_argument("--furniture", type=Path, help="pack of objects for test_unseen")
    parser.add_argument(
        "--generator", action="append", default=[], metavar="NAME=FOLDER", help="in the recipe's place"
    )
    parser.add_argument("--arm", default="trained", help="to export")
    parser.add_argument("--checkpoint", type=Path, help="folder to export into")
    parser.add_argument("--name", default="vega3d-tiny", help="of the exported model")
    parser.add_argument("--notice", help="what the exported model says about itself with every answer")
    return parser.parse_args()


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says in its place.

    Raises:
        ValueError: for a generator, an arm or a seed that the recipe does not have, or a cell that is none.
    """
    recipe = read_recipe(options.recipe)
    folders = given_for("--generator", options.generator, recipe.generators)
    cells = given_for("--cell", options.cell, recipe.arms)
    seeds = options.seeds or recipe.seeds
    if not set(seeds) <= set(recipe.seeds):
        raise ValueError(f"--seeds are {seeds}, but the recipe has {recipe.seeds}.")
    arms = {name: asdict(with_cell(arm, cells.get(name))) for name, arm in recipe.arms.items()}
    return read_recipe(options.recipe, {"generators": {**recipe.generators, **folders}, "seeds": seeds, "arms": arms})


def given_for(option: str, items: list[str], known: Collection[str]) -> dict[str, str]:
    """The values of `NAME=VALUE` by name; raises ValueError for names that are not known."""
    values = {name: value for name, _, value in (item.partition("=") for item in items)}
    if values.keys() - set(known):
        raise ValueError(f"{option} names {', '.join(values.keys() - set(known))}, but the recipe has {list(known)}.")
    return values


def with_cell(arm: ArmRecipe, cell: str | None) -> ArmRecipe:
    """Block and timestep, where the arm has them, are those given."""
    if cell is None:
        return arm
    numbers = cell.split(",")
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        raise ValueError(f"--cell gives {cell!r} to an arm, but must give BLOCK,TIMESTEP, such as 5,300.")
    given = dict(zip(("block", "timestep"), map(int, numbers), strict=True))
    chosen = {name: value for name, value in given.items() if name in arm.options}
    return replace(arm, options={**arm.options, **chosen})


def run(options: argparse.Namespace) -> None:
    started = time.monotonic()

    def tell(values: dict) -> None:
        if "gradient" in values and "arm" not in values and values["step"] % TOLD_EVERY >= LOOKED_AT_EVERY:
            return
        print(json.dumps({"second": round(time.monotonic() - started, 1), **values}), flush=True)

    recipe = recipe_of(options)
    deadline = Deadline(None if options.max_minutes is None else 60 * options.max_minutes)
    experiment = Experiment(recipe, options.output, options.device, deadline, options.workers, options.furniture, tell)
    arms = options.arms or list(recipe.arms)
    splits = [split for split in (VALIDATION, *TEST_SPLITS) if split in experiment.splits]
    streamed = options.splits or experiment.splits
    if not set(streamed) <= set(experiment.splits):
        raise ValueError(f"--splits are {streamed}, but the recipe has {experiment.splits}.")
    if "rooms" in options.stages:
        experiment.make_rooms()
    if "stage0" in options.stages:
        experiment.stage0()
    if "tokens" in options.stages:
        for split in streamed:
            experiment.fill_streams(split, None)
    if "streams" in options.stages:
        for arm in arms:
            if recipe.arms[arm].generator is not None:
                for split in streamed:
                    experiment.fill_streams(split, arm)
    if "base" in options.stages:
        experiment.base()
    if "arms" in options.stages:
        for arm in arms:
            experiment.train_arm(arm)
            for split in splits:
                experiment.evaluate_arm(arm, split)
    if "tables" in options.stages:
        tables(experiment, arms, splits)
    if "gates" in options.stages:
        gates(experiment, arms)
    if "export" in options.stages:
        if options.checkpoint is None:
            raise ValueError("The stage export needs --checkpoint, a folder that is not there yet.")
        tell(export(experiment, options.arm, options.checkpoint, options.name, notice=options.notice))


def tables(experiment: Experiment, arms: list[str], splits: list[str]) -> None:
    recipe = experiment.recipe
    results = {split: read_results(experiment.own / "results" / split, arms, recipe.seeds) for split in splits}
    controls = [arm for arm in arms if arm != "trained"]
    values = experiment_values(recipe.name, results, recipe.seeds, controls)
    write_tables(experiment.own, values)
    archive(experiment.own)
    points = point_values(experiment.point_errors(arms), controls)
    write_json(experiment.own / "points.json", points)
    write_whole(experiment.own / "points.md", partial(Path.write_text, data=point_table(points)))
    print(markdown(values), point_table(points), sep="\n")


def gates(experiment: Experiment, arms: list[str]) -> None:
    """Maps of the first seed of each arm over validation rooms."""
    seed, figures, folder = experiment.recipe.seeds[0], {}, experiment.own / "gates"
    folder.mkdir(parents=True, exist_ok=True)
    for arm in arms:
        model = experiment.model_of(arm, seed).eval()
        load_arm(model, experiment.run_folder(arm, seed))
        data, streams = experiment.data(VALIDATION, 1), experiment.streams(VALIDATION, arm)
        figures[arm] = draw_gates(model, streams, data, experiment.tools(), folder, arm, GATE_PICTURES)
    write_json(folder / "figures.json", figures)
    print(json.dumps({"gates": figures}))


def main() -> None:
    try:
        run(parse())
    except OutOfTimeError as stopped:
        print(json.dumps({"out_of_time": str(stopped), "next": "the same command goes on"}))
        sys.exit(3)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
