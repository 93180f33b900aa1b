from pathlib import Path

import pytest
import yaml

from research.tiny.study.experiment import Experiment
from research.tiny.study.recipe import Recipe, read_recipe
from tiny_models import save_generator

CLIP = {"block": 1, "clip_mode": "clip"}
TOY = {
    "name": "toy",
    "rooms": {
        "train": 3,
        "validation": 2,
        "test": 0,
        "trajectories": 1,
        "num_frames": 5,
        "size": 64,
        "renderer": "embree",
        "quality": "fast",
        "rooms_per_shard": 2,
    },
    "vlm": {"hidden": 64, "layers": 3, "intermediate": 64, "vision_hidden": 32, "vision_depth": 2},
    "arms": {
        "semantic": {"fusion": "none"},
        "trained": {"stream": "tiny", "options": CLIP},
        "random": {"stream": "tiny", "options": {**CLIP, "family": "random"}},
        "shuffled": {"stream": "tiny", "shuffled": True, "options": CLIP},
        "pixels": {"stream": "pixels"},
        "oracle": {"stream": "oracle"},
    },
    "seeds": [0, 1],
    "tower": {"steps": 4, "clips": 2, "warmup": 2},
    "training": {
        "steps": 4,
        "packs": {"clips": 2, "length": 640, "text_packs": 2, "text_length": 512},
        "learning_rates": {"llm": 1e-2, "gate": 1e-2, "projector": 1e-2},
        "warmup": 2,
    },
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
    """Of a study whose rooms and tower are done."""
    output = tmp_path_factory.mktemp("study")
    experiment = Experiment(toy_recipe, output)
    experiment.make_rooms(["train", "validation"])
    experiment.tower()
    return output


@pytest.fixture
def toy(toy_recipe, toy_output) -> Experiment:
    return Experiment(toy_recipe, toy_output)
