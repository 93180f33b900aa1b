"""The recipe of a study, read from YAML: rooms, arms, seeds, the tower's training, and one training for all arms."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from research.tiny.study.packs import PackSizes
from vega3d.configs import check_range, make_settings, read_settings, shown
from vega3d.evaluation.metrics import QUESTION_TYPES

TRAIN, VALIDATION = "train", "validation"
TEST_SPLITS = ("test", "test_unseen")


@dataclass(frozen=True, kw_only=True)
class RoomsRecipe:
    """The rooms of each split."""

    train: int  # rooms
    validation: int
    test: int
    test_unseen: int = 0
    first_test: int = 0  # number of the first room of `test`, so that no room is scored by two runs
    trajectories: int = 2  # clips of a room of `train`; the other splits have one
    num_frames: int = 17  # of a clip
    size: int = 192  # edge of the square frames [px]
    questions_per_type: int = 2  # the most of a type about a clip
    training_questions_per_type: int = 4  # the same in `train`
    renderer: Literal["opengl", "embree"] = "opengl"
    quality: Literal["fast", "full"] = "fast"  # of the light
    rooms_per_shard: int = 16  # rooms in a file
    with_grounding: bool = True  # expressions and boxes, which a study that grounds needs; they double the time


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """The vision tower's own training, on the classes of patches."""

    steps: int
    clips: int = 16  # of a step
    learning_rate: float = 2e-2  # the peak, of matrices
    warmup: int = 100  # steps until the peak
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0

    def __post_init__(self):
        check_range(self, "steps", "clips", least=1)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """The training of every arm: language model, projector and gate, on frozen streams."""

    steps: int
    packs: PackSizes = field(default_factory=PackSizes)
    learning_rates: dict[str, float] = field(default_factory=dict)  # the peak of each part (`training.parts.PARTS`)
    residual_scale_rate: float = 1e-3  # of the fusion's r
    weights: dict[str, float] = field(default_factory=dict)  # of the losses by the names in the log; 1 by default
    warmup: int = 100  # steps until the peak; a half cosine falls to a tenth of it
    weight_decay: float = 0.05  # of matrices
    max_grad_norm: float = 1.0  # above which gradients are scaled down
    validation_steps: int = 500  # between losses on validation rooms
    compile: bool = True  # on a GPU: fewer kernels, and attention to the blocks alone that a token sees

    def __post_init__(self):
        check_range(self, "steps", "validation_steps", least=1)


@dataclass(frozen=True, kw_only=True)
class ArmRecipe:
    """What is fused with the tower's tokens in one arm."""

    # a name in `Recipe.generators`; `pixels`, of each patch, or `oracle`, the true geometry; None for the VLM alone
    stream: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the generator, such as block, timestep, clip_mode
    shuffled: bool = False  # whether the entries of each weight of the generator's transformer are in another order
    fusion: str = "token_gated_residual"  # of `VegaConfig`; `none` without a stream
    position_code: Literal["none", "sin3d"] = "none"  # of `VegaConfig`, where a study grounds


@dataclass(frozen=True, kw_only=True)
class GroundingRecipe:
    """Boxes that expressions mean, learnt beside the questions, by clips whose tokens have places in the world."""

    start: str | None = (
        None  # name of a study in the same folder, whose trained arms are gone on with; None begins anew
    )
    clips: int = 8  # of a step, that have positions and expressions; the others have questions alone
    expressions: int = 8  # the most about each of them
    boxes: int = 64  # the most among which is chosen
    head: Literal["infonce", "relations"] = "infonce"  # `grounding_head` of `VegaConfig`

    def __post_init__(self):
        check_range(self, "clips", "expressions", "boxes", least=1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A study: what is compared, on which rooms, trained how."""

    name: str  # in its tables
    rooms: RoomsRecipe
    arms: dict[str, ArmRecipe]  # what is compared; the first is what the others are compared with
    tower: TowerRecipe
    training: TrainingRecipe
    vlm: dict[str, Any] = field(default_factory=dict)  # seed and sizes (`vlm.VLMRecipe`)
    generators: dict[str, str] = field(default_factory=dict)  # folder of each, in diffusers layout
    seeds: list[int] = field(default_factory=lambda: [0])  # of initialisation and data order, shared by all arms
    grounding: GroundingRecipe | None = None  # None for questions alone
    categories: list[str] = field(default_factory=lambda: list(QUESTION_TYPES))  # question types
    answers: Literal["words", "letters"] = "words"  # with what they stand on, or bare
    projector_hidden_size: int = 192
    residual_init: float = 0.5  # first value of the fusion's r
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # of autocast and stored streams
    checkpoint_seconds: float = 60.0  # between checkpoints of a run
    checkpoint_steps: int | None = None  # in place of seconds

    def __post_init__(self):
        if not self.arms or not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                f"Give arms and seeds from 0 up, each once; got {list(self.arms)} and {shown(self.seeds)}."
            )
        for name in (self.name, *self.arms):
            if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
                raise ValueError(f"{shown(name)} names a folder of the output. Leave out slashes and '..'.")
        known = [*self.generators, *OTHER_STREAMS]
        for name, arm in self.arms.items():
            if (arm.stream is None) != (arm.fusion == "none"):
                raise ValueError(
                    f"Arm {name!r} has the stream {arm.stream!r} and the fusion {arm.fusion!r}: an arm without a "
                    "stream has the fusion none, and no other has."
                )
            if arm.stream is not None and arm.stream not in known:
                raise ValueError(f"Arm {name!r} names the stream {arm.stream!r}, but there are {', '.join(known)}.")
            if arm.shuffled and arm.stream not in self.generators:
                raise ValueError(
                    f"Arm {name!r} is shuffled, but the stream {arm.stream!r} has no weights. Leave it out."
                )
            if arm.position_code != "none" and self.grounding is None:
                raise ValueError(f"Arm {name!r} has a position code, but without `grounding` nothing has positions.")
        if self.grounding is not None and not self.rooms.with_grounding:
            raise ValueError(
                "rooms.with_grounding is false, but `grounding` needs expressions. Leave one of them out."
            )
        if self.grounding is not None and self.grounding.clips > self.training.packs.clips:
            raise ValueError(
                f"grounding.clips is {self.grounding.clips}, but a step has {self.training.packs.clips} clips "
                "(training.packs.clips). Ask about as many or fewer."
            )
        unknown = [name for name in self.categories if name not in QUESTION_TYPES]
        if unknown or not self.categories:
            raise ValueError(f"categories are {self.categories}; give some of {', '.join(QUESTION_TYPES)}.")

    def first_with_stream(self, arm_name: str) -> str:
        """The first arm with the stream of this one, which it shares."""
        arm = self.arms[arm_name]
        alike = (
            replace(other, fusion=arm.fusion, position_code=arm.position_code) == arm for other in self.arms.values()
        )
        return next(name for name, is_alike in zip(self.arms, alike, strict=True) if is_alike)

    def digest(self, *names: str) -> str:
        """SHA-256 of some of the fields, of `rooms` what training sees; checkpoints hold that of all they need."""
        values = asdict(self)
        for name in (VALIDATION, *TEST_SPLITS, "first_test", "with_grounding"):
            del values["rooms"][name]
        chosen = {name: values[name] for name in names}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


PIXELS, ORACLE = OTHER_STREAMS = ("pixels", "oracle")


def read_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of a YAML file, with some fields in place of the file's.

    Raises:
        ValueError: if the file is no recipe; unknown, missing and mistyped keys are named.
    """
    return read_settings(partial(make_settings, Recipe), Path(path), overrides, "name: first")
