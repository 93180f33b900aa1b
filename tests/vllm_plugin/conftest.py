import os
from pathlib import Path

import pytest
import torch

from tiny_checkpoints import save_vlm_with_processor
from tiny_models import BLOCK, save_generator
from vega3d.hub.assemble import assemble

if not torch.cuda.is_available():
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")  # vLLM's own switch, read when it is imported
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """Assembles a fused checkpoint whose VLM has heads of 32 channels, the least that vLLM's attention on a CPU takes.

    Its gate is open, as training would open it.
    """

    def make(vlm_type: str, sizes: dict | None = None, **options) -> Path:
        folder = tmp_path_factory.mktemp(vlm_type)
        vlm = save_vlm_with_processor(folder / "vlm", vlm_type, width=64, **(sizes or {}))
        usual = {"block": BLOCK, "projector_hidden_size": 32, "fusion_residual_init": 0.5, "max_area": 4096}
        return assemble(vlm, save_generator(folder / "generator"), folder / "model", **{**usual, **options})

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint, vlm_type) -> Path:
    return make_checkpoint(vlm_type)
