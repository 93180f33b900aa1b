from pathlib import Path

import pytest
import yaml

from research.tiny.study.recipe import Recipe, read_recipe
from research.tiny.study.runner import Experiment
from tiny_models import save_generator

CLIP = {"block": 1, "clip_mode": "clip"}
RATES = {"llm": 1e-3, "vision": 1e-3}
STAGE = {"steps": 6, "visuals_per_step": 2, "questions_per_visual": 4, "warmup": 2}
TOY = {
    "name": "toy",
    "rooms": {
        "train": 2,
        "validation": 1,
        "test": 0,
        "walks": 1,
        "num_frames": 5,
        "size": 64,
        "renderer": "embree",
        "quality": "fast",
        "rooms_per_shard": 1,
    },
    "vlm": {"hidden": 64, "layers": 2, "intermediate": 64, "vision_hidden": 32, "vision_depth": 2, "vocabulary": 768},
    "arms": {
        "semantic": {"fusion": "none"},
        "trained": {"generator": "tiny", "options": CLIP},
        "random": {"generator": "tiny", "options": {**CLIP, "family": "random"}},
    },
    "seeds": [0, 1],
    "stage0": {**STAGE, "close_ups_per_step": 3, "learning_rates": RATES},
    "base": {**STAGE, "optimizer": "muon", "learning_rates": {"llm": 1e-2}},
    "stage1": {**STAGE, "optimizer": "muon", "learning_rates": {"llm": 1e-2, "gate": 1e-2, "projector": 1e-2}},
    "precision": "float32",
    "checkpoint_steps": 2,
}


@pytest.fixture(scope="session")
def toy_recipe(tmp_path_factory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    save_generator(folder / "generator", with_text_encoder=False)
    values = {**TOY, "generators": {"tiny": str(folder / "generator")}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(values))
    return read_recipe(folder / "toy.yaml")


@pytest.fixture(scope="session")
def toy_output(toy_recipe, tmp_path_factory) -> Path:
    """Of an experiment whose rooms, stage 0 and base are done."""
    output = tmp_path_factory.mktemp("experiment")
    experiment = Experiment(toy_recipe, output)
    experiment.make_rooms()
    experiment.stage0()
    experiment.base()
    return output


@pytest.fixture
def toy(toy_recipe, toy_output) -> Experiment:
    return Experiment(toy_recipe, toy_output)
