"""The study of a generator in a policy: its recipe, and the commands of which it consists."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from research.steps import Step
from vega3d.configs import check_range, make_settings, read_settings, shown
from vega3d.files import LOCK, is_free, read_json, write_json
from vega3d.robotics.closed_loop import BASELINES
from vega3d.robotics.metaworld import FIRST_SEED, check_task
from vega3d.runs import check_same_run
from vega3d.training.config import WITHOUT_EFFECT, TrainingConfig, make_config

COMMAND = "recipes.metaworld"
STAGES = ("demonstrations", "train", "evaluate", "rate", "tables")
DEMONSTRATIONS, MODELS, FEATURES, POLICIES, RESULTS = "demonstrations", "models", "features", "policies", "results"
TRAINING = "training"  # folder of the configs of `vega3d train`
FOLDERS = (DEMONSTRATIONS, MODELS, TRAINING, FEATURES, POLICIES, RESULTS)
MISSING = {"none": ("gate", "projector"), "add": ("gate",), "generative_only": ("gate",)}  # parts, by fusion
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class DemonstrationsRecipe:
    """What `demonstrations` records."""

    tasks: tuple[str, ...]
    episodes: int = 50  # of each task
    views: tuple[str, ...] = ("front", "wrist")
    size: int = 128  # side of the images [px]
    noise: float = 0.2  # added to the expert's actions
    every: int = 4  # steps from one image to the next
    most_steps: int = 300  # after which the expert has failed
    renderer: Literal["egl", "osmesa", "glfw"] = "egl"

    def __post_init__(self):
        check_range(self, "episodes", "every", "most_steps", least=1)
        for task in self.tasks:
            check_task(task)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks are {shown(self.tasks)}, but must name at least one, each once.")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """What `evaluate` measures of each policy."""

    episodes: int = 20  # of each task
    seed: int = FIRST_SEED  # of the first initial state
    most_steps: int = 300  # after which an episode has failed
    execute: int | None = None  # actions of a chunk before the next query; None for all
    baselines: tuple[str, ...] = ()  # of `BASELINES`, measured once on the same initial states

    def __post_init__(self):
        check_range(self, "episodes", "most_steps", "execute", least=1)
        check_range(self, "most_steps", most=500)
        check_range(self, "seed", least=FIRST_SEED)
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown:
            raise ValueError(f"baselines name {unknown}, but there are {', '.join(BASELINES)}.")


@dataclass(frozen=True, kw_only=True)
class ArmRecipe:
    """One of the models that are compared."""

    options: dict[str, Any] = field(default_factory=dict)  # of `assemble`, in place of the study's
    seeds: tuple[int, ...] | None = None  # in place of the study's


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    """A study: arms that differ in their generator alone, trained on the same demonstrations and measured alike."""

    demonstrations: DemonstrationsRecipe
    arms: dict[str, ArmRecipe]
    training: dict[str, Any]  # settings of `vega3d train`, the same for all arms
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    generator: str = "vega3d-tiny"  # fused model whose generator is read
    options: dict[str, Any] = field(default_factory=dict)  # of `assemble`: fusion, block, timestep, clip_mode, family
    seeds: tuple[int, ...] = (0, 1, 2)  # of the first weights and of the order of rows, shared by all arms
    pairs: tuple[tuple[str, ...], ...] = ()  # of arms: (a, b) is b - a
    trainings_per_card: int = 1  # at the same time

    def __post_init__(self):
        check_range(self, "trainings_per_card", least=1)
        if not self.arms:
            raise ValueError("arms names nothing to train.")
        for name in self.arms:
            if not NAME.fullmatch(name):
                raise ValueError(f"The arm {shown(name)} names files. Use letters, digits, '_', '.' and '-'.")
            seeds = self.arm_seeds(name)
            if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
                raise ValueError(f"The seeds of {name!r} are {shown(seeds)}: give numbers from 0 up, each once.")
        for pair in self.pairs:
            if len(pair) != 2 or not set(pair) <= self.arms.keys() or not self.shared_seeds(pair):
                raise ValueError(
                    f"pairs have {list(pair)}, but each must be two of the arms {list(self.arms)} that share a seed."
                )

    def arm_seeds(self, arm: str) -> tuple[int, ...]:
        own = self.arms[arm].seeds
        return self.seeds if own is None else own

    def shared_seeds(self, pair: tuple[str, ...]) -> list[int]:
        first, second = (self.arm_seeds(arm) for arm in pair)
        return [seed for seed in first if seed in second]

    def arm_options(self, arm: str) -> dict[str, Any]:
        """Options of `assemble`; an arm without fusion has no others."""
        options = {**self.options, **self.arms[arm].options}
        return {"fusion": "none"} if options.get("fusion") == "none" else options

    def is_fused(self, arm: str) -> bool:
        return self.arm_options(arm).get("fusion") != "none"

    def features_of(self, arm: str) -> str:
        """The first arm that reads the same features: only how they are fused may differ."""
        return next(other for other in self.arms if self.is_fused(other) and self.reads(other) == self.reads(arm))

    def reads(self, arm: str) -> dict[str, Any]:
        """The options that the features of an arm depend on."""
        options = self.arm_options(arm).items()
        return {name: value for name, value in options if not name.startswith(("fusion", "projector"))}

    def training_config(self, study: "Study", arm: str, seed: int) -> dict[str, Any]:
        """The config of `vega3d train` of an arm and a seed; parts that its fusion has not are not tuned."""
        name = run_name(arm, seed)
        given = {**self.training, "seed": seed, "device": study.device}
        given |= {"model": str(study.output / MODELS / name), "output": str(study.output / POLICIES / name)}
        given["data"] = str(study.output / DEMONSTRATIONS)
        if self.is_fused(arm):
            given["cache"] = str(study.output / FEATURES)
        missing = MISSING.get(self.arm_options(arm).get("fusion", ""), ())
        if isinstance(given.get("tune"), list):
            given["tune"] = [part for part in given["tune"] if part not in missing]
        if isinstance(given.get("learning_rates"), dict):
            rates = given["learning_rates"].items()
            given["learning_rates"] = {part: rate for part, rate in rates if part not in missing}
        return given


def read_study(path: Path) -> StudyRecipe:
    """The recipe in a YAML file; raises ValueError, naming the key, for one that is unknown, missing or mistyped."""
    recipe = read_settings(partial(make_settings, StudyRecipe), path, None, "seeds: [0, 1, 2]")
    if not isinstance(recipe.training.get("actions"), dict):
        raise ValueError(f"{path}: training has no `actions`, such as {{chunk: 16}}, and so trains no policy.")
    given = [name for name in ("model", "data", "output", "seed", "device", "cache") if name in recipe.training]
    if given:
        raise ValueError(f"{path}: training names {given}, which the study gives itself. Leave them out.")
    return recipe


def run_name(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A recipe with what is wanted of it now.

    `file` is where the recipe was read, and steps read it again; `processes` are simulators at a time.
    """

    recipe: StudyRecipe
    file: Path
    output: Path
    device: str = "cpu"
    processes: int = 1
    stages: tuple[str, ...] = STAGES
    arms: tuple[str, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[tuple[str, int]]:
        """Arm and seed of each training."""
        return [(arm, seed) for arm in self.arms for seed in self.recipe.arm_seeds(arm) if seed in self.seeds]

    def configs(self) -> dict[tuple[str, int], TrainingConfig]:
        """The training of each arm and seed; raises ValueError for a setting that cannot be."""
        return {(arm, seed): make_config(self.recipe.training_config(self, arm, seed)) for arm, seed in self.runs()}

    def policy(self, run: tuple[str, int]) -> Path:
        return self.output / POLICIES / run_name(*run)

    def is_trained(self, run: tuple[str, int]) -> bool:
        return (self.policy(run) / "training.json").is_file()

    def result(self, name: str) -> Path:
        return self.output / RESULTS / f"{name}.json"

    def rates(self, device: str) -> Path:
        return self.output / f"rate-{device}.json"


def choose(
    recipe: StudyRecipe, arms: list[str] | None, seeds: list[int] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Arms and seeds of a recipe, all of them if none are named; raises ValueError for others."""
    known = sorted({seed for arm in recipe.arms for seed in recipe.arm_seeds(arm)})
    for option, given, there in (("--arms", arms, list(recipe.arms)), ("--seeds", seeds, known)):
        unknown = [one for one in given or [] if one not in there]
        if unknown:
            raise ValueError(f"{option} names {unknown}, but the recipe has {there}.")
    return tuple(arm for arm in recipe.arms if arms is None or arm in arms), tuple(known if seeds is None else seeds)


def claim(study: Study) -> None:
    """Writes the recipe beside what it makes, for later calls; raises ValueError if the folder is of another one.

    Arms, seeds and pairs may be added, and baselines.
    """
    file = study.output / "study.json"
    wanted = json.loads(json.dumps(asdict(study.recipe)))
    if file.exists():
        found = read_json(file)
        check_same_run(lasting(found, wanted), lasting(wanted, found), f"{study.output} is of another study", OTHER)
    elif not is_free(study.output):
        others = sorted(path.name for path in study.output.iterdir() if path.name not in (*FOLDERS, LOCK))
        if others:
            raise ValueError(f"{study.output} holds {others[0]}, and no study. Give a new folder.")
    (study.output / RESULTS).mkdir(parents=True, exist_ok=True)
    write_json(file, wanted)


OTHER = "Continue it with the same settings, or give another output."


def lasting(recipe: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What must not change while a study goes on: settings, and the arms that both recipes have."""
    kept = {name: recipe.get(name) for name in ("demonstrations", "generator", "options")}
    free = (*WITHOUT_EFFECT, "workers")
    kept["training"] = {name: value for name, value in recipe["training"].items() if name not in free}
    kept["evaluation"] = {name: value for name, value in recipe["evaluation"].items() if name != "baselines"}
    both = recipe["arms"].keys() & other["arms"].keys()
    kept["arms"] = {arm: {**recipe["arms"][arm], "seeds": None} for arm in sorted(both)}
    return kept


def check_there(study: Study) -> None:
    """Raises ValueError if a stage needs what an earlier one has not made and is not asked to make."""
    if "train" in study.stages and not all(map(study.is_trained, study.runs())):
        seeds = study.output / DEMONSTRATIONS / "meta/seeds.json"
        if seeds.is_file():
            check_demonstrations(study.recipe.demonstrations, seeds)
        elif DEMONSTRATIONS not in study.stages:
            raise ValueError(
                f"There is no {seeds}. Add the stage demonstrations, or copy the folder of finished ones."
            )
    if {"evaluate", "rate"} & set(study.stages) and "train" not in study.stages:
        for run in study.runs():
            is_done = "rate" not in study.stages and study.result(run_name(*run)).is_file()
            if not is_done and not (study.policy(run) / "config.json").is_file():
                raise ValueError(
                    f"There is no policy {study.policy(run)}. Add the stage train, or name --arms, --seeds."
                )
    if "tables" in study.stages and "evaluate" not in study.stages:
        for name in evaluations(study):
            if not study.result(name).is_file():
                raise ValueError(f"There is no {study.result(name)}. Add the stage evaluate, or name --arms, --seeds.")


def check_demonstrations(recipe: DemonstrationsRecipe, file: Path) -> None:
    """Raises ValueError if finished demonstrations are not those of a recipe."""
    wanted = json.loads(json.dumps(asdict(recipe)))
    found = read_json(file)
    found |= found.get("environment", {})
    same = {name: found.get(name) for name in wanted if name != "renderer"}
    check_same_run(same, {name: wanted[name] for name in same}, f"{file.parent.parent} holds others", OTHER)


def steps(study: Study) -> Iterator[Step]:
    """The commands of the stages; a step needs those alone that come before it."""
    yield from demonstration_steps(study)
    yield from training_steps(study)
    trained = [f"train-{run_name(*run)}" for run in study.runs() if "train" in study.stages]
    yield from evaluation_steps(study)
    if "rate" in study.stages:
        measured = [name for name in evaluations(study) if "evaluate" in study.stages]
        seeds = dict(reversed(study.runs()))  # the first of each arm: seeds do not change its speed
        policies = [str(study.policy((arm, seeds[arm]))) for arm in study.arms if arm in seeds]
        command = [COMMAND, "rate", *policies, "--output", str(study.rates(study.device))]
        command += ["--size", str(study.recipe.demonstrations.size)]
        needs = [*trained, *(f"evaluate-{name}" for name in measured)]
        yield Step("rate", [*command, "--device", study.device, "--json"], needs)


def demonstration_steps(study: Study) -> Iterator[Step]:
    if "demonstrations" not in study.stages:
        return
    recipe, output = study.recipe.demonstrations, study.output / DEMONSTRATIONS
    command = [COMMAND, "demonstrations", str(output), "--processes", str(study.processes)]
    command += ["--tasks", *recipe.tasks, "--views", *recipe.views, "--renderer", recipe.renderer]
    for name in ("episodes", "size", "most-steps", "noise", "every"):
        command += [f"--{name}", str(vars(recipe)[name.replace("-", "_")])]
    yield Step("demonstrations", [] if (output / "meta/seeds.json").is_file() else command)


def training_steps(study: Study) -> Iterator[Step]:
    """Models to start from, features of each arm's generator, and a training for each arm and seed."""
    left = [run for run in study.runs() if not study.is_trained(run)]
    if "train" not in study.stages:
        return
    shared = [str(study.file), "--output", str(study.output), "--device", study.device]
    recorded = ["demonstrations"] if "demonstrations" in study.stages else []
    if left:
        chosen = ["--arms", *dict.fromkeys(arm for arm, _ in left), "--seeds", *map(str, study.seeds)]
        yield Step("models", [COMMAND, "models", *shared, *chosen])
    read: dict[str, str] = {}
    for arm, _ in left:
        if study.recipe.is_fused(arm):
            read.setdefault(study.recipe.features_of(arm), arm)
    for first, arm in read.items():
        command = [COMMAND, "features", *shared, "--arm", arm]
        yield Step(f"features-{first}", command, ["models", *recorded], on_card=True)
    for arm, seed in study.runs():
        name = run_name(arm, seed)
        if study.is_trained((arm, seed)):
            yield Step(f"train-{name}", [])
            continue
        is_fused = study.recipe.is_fused(arm)
        needs = [f"features-{study.recipe.features_of(arm)}"] if is_fused else ["models", *recorded]
        config = training_file(study, (arm, seed))
        yield Step(f"train-{name}", ["vega3d_cli", "train", str(config), "--json"], needs, on_card=True)


def training_file(study: Study, run: tuple[str, int]) -> Path:
    return study.output / TRAINING / f"{run_name(*run)}.json"


def evaluations(study: Study) -> dict[str, str]:
    """What is evaluated, a policy's folder or a baseline, by the name of its result."""
    named = {run_name(*run): str(study.policy(run)) for run in study.runs()}
    return {**{name: name for name in study.recipe.evaluation.baselines}, **named}


def evaluation_steps(study: Study) -> Iterator[Step]:
    """One after another, for each takes all processes."""
    if "evaluate" not in study.stages:
        return
    recipe, pictures = study.recipe.evaluation, study.recipe.demonstrations
    given = ["--tasks", *pictures.tasks, "--episodes", str(recipe.episodes), "--seed", str(recipe.seed)]
    given += ["--most-steps", str(recipe.most_steps), "--size", str(pictures.size), "--renderer", pictures.renderer]
    given += ["--execute", str(recipe.execute)] if recipe.execute is not None else []
    given += ["--processes", str(study.processes), "--device", study.device, "--json"]
    trains = "train" in study.stages
    for name, policy in evaluations(study).items():
        output = study.result(name)
        command = [COMMAND, "evaluate", policy, "--output", str(output), *given]
        needs = [f"train-{name}"] if trains and name not in recipe.baselines else []
        yield Step(f"evaluate-{name}", [] if output.is_file() else command, needs)
