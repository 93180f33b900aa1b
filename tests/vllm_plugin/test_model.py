"""The fused model built by vLLM: its weights, and its fused tokens, are those of `VegaModel`."""

import socket

import pytest
import torch
from visuals import IMAGE, VIDEO, film, picture

from tiny_models import every_vlm
from vega3d import VegaForSpatialReasoning, VegaProcessor

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` makes an environment that has it")
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.utils import group_and_batch_mm_kwargs
from vllm.plugins import load_general_plugins

load_general_plugins()
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def load(folder, dtype: str = "float32"):
    """The model of a checkpoint as an engine loads it, in this process, and its config."""
    config = EngineArgs(str(folder), dtype=dtype, max_model_len=512, enforce_eager=True).create_engine_config()
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"tcp://127.0.0.1:{free_port()}", 0, backend="gloo")
            initialize_model_parallel(1)
        return get_model(vllm_config=config), config


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load(checkpoint)


@every_vlm
def test_fused(loaded, checkpoint):
    model, config = loaded
    processor = MULTIMODAL_REGISTRY.create_processor(config.model_config)
    text = f"{VIDEO}{IMAGE} then {IMAGE} {VIDEO} now"
    images, videos = [picture(4), picture(5, 48, 48)], [film(6), film(7, 4, 64, 48)]
    made = processor(text, processor.info.parse_mm_data({"image": images, "video": videos}))
    items = [(modality, item) for modality, items in made["mm_kwargs"].items() for item in items]
    print(group_and_batch_mm_kwargs)
    found = {}
    with torch.inference_mode():
        for modality, count, batch in group_and_batch_mm_kwargs(items):
            found[modality] = model.embed_multimodal(**batch)
    ours = VegaForSpatialReasoning.from_pretrained(checkpoint).eval()
    pp = VegaProcessor.from_pretrained(checkpoint)
    inputs = pp(
        text=text,
        images=images,
        videos=[v for v, _ in videos],
        video_metadata=[{k: x for k, x in m.items() if k != "do_sample_frames"} for _, m in videos],
    )
    exp = ours.encode(**inputs).mm_encoder_outputs
    for modality, output in exp.items():
        for a, b in zip(found[modality], output.pooler_output, strict=True):
            print(modality, a.shape, b.shape, (a[:, :64] - b).abs().max())
            torch.testing.assert_close(a[:, :64], b, **TOLERANCE)
