"""A study, stage after stage; the same command goes on where it was stopped or killed.

python -m research.tiny.study research/tiny/configs/study.yaml --output runs/study --device cuda \\
    --workers 15 --max-minutes 9.5 --stages rooms tower arms tables
python -m research.tiny.study research/tiny/configs/study.yaml --output runs/study --stages export \\
    --arm trained --checkpoint runs/vega3d-tiny
python -m research.tiny.study research/tiny/configs/study.yaml --output runs/study --stages wordings \\
    --arms trained --splits validation
"""

import argparse
import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

from research.tiny.study.experiment import POINTS, Experiment
from research.tiny.study.export import export
from research.tiny.study.found_boxes import WAYS, box_table, box_values
from research.tiny.study.held_out import CONDITIONS, TRAINED, wording_table
from research.tiny.study.loop import LOOKED_AT_EVERY, Deadline, OutOfTimeError
from research.tiny.study.name_errors import name_table, name_values
from research.tiny.study.point_table import point_table, point_values
from research.tiny.study.recipe import TEST_SPLITS, VALIDATION, Recipe, read_recipe
from research.tiny.study.table import (
    archive,
    experiment_values,
    markdown,
    paired_values,
    read_results,
    write_report,
    write_tables,
)
from vega3d.files import write_json, write_whole
from vega3d_cli.common import parse_settings

STAGES = ("rooms", "tower", "arms", "tables", "wordings", "export")
TOLD_EVERY = 100  # steps


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file; see research.tiny.study.recipe.Recipe.")
    parser.add_argument("--output", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES[:4]))
    parser.add_argument("--arms", nargs="+", help="arms to train and evaluate; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds to train and evaluate; the recipe's by default")
    parser.add_argument("--splits", nargs="+", help="to make and evaluate; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that make rooms")
    parser.add_argument("--max-minutes", type=float, help="after which it stops with a checkpoint")
    parser.add_argument("--furniture", type=Path, help="pack of objects for test_unseen")
    parser.add_argument(
        "--generator", action="append", default=[], metavar="NAME=FOLDER", help="in the recipe's place"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the recipe, as rooms.train=1600"
    )
    parser.add_argument("--arm", default="trained", help="to export")
    parser.add_argument("--checkpoint", type=Path, help="folder to export into")
    parser.add_argument("--name", default="vega3d-tiny", help="of the exported model")
    parser.add_argument("--notice", help="what the exported model says about itself with every answer")
    return parser.parse_args()


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says in its place.

    Raises:
        ValueError: for a generator, an arm, a seed or a split that the recipe does not have.
    """
    settings = parse_settings(options.set)
    recipe = read_recipe(options.recipe, settings)
    folders = {name: value for name, _, value in (item.partition("=") for item in options.generator)}
    seeds = options.seeds or recipe.seeds
    known = {
        "--generator": (folders, recipe.generators),
        "--seeds": (seeds, recipe.seeds),
        "--arms": (options.arms or [], recipe.arms),
        "--arm": ([options.arm] if options.checkpoint else [], recipe.arms),
    }
    for option, (given, there) in known.items():
        unknown = [value for value in given if value not in there]
        if unknown:
            raise ValueError(f"{option} names {unknown}, but the recipe has {list(there)}.")
    return read_recipe(options.recipe, {**settings, "generators": {**recipe.generators, **folders}, "seeds": seeds})


def run(options: argparse.Namespace) -> None:
    started = time.monotonic()

    def tell(values: dict) -> None:
        if "gradient" in values and "arm" not in values and values["step"] % TOLD_EVERY >= LOOKED_AT_EVERY:
            return
        print(json.dumps({"second": round(time.monotonic() - started, 1), **values}), flush=True)

    recipe = recipe_of(options)
    deadline = Deadline(None if options.max_minutes is None else 60 * options.max_minutes)
    experiment = Experiment(recipe, options.output, options.device, deadline, options.workers, options.furniture, tell)
    arms, splits = options.arms or list(recipe.arms), options.splits or experiment.splits
    if not set(splits) <= set(experiment.splits):
        raise ValueError(f"--splits are {splits}, but the recipe has {experiment.splits}.")
    evaluated = [split for split in (VALIDATION, *TEST_SPLITS) if split in splits]
    if "arms" in options.stages:
        for arm, seed in itertools.product(arms, recipe.seeds):
            if not (experiment.run_folder(arm, seed) / POINTS).is_file():
                experiment.start_folder(arm, seed)  # rooms take long: what is missing is told before
    if "rooms" in options.stages:
        experiment.make_rooms(splits)
    if "tower" in options.stages:
        experiment.tower()
        for split in splits:  # read here, so that arms that start at the same time do not all compute it
            experiment.fill(split, None)
    if "arms" in options.stages:
        for arm, seed in itertools.product(arms, recipe.seeds):
            experiment.train_arm(arm, [seed])
            for split in evaluated:
                if recipe.grounding is not None:
                    experiment.ground_arm(arm, split, [seed])
                experiment.evaluate_arm(arm, split, seeds=[seed])
    if "tables" in options.stages:
        tables(experiment, arms, evaluated)
    if "wordings" in options.stages:
        wordings(experiment, arms, evaluated)
    if "export" in options.stages:
        if options.checkpoint is None:
            raise ValueError("The stage export needs --checkpoint, a folder that is not there yet.")
        tell(export(experiment, options.arm, options.checkpoint, options.name, notice=options.notice))


def tables(experiment: Experiment, arms: list[str], splits: list[str]) -> None:
    recipe = experiment.recipe
    results = {split: read_results(experiment.results_folder(split), arms, recipe.seeds) for split in splits}
    controls = [arm for arm in arms if arm != "trained"]
    name_alone = {split: experiment.name_alone(split) for split in splits}
    void = experiment.void_runs(arms)
    values = experiment_values(recipe.name, results, name_alone, recipe.seeds, controls, void)
    write_tables(experiment.own, values)
    archive(experiment.own)
    points = point_values(experiment.point_errors(arms), controls)
    write_json(experiment.own / "points.json", points)
    write_whole(experiment.own / "points.md", partial(Path.write_text, data=point_table(points)))
    print(markdown(values), point_table(points), sep="\n")
    if recipe.answers == "words":
        names = {split: name_values(found, experiment.data(split).rows, controls) for split, found in results.items()}
        write_report(experiment.own / "names", names, name_table)
    if recipe.grounding is not None:
        boxes = {split: boxes_found(experiment, arms, split, controls) for split in splits}
        write_report(experiment.own / "grounding", boxes, box_table)


def boxes_found(experiment: Experiment, arms: list[str], split: str, controls: list[str]) -> dict[str, dict]:
    """`found_boxes.box_values` of a split, by benchmark and proposals."""
    values = {}
    for benchmark, source in WAYS:
        name = f"{benchmark} {source}"
        results = read_results(experiment.results_folder(split, name), arms, experiment.recipe.seeds)
        baselines = experiment.grounding_baselines(split, benchmark, source)
        values[name] = box_values(results, baselines, controls, benchmark)
    return values


def wordings(experiment: Experiment, arms: list[str], splits: list[str]) -> None:
    """Asks the questions of some splits as people type them, and writes what held-out wordings cost."""
    for arm, split, condition in itertools.product(arms, splits, CONDITIONS):
        experiment.evaluate_arm(arm, split, condition)
    values: dict[str, dict[str, dict]] = {}
    for split in splits:
        folders = {condition: experiment.results_folder(split, condition) for condition in CONDITIONS}
        found = {name: read_results(folder, arms, experiment.recipe.seeds) for name, folder in folders.items()}
        columns = {arm: {condition: found[condition][arm] for condition in CONDITIONS} for arm in arms}
        values[split] = {arm: paired_values(results, [TRAINED], "official") for arm, results in columns.items()}
    write_report(experiment.own / "wordings", values, wording_table)


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
