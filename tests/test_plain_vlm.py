"""From frames and words to the answer: with a closed gate it is the plain VLM with its own processor, bit for bit."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tiny_checkpoints import VLM_PROCESSORS, save_checkpoint
from vega3d.hub.load import load_vega

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module", params=VLM_PROCESSORS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    save_checkpoint(folder, request.param, fusion_residual_init=0.0)
    return folder


@pytest.mark.parametrize("counts", [(5, 2), (1, 4), (3, 3)], ids=str)
def test_a_closed_gate_is_the_plain_vlm_with_its_own_processor(folder, counts):
    model, processor = load_vega(folder / "model", device="cpu")
    plain = AutoModelForImageTextToText.from_pretrained(folder / "vlm")
    own_processor = AutoProcessor.from_pretrained(folder / "vlm")
    random = np.random.default_rng(0)
    videos = [random.integers(0, 256, (count, 48, 64, 3), dtype=np.uint8) for count in counts]
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    text = [f"{VIDEO}{IMAGE} where?", f"longer {VIDEO}, and where?", "no picture"]

    ours = processor(
        text=text, videos=videos, images=[image], seconds=[np.arange(c) * 0.5 for c in counts], padding=True
    )
    # Frames one a half second; the VLMs' own processors want two of a video, and Qwen3-VL's changes the metadata.
    twice = [video if len(video) > 1 else video.repeat(2, axis=0) for video in videos]
    metadata = [{"fps": 2.0, "total_num_frames": len(v), "frames_indices": list(range(len(v)))} for v in videos]
    if 1 in counts:  # a single frame counts as one second
        metadata[0] = {"fps": 1.0, "total_num_frames": 1, "frames_indices": [0]}
    theirs = own_processor(
        text=text,
        videos=twice,
        images=[image],
        video_metadata=metadata,
        do_sample_frames=False,
        padding=True,
        return_tensors="pt",
    )
    theirs.pop("video_metadata", None)

    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert torch.equal(model(**ours).logits, plain(**theirs).logits)
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**ours, **options), plain.generate(**theirs, **options))
