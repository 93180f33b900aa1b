import pytest
from visuals import IMAGE, VIDEO, film, picture, seconds

from tiny_models import every_vlm
from vega3d import VegaForSpatialReasoning, VegaProcessor

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` makes an environment that has it")
from vllm import LLM, SamplingParams


@every_vlm
def test_answers(checkpoint):
    llm = LLM(str(checkpoint), dtype="float32", max_model_len=512, enforce_eager=True, max_num_seqs=2, seed=0)
    text = f"{VIDEO}{IMAGE} then {IMAGE} {VIDEO} now"
    images, videos = [picture(4), picture(5, 48, 48)], [film(6), film(7, 4, 64, 48)]
    out = llm.generate(
        [{"prompt": text, "multi_modal_data": {"image": images, "video": videos}}],
        SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=3),
    )
    print(out)
    ours = VegaForSpatialReasoning.from_pretrained(checkpoint).eval()
    pp = VegaProcessor.from_pretrained(checkpoint)
    inputs = pp(text=text, images=images, videos=[v for v, _ in videos], seconds=[seconds(v) for v in videos])
    made = ours.generate(
        **inputs,
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    new = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    assert out[0].outputs[0].token_ids == new
    for step, logits in enumerate(made.logits):
        lp = logits[0].log_softmax(-1)
        for token, entry in out[0].outputs[0].logprobs[step].items():
            print(step, token, entry.logprob, lp[token].item())
