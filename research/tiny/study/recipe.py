"""The recipe of an experiment, read from YAML: rooms, arms, seeds, and two stages that are the same for all arms."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vega3d.configs import check_range, make_settings, read_settings, shown
from vega3d.evaluation.metrics import QUESTION_TYPES

TRAIN, VALIDATION = "train", "validation"
TEST_SPLITS = ("test", "test_unseen")


@dataclass(frozen=True)
class RoomsRecipe:
    """
    Args:
        train, validation, test, test_unseen: number of rooms of each split.
        walks: clips of a room of `train`; the other splits have one.
        num_frames: of a clip.
        size: edge of the square frames [px].
        questions_per_type: most questions of a type about a clip.
        training_questions_per_type: the same in `train`.
        renderer: opengl or embree.
        quality: of the light.
        rooms_per_shard: rooms in a file.
    """

    train: int
    validation: int
    test: int
    test_unseen: int = 0
    walks: int = 2
    num_frames: int = 17
    size: int = 192
    questions_per_type: int = 2
    training_questions_per_type: int = 2
    renderer: str = "opengl"
    quality: str = "full"
    rooms_per_shard: int = 16


@dataclass(frozen=True)
class StageRecipe:
    """
    Args:
        steps: of the optimizer.
        visuals_per_step: clips in a batch.
        questions_per_visual: most questions asked about each of them, their types in turn.
        close_ups_per_step: of stage 0, whose batches are clips and close-ups of objects in turn; 0 for clips
            alone.
        optimizer: `adamw`; or `muon`, for matrices and kernels, with AdamW at a tenth of the rate for embeddings,
            norms and biases.
        learning_rates: peak rate of each part trained (`training.parts.PARTS`).
        residual_scale_rate: of the fusion's r.
        warmup: steps until the peak; a half cosine falls to a tenth of it.
        weight_decay: of matrices.
        max_grad_norm: above which gradients are scaled down.
    """

    steps: int
    visuals_per_step: int = 16
    questions_per_visual: int = 12
    close_ups_per_step: int = 64
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rates: dict[str, float] = field(default_factory=dict)
    residual_scale_rate: float = 1e-2
    warmup: int = 50
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0

    def __post_init__(self):
        check_range(self, "steps", "visuals_per_step", "questions_per_visual", least=1)
        check_range(self, "close_ups_per_step", least=0)


@dataclass(frozen=True)
class ArmRecipe:
    """
    Args:
        generator: name in `Recipe.generators`; None for the VLM alone.
        options: of the generator (`VegaGeneratorConfig`), such as block, timestep, clip_mode, family.
        fusion: of `VegaConfig`; none with no generator.
    """

    generator: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    fusion: str = "token_gated_residual"


@dataclass(frozen=True)
class Recipe:
    """
    Args:
        name: of the experiment, in its tables.
        rooms: rooms of each split.
        vlm: seed and sizes of the VLM (`vlm.VLMRecipe`).
        generators: folder of each, in diffusers layout (`transformer/`, `vae/`).
        arms: what is compared; the first is what the others are compared with.
        seeds: of initialisation and data order, shared by all arms.
        stage0: before the arms part: objects, attributes, captions; no generator.
        stage1: spatial questions; the vision tower is frozen.
        base: the same without a generator, once and before the arms part, so that all begin with a language model that
            answers spatial questions, as the paper's does; left out, they begin after stage 0.
        categories: question types of stage 1; all by default.
        projector_hidden_size: width of the projector.
        residual_init: first value of the fusion's r.
        precision: "bfloat16" for autocast and kept tokens, or "float32".
        checkpoint_seconds: between checkpoints of a run [s].
        checkpoint_steps: between checkpoints of a run, in place of seconds.
        keep_hidden: False removes an arm's hidden states once all its seeds are done.
    """

    name: str
    rooms: RoomsRecipe
    arms: dict[str, ArmRecipe]
    stage0: StageRecipe
    stage1: StageRecipe
    base: StageRecipe | None = None
    vlm: dict[str, Any] = field(default_factory=dict)
    generators: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    categories: list[str] = field(default_factory=lambda: list(QUESTION_TYPES))
    projector_hidden_size: int = 192
    residual_init: float = 0.2
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    keep_hidden: bool = True

    def __post_init__(self):
        if not self.arms or len(set(map(str, self.seeds))) < len(self.seeds) or not self.seeds:
            raise ValueError(f"Give arms and seeds, each seed once; got {list(self.arms)} and {shown(self.seeds)}.")
        if not all(seed >= 0 for seed in self.seeds):
            raise ValueError(f"seeds are {shown(self.seeds)}, but must be whole numbers from 0 up.")
        for name in (self.name, *self.arms):
            if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
                raise ValueError(f"{shown(name)} names a folder of the output. Leave out slashes and '..'.")
        for name, arm in self.arms.items():
            if (arm.generator is None) != (arm.fusion == "none"):
                raise ValueError(
                    f"Arm {name!r} has the generator {arm.generator!r} and the fusion {arm.fusion!r}: an arm without "
                    "a generator has the fusion none, and no other has."
                )
            if arm.generator is not None and arm.generator not in self.generators:
                raise ValueError(f"Arm {name!r} names {arm.generator!r}, but generators are {list(self.generators)}.")
        unknown = [name for name in self.categories if name not in QUESTION_TYPES]
        if unknown or not self.categories:
            raise ValueError(f"categories are {self.categories}; give some of {', '.join(QUESTION_TYPES)}.")

    def digest(self, *names: str) -> str:
        """SHA-256 of some of the fields, of `rooms` what training sees; checkpoints hold that of all they need."""
        values = asdict(self)
        for split in (VALIDATION, *TEST_SPLITS):
            del values["rooms"][split]
        chosen = {name: values[name] for name in names}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def read_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """
    Args:
        path: YAML file.
        overrides: fields that take the place of the file's.

    Raises:
        ValueError: if the file is no recipe; unknown, missing and mistyped keys are named.
    """
    return read_settings(partial(make_settings, Recipe), Path(path), overrides, "name: first")
