import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches a hub

from pathlib import Path

import pytest

from tiny_models import BLOCK, save_generator, save_vlm
from vega3d import VegaForSpatialReasoning


@pytest.fixture(scope="session")
def backbones(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a tiny VLM and of a tiny generator, in their published layouts."""
    folder = tmp_path_factory.mktemp("backbones")
    return save_vlm(folder / "vlm"), save_generator(folder / "generator")


@pytest.fixture(scope="session")
def assemble(backbones):
    """Builds a fused model from the tiny backbones; `residual` opens the gate, as training would."""

    def build(**config) -> VegaForSpatialReasoning:
        options = {"block": BLOCK, "projector_hidden_size": 32, "fusion_residual_init": 0.5, **config}
        return VegaForSpatialReasoning.from_backbones(*backbones, **options)

    return build


@pytest.fixture(scope="session")
def checkpoint(assemble, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    assemble().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(checkpoint) -> VegaForSpatialReasoning:
    """The saved model, loaded. Tests that change it load their own."""
    return VegaForSpatialReasoning.from_pretrained(checkpoint)
