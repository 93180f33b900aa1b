import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches a hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads cost more than they bring
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")  # else torch compiles a program for each of the CPU's abilities

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vega3d_cli import common

# All else is imported in the fixtures: a process that only hands tests out to others reads this file, too.
if TYPE_CHECKING:
    from vega3d import VegaForSpatialReasoning, VegaProcessor

LONG = (  # files of 20 s and more, longest first, so that no process is left alone with one at the end
    "research/tiny/tests/study/test_training.py",
    "research/tiny/tests/study/test_symbols.py",
    "research/tiny/tests/simulator/test_generator_training.py",
    "tests/test_bad_input.py",
    "tests/training/test_several_processes.py",
    "tests/rooms/test_dataset.py",
    "tests/test_claims.py",
    "tests/demo/test_browser.py",
    "tests/test_readme.py",
    "tests/training/test_finetuning_examples.py",
    "tests/test_cli.py",
    "tests/modeling/test_checkpoint.py",
    "tests/publishing/test_push.py",
    "tests/modeling/test_model.py",
    "research/tiny/tests/study/test_grounding_of_the_study.py",
    "tests/test_import.py",
    "tests/evaluation/test_batches.py",
    "tests/training/test_damaged_checkpoints.py",
    "tests/inference/test_session.py",
)
gc.disable()  # until all is imported: a third of the time of collecting tests went into looking for cycles
common.LOADING_AFTER = 60  # [s]; a busy machine loads slowly, and tests of refusals count lines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONG)))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # a million objects of imported packages, which need not be looked through again and again
    gc.enable()


@pytest.fixture(scope="session", params=["qwen2_5_vl"])
def vlm_type(request) -> str:
    """The VLM of the fixtures below. Tests for every VLM mark themselves with `tiny_models.every_vlm`."""
    return request.param


@pytest.fixture(scope="session")
def batch(vlm_type) -> Callable:
    """`tiny_inputs.batch` as the VLM's processor writes prompts."""
    import tiny_inputs

    return partial(tiny_inputs.batch, vlm_type=vlm_type)


@pytest.fixture(scope="session")
def backbones(vlm_type, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a tiny VLM and of a tiny generator, in their published layouts."""
    from tiny_models import save_generator, save_vlm

    folder = tmp_path_factory.mktemp("backbones")
    return save_vlm(folder / "vlm", vlm_type), save_generator(folder / "generator")


@pytest.fixture(scope="session")
def assemble(backbones):
    """Builds a fused model from the tiny backbones; `residual` opens the gate, as training would."""
    from tiny_models import BLOCK
    from vega3d import VegaForSpatialReasoning

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
def model(checkpoint) -> "VegaForSpatialReasoning":
    """The saved model, loaded. Tests that change it load their own."""
    from vega3d import VegaForSpatialReasoning

    return VegaForSpatialReasoning.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def tiny() -> tuple["VegaForSpatialReasoning", "VegaProcessor"]:
    """Model and processor of the stored checkpoint, on the CPU, for the tests of one module."""
    from tiny_checkpoints import FROZEN
    from vega3d.hub.load import load_vega

    return load_vega(FROZEN, device="cpu")
