"""Everything from nothing: rooms, world simulator, twin, vision tower, arms and seeds, tables, boxes, checkpoint.

Each step is a command of its own with a log of its own, OUT/logs/STEP.log. A step starts as soon as those that it
needs are done and a card is free; the same call goes on where it was stopped or killed.

CONFIGS=research/tiny/configs
python -m research.tiny.reproduce $CONFIGS/generator.yaml $CONFIGS/study.yaml --output runs/all --device cuda \\
    --cards 2 --workers 28
python -m research.tiny.reproduce $CONFIGS/smoke_generator.yaml $CONFIGS/smoke.yaml --output runs/smoke   # on a CPU
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from research.steps import Runner, Step
from research.tiny.study.recipe import Recipe, read_recipe

FOLDERS = {"trained": "generator", "twin": "image-twin"}  # names of recipes, and of `train-generator`


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=Path, help="config of the world simulator")
    parser.add_argument("recipe", type=Path, help="of the study")
    parser.add_argument("--grounding", type=Path, help="recipe of boxes that go on from the arms of the study")
    parser.add_argument("--output", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--cards", type=int, default=1, help="steps that train at the same time, each on a card")
    parser.add_argument("--trainings-per-card", type=int, default=1, help="steps that share a card")
    parser.add_argument("--workers", type=int, default=1, help="processes that make rooms")
    parser.add_argument("--arms", nargs="+", help="arms to train, in this order; all of the recipe by default")
    parser.add_argument("--seeds", nargs="+", type=int, help="the recipe's by default")
    parser.add_argument("--vae", type=Path, help="folder of a trained VAE, in place of a training")
    parser.add_argument("--tower", type=Path, help="folder of a VLM with a trained tower, in place of a training")
    parser.add_argument(
        "--generator",
        dest="generators",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="trained, in place of a training",
    )
    parser.add_argument("--trim", type=int, help="blocks of the generators to keep; the last one is read")
    parser.add_argument("--furniture", type=Path, help="pack of objects for test_unseen")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the world simulator")
    parser.add_argument("--checkpoint", type=Path, help="folder to export the best seed of `trained` into")
    return parser.parse_args()


def steps(options: argparse.Namespace, recipe: Recipe) -> Iterator[Step]:
    """All steps; a step needs those alone that come before it."""
    arms = options.arms or list(recipe.arms)
    given = given_generators(options)
    trained = [name for name in streams_of(recipe, arms) if name not in given]
    if trained:
        yield from simulator_steps(options, trained)
    study = study_command(options, options.recipe, recipe, arms)
    study += ["--set", "rooms.with_grounding=true"] if options.grounding else []
    yield Step("study-rooms", [*study, "--stages", "rooms"], ["simulator-rooms"] if trained else [])
    yield Step("tower", [*study, "--stages", "tower"], ["study-rooms"], on_card=True)
    needs = {arm: ["tower", *(f"read-{name}" for name in trained if name == recipe.arms[arm].stream)] for arm in arms}
    groups = list(arms_together(needs, options.cards * options.trainings_per_card))
    for group in groups:
        command = [*study, "--stages", "arms", "--arms", *group]
        yield Step(f"arms-{'-'.join(group)}", command, needs[group[0]], on_card=True)
    done = [f"arms-{'-'.join(group)}" for group in groups]
    yield Step("tables", [*study, "--stages", "tables", "--arms", *arms], done, on_card=True)
    if options.grounding is not None:
        step_of = {arm: step for group, step in zip(groups, done, strict=True) for arm in group}
        yield from grounding_steps(options, step_of)
    if options.checkpoint is not None and not options.checkpoint.exists():
        export = ["--stages", "export", "--checkpoint", str(options.checkpoint)]
        yield Step("export", [*study, *export], ["tables"], on_card=True)


def streams_of(recipe: Recipe, arms: list[str]) -> list[str]:
    """The generators that some arms read."""
    return [name for name in FOLDERS if name in {recipe.arms[arm].stream for arm in arms}]


def study_command(options: argparse.Namespace, file: Path, recipe: Recipe, arms: list[str]) -> list[str]:
    """`research.tiny.study` without its stages."""
    command = ["research.tiny.study", str(file), "--output", str(options.output), "--device", options.device]
    command += ["--workers", str(options.workers)]
    for name in streams_of(recipe, arms):
        folder = given_generators(options).get(name, generator_folder(options, name))
        command += ["--generator", f"{name}={folder}"]
    command += ["--furniture", str(options.furniture)] if options.furniture else []
    return command + (["--seeds", *map(str, options.seeds)] if options.seeds else [])


def grounding_steps(options: argparse.Namespace, step_of: dict[str, str]) -> Iterator[Step]:
    """The arms of a recipe of boxes that go on from arms of the study, each after the step that trains its own."""
    recipe = read_recipe(options.grounding)
    starts = {arm: recipe.first_with_stream(arm) for arm in recipe.arms}
    arms = [arm for arm in recipe.arms if starts[arm] in step_of]
    command = study_command(options, options.grounding, recipe, arms)
    going = {starts[arm]: [one for one in arms if starts[one] == starts[arm]] for arm in arms}
    for start, alike in going.items():
        yield Step(f"boxes-{start}", [*command, "--stages", "arms", "--arms", *alike], [step_of[start]], on_card=True)
    needs = [f"boxes-{start}" for start in going]
    yield Step("boxes-tables", [*command, "--stages", "tables", "--arms", *arms], needs, on_card=True)


def arms_together(needs: dict[str, list[str]], places: int) -> Iterator[list[str]]:
    """Arms that wait for the same steps, a process for each place: it reads rows and compiles layers once."""
    for wanted in dict.fromkeys(map(tuple, needs.values())):
        alike = [arm for arm in needs if tuple(needs[arm]) == wanted]
        yield from (alike[first::places] for first in range(min(places, len(alike))))


def given_generators(options: argparse.Namespace) -> dict[str, str]:
    return {name: folder for name, _, folder in (given.partition("=") for given in options.generators)}


def simulator_steps(options: argparse.Namespace, streams: list[str]) -> Iterator[Step]:
    """Rooms, VAE and the generators of some streams; `read-NAME` ends with the generator that the study reads."""
    settings = [*options.set, f"output={simulator(options)}", f"rooms.workers={options.workers}"]
    train = ["research.tiny.simulator", "train-generator", str(options.generator)]
    train += [word for setting in settings for word in ("--set", setting)]
    yield Step("simulator-rooms", [*train, "--stage", "rooms"])
    if options.vae is None:
        yield Step("vae", [*train, "--stage", "vae"], ["simulator-rooms"], on_card=True)
    vae = "simulator-rooms" if options.vae else "vae"
    for name in streams:
        twin = ["--image-twin"] if name == "twin" else []
        last = f"{'dit' if options.trim else 'read'}-{name}"
        yield Step(last, [*train, "--stage", "dit", *twin], [vae], on_card=True)
        if options.trim:
            whole, trimmed = simulator(options) / FOLDERS[name], generator_folder(options, name)
            trim = ["research.tiny.simulator", "trim", str(whole), str(trimmed), "--blocks", str(options.trim)]
            yield Step(f"read-{name}", [] if trimmed.exists() else trim, [last])


def simulator(options: argparse.Namespace) -> Path:
    return options.output / "world-simulator"


def generator_folder(options: argparse.Namespace, name: str) -> Path:
    """The generator that the study reads for a stream of the recipe."""
    folder = simulator(options) / FOLDERS[name]
    return folder.with_name(f"{folder.name}-read") if options.trim else folder


def reuse(trained: Path, *targets: Path) -> None:
    """Copies what is trained already to where the next steps look for it."""
    for target in targets:
        if not target.exists():
            shutil.copytree(trained, target)


def main() -> None:
    options = parse()
    for option, places in (("--cards", options.cards), ("--trainings-per-card", options.trainings_per_card)):
        if places < 1:
            sys.exit(f"error: {option} is {places}, but one step at a time is the least.")
    for option, folder in (("--vae", options.vae), ("--tower", options.tower)):
        if folder is not None and not (folder / "config.json").is_file():
            sys.exit(f"error: {option} {folder} has no config.json. Name the folder of a trained one.")
    for name, folder in given_generators(options).items():
        if name not in FOLDERS or not (Path(folder) / "transformer" / "config.json").is_file():
            sys.exit(
                f"error: --generator {name}={folder}: give one of {', '.join(FOLDERS)}, and a generator's folder."
            )
    recipe = read_recipe(options.recipe)
    unknown = [arm for arm in options.arms or [] if arm not in recipe.arms]
    if unknown:
        sys.exit(f"error: --arms names {unknown}, but the recipe has {list(recipe.arms)}.")
    logs = options.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if options.vae is not None:
        reuse(options.vae, *(simulator(options) / folder / "vae" for folder in FOLDERS.values()))
    if options.tower is not None:
        reuse(options.tower, options.output / "tower" / "model")
    planned = list(steps(options, recipe))
    sys.exit(Runner(planned, options.cards, options.device, logs, options.trainings_per_card).run())


if __name__ == "__main__":
    main()
