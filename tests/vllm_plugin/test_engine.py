"""A whole engine of vLLM on a fused checkpoint: its answers are those of our `generate`."""

import importlib.util

import pytest
import torch
from visuals import IMAGE, VIDEO, film, picture, seconds

from tiny_models import every_vlm
from vega3d import VegaForSpatialReasoning, VegaProcessor

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` makes an environment that has it")
from vllm import LLM, SamplingParams

if not torch.cuda.is_available() and importlib.util.find_spec("vllm._C") is None:
    pytest.skip("This build of vLLM has no kernels for a CPU, and there is no GPU", allow_module_level=True)
NEW_TOKENS = 6


@every_vlm
def test_answers_are_those_of_our_model(checkpoint, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # [GiB]
    images, videos = [picture(4), picture(5, 48, 48)], [film(6), film(7, 4, 64, 48)]
    prompt = {
        "prompt": f"{VIDEO}{IMAGE} then {IMAGE} {VIDEO} now",
        "multi_modal_data": {"image": images, "video": videos},
    }
    engine = LLM(str(checkpoint), dtype="float32", max_model_len=512, enforce_eager=True, max_num_seqs=2)
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=3)

    ((found,),) = (request.outputs for request in engine.generate([prompt], greedy))

    inputs = VegaProcessor.from_pretrained(checkpoint)(
        text=prompt["prompt"],
        images=images,
        videos=[frames for frames, _ in videos],
        seconds=[seconds(video) for video in videos],
    )
    ours = VegaForSpatialReasoning.from_pretrained(checkpoint).eval()
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    expected = ours.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    assert list(found.token_ids) == expected.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    for logits, entries in zip(expected.logits, found.logprobs, strict=True):
        wanted = logits[0].log_softmax(-1)
        for token, entry in entries.items():
            assert entry.logprob == pytest.approx(wanted[token].item(), abs=1e-4)
