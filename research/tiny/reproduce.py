"""Everything from nothing: rooms, world simulator, image twin, analysis, stage 0, arms and seeds, tables, checkpoint.

Each step is a command of its own (`vega3d ...` or `python -m research.tiny...`), on whichever GPU has room for it;
the same call goes on where it was stopped or killed. `OUT/tasks` has the log of each, and how long it took.

CONFIGS=research/tiny/configs
python -m research.tiny.reproduce $CONFIGS/generator.yaml $CONFIGS/experiment.yaml --output runs/all --gpus 1 2 3 0 \\
    --workers 60 --furniture FURNITURE_OF_TEST_UNSEEN
python -m research.tiny.reproduce $CONFIGS/smoke_generator.yaml $CONFIGS/smoke.yaml --output runs/smoke   # on a CPU
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from research.tiny.simulator import read_generator_config
from research.tiny.simulator.rooms import rooms_until
from research.tiny.study.loop import Deadline, OutOfTimeError
from research.tiny.study.recipe import TRAIN, VALIDATION, Recipe, read_recipe
from research.tiny.study.runner import Experiment
from research.tiny.study.schedule import Schedule, Task
from vega3d.files import write_json
from vega3d.runs import check_same_settings
from vega3d_cli.common import parse_settings

HEAD_START = 400  # steps of the VAE whose rooms are there before it begins
CHOICE = "choice.json"
OWN_CELLS = {"random": "random", "image_twin": "image-twin"}  # arms whose cell is not that of the trained generator
FOLDERS = {
    "trained": "generator",
    "image_twin": "image-twin",
}  # names of recipes, and of `train-generator`


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=Path, help="recipe of the world simulator")
    parser.add_argument(
        "experiments", type=Path, nargs="+", help="recipes that share rooms and stage 0, in this order"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--gpus", nargs="*", default=[], help="as in CUDA_VISIBLE_DEVICES, the most preferred first")
    parser.add_argument("--at-once", type=int, default=2, help="tasks at a time without a GPU")
    parser.add_argument("--workers", type=int, help="processes that make rooms, for each of two tasks at a time")
    parser.add_argument("--arms", nargs="+", default=["semantic", "trained", "random", "image_twin"])
    parser.add_argument("--furniture", type=Path, help="pack of objects for test_unseen")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the world simulator")
    parser.add_argument("--sweep-rooms", type=int, nargs=2, default=[32, 64], help="to test and to train probes on")
    parser.add_argument("--sweep-size", type=int, help="edge of their frames [px]; that of the clips by default")
    parser.add_argument("--sweep-views", type=int, help="frames of each; those of a clip by default")
    parser.add_argument("--timesteps", default="100,300,500,700", help="that are swept")
    parser.add_argument("--max-minutes", type=float, help="after which all is stopped")
    parser.add_argument("--checkpoint", type=Path, help="folder to export the best seed into")
    return parser.parse_args()


class Plan:
    """The tasks of all stages, and what they leave in OUT."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.output = options, options.output
        self.simulator, self.analysis = self.output / "world-simulator", self.output / "analysis"
        self.recipes = [read_recipe(path) for path in options.experiments]
        self.settings = [*options.set, f"output={self.simulator}"]
        self.workers: list[str] = []
        if options.workers is not None:
            self.settings.append(f"rooms.workers={options.workers}")
            self.workers = ["--workers", str(options.workers)]
        self.generator = read_generator_config(options.generator, parse_settings(self.settings))
        self.device = "cuda" if options.gpus else "cpu"

    def claim(self) -> None:
        """Writes down which recipes OUT is of; raises ValueError if one of this name was another."""
        kept = self.output / "recipes"
        kept.mkdir(parents=True, exist_ok=True)
        simulator = self.generator.binding("vae") | self.generator.binding("dit")
        for name, settings in {
            "world-simulator": simulator,
            **{one.name: asdict(one) for one in self.recipes},
        }.items():
            path = kept / f"{name}.json"
            if path.is_file():
                check_same_settings(path, settings)
            else:
                write_json(path, settings)

    def has_training_rooms(self, recipe: Recipe) -> Callable[[], bool]:
        experiment = Experiment(recipe, self.output)
        return lambda: experiment.has_rooms(TRAIN) and experiment.has_rooms(VALIDATION)

    def train_generator(self, *arguments: str) -> list[str]:
        settings = [word for item in self.settings for word in ("--set", item)]
        return simulator("train-generator", str(self.options.generator), *arguments, *settings)

    def experiment(self, path: Path, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "research.tiny.study", str(path), *arguments]
        for name in read_recipe(path).generators:
            command += ["--generator", f"{name}={self.simulator / FOLDERS[name]}"]
        return [*command, "--output", str(self.output), "--device", self.device]

    def tasks(self) -> Iterator[Task]:
        yield from self.simulator_tasks()
        yield from self.analysis_tasks()
        for path, recipe in zip(self.options.experiments, self.recipes, strict=True):
            yield from self.arm_tasks(path, recipe)

    def simulator_tasks(self) -> Iterator[Task]:
        frames = self.simulator / "frames"
        rooms, steps = self.generator.rooms, min(HEAD_START, self.generator.vae.steps - 1)
        wanted = rooms.validation_rooms + rooms_until(self.generator.vae, rooms.walks, steps)
        yield Task("frames", self.train_generator("--stage", "rooms"))
        yield Task(
            "vae",
            self.train_generator("--stage", "vae"),
            load=1.0,
            is_ready=lambda: sum(1 for _ in frames.glob("*/*.npy")) >= wanted,
        )
        first, *_ = self.options.experiments
        furniture = [] if self.options.furniture is None else ["--furniture", str(self.options.furniture)]
        made = [*furniture, *self.workers, "--stages", "rooms"]
        largest = max(self.recipes, key=lambda recipe: recipe.rooms.test)
        path = self.options.experiments[self.recipes.index(largest)]
        yield Task("rooms", self.experiment(path, *made), ("frames",))
        stage0 = self.experiment(first, "--stages", "stage0")
        yield Task("stage0", stage0, load=1.0, is_ready=self.has_training_rooms(self.recipes[0]))
        yield Task("dit", self.train_generator("--stage", "dit"), ("vae", "frames"), load=1.0)
        yield Task("twin", self.train_generator("--stage", "dit", "--image-twin"), ("vae", "frames"), load=1.0)

    def analysis_tasks(self) -> Iterator[Task]:
        views = str(self.options.sweep_views or self.generator.rooms.clip_frames)
        for split, count in zip(("validation", "train"), self.options.sweep_rooms, strict=True):
            frames = ["--size", str(self.options.sweep_size or self.generator.rooms.size), "--num-frames", views]
            command = vega3d("synthesize", str(self.analysis / split), "--split", split, *frames)
            command += ["--scenes", str(count), *self.workers]
            yield Task(f"analysis-{split}", command, ("rooms",))
        made = ("analysis-validation", "analysis-train")
        for name, mode, trained, controls in (
            ("generator", "views", "dit", "random,vae,noise"),
            ("image-twin", "frame", "twin", "random"),
        ):
            rooms = ["--data", str(self.analysis / "validation"), "--train-data", str(self.analysis / "train")]
            cells = ["--timestep", self.options.timesteps, "--mode", mode, "--controls", controls]
            probes = ["--views", views, "--probes"]
            output = ["--output", str(self.analysis / name)]
            command = vega3d("analyze", "sweep", *output, str(self.simulator / name), *rooms, *cells, *probes)
            yield Task(f"sweep-{name}", command, (trained, *made), load=0.5)
        twin = f"image-twin={self.analysis / 'image-twin'}"
        choose = vega3d("analyze", "choose", str(self.analysis / "generator"), "--against", twin)
        yield Task(
            "choice", [*choose, "--output", str(self.analysis / CHOICE)], ("sweep-generator", "sweep-image-twin")
        )
        pictures = simulator("sample", str(self.simulator / "generator"), "--output", str(self.output / "samples"))
        yield Task("samples", pictures, ("dit",), load=0.2)

    def arm_tasks(self, path: Path, recipe: Recipe) -> Iterator[Task]:
        arms = [name for name in self.options.arms if name in recipe.arms]
        tokens, base = f"{recipe.name}-tokens", f"{recipe.name}-base"
        command = self.experiment(path, "--stages", "tokens")
        is_ready, first = self.has_training_rooms(recipe), [*command, "--splits", TRAIN, VALIDATION]
        yield Task(f"{tokens}-train", first, ("stage0",), load=0.5, is_ready=is_ready)
        yield Task(tokens, command, ("rooms", f"{tokens}-train"), load=0.5)
        begins_with: tuple[str, ...] = (tokens,)
        if recipe.base is not None:
            yield Task(base, self.experiment(path, "--stages", "base"), (f"{tokens}-train",), load=1.0)
            begins_with += (base,)
        trainings = []
        for arm in arms:
            needs = begins_with
            if recipe.arms[arm].generator is not None:
                streams = f"{recipe.name}-streams-{arm}"
                made = partial(self.arm_command, path, arm, "streams")
                yield Task(streams, made, ("rooms", "stage0", "choice"), load=0.5)
                needs += (streams,)
            for seed in recipe.seeds:
                name = f"{recipe.name}-{arm}-{seed}"
                trained = partial(self.arm_command, path, arm, "arms", "--seeds", str(seed))
                trainings.append(name)
                yield Task(name, trained, needs, load=0.2)
        last = partial(self.chosen_command, path, "--arms", *arms, "--stages", "tables", "gates")
        yield Task(f"{recipe.name}-tables", last, tuple(trainings), load=0.2)
        if self.options.checkpoint is not None and path == self.options.experiments[-1]:
            export = ["--stages", "export", "--checkpoint", str(self.options.checkpoint)]
            yield Task("export", partial(self.chosen_command, path, *export), (f"{recipe.name}-tables",), load=0.2)

    def arm_command(self, path: Path, arm: str, stage: str, *arguments: str) -> list[str]:
        return self.chosen_command(path, "--arms", arm, "--stages", stage, *arguments)

    def chosen_command(self, path: Path, *arguments: str) -> list[str]:
        """With the cells that the analysis chose, once it has."""
        chosen, cells = self.analysis / CHOICE, []
        if chosen.is_file():
            found = json.loads(chosen.read_text(encoding="utf-8"))["cells"]
            for arm in read_recipe(path).arms:
                cell = found[OWN_CELLS.get(arm, "own")]
                cells += ["--cell", f"{arm}={cell['block']},{cell['timestep']}"]
        return self.experiment(path, *arguments, *cells)


def vega3d(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vega3d_cli", *arguments]


def simulator(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "research.tiny.simulator", *arguments]


def main() -> None:
    options = parse()
    started = time.monotonic()

    def tell(values: dict) -> None:
        print(json.dumps({"second": round(time.monotonic() - started, 1), **values}), flush=True)

    deadline = Deadline(None if options.max_minutes is None else 60 * options.max_minutes)
    try:
        plan = Plan(options)
        plan.claim()
        tasks = list(plan.tasks())
        Schedule(tasks, options.output / "tasks", options.gpus, options.at_once, deadline, tell).run()
    except OutOfTimeError as stopped:
        print(json.dumps({"out_of_time": str(stopped), "next": "the same command goes on"}))
        sys.exit(3)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
