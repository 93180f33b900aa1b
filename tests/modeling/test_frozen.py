"""The generator's features are the same in every surrounding: training loops, casts of PEFT, offload of accelerate."""

import contextlib

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig

from tiny_checkpoints import FROZEN, FROZEN_CONFIG
from vega3d import VegaForSpatialReasoning
from vega3d.features.identity import feature_identity
from vega3d.hub.load import load_vega
from vega3d.modeling.generator_vega3d import check_finite
from vega3d.shipped import example_clip

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "autocast of another device": lambda: torch.autocast("cuda", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "deterministic": deterministic,
}


@pytest.fixture(scope="module")
def inputs():
    _, processor = load_vega(FROZEN, device="cpu")
    content = [{"type": "video", "video": str(example_clip("room"))}, {"type": "text", "text": "How many chairs?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        num_frames=2,
    )


@pytest.fixture(scope="module")
def plain(inputs):
    """Features of each dtype, without anything around."""
    return {name: fresh(name).generator_features(**inputs)[0] for name in DTYPES}


def fresh(dtype: str) -> VegaForSpatialReasoning:
    return load_vega(FROZEN, dtype=dtype, device="cpu")[0]


@pytest.fixture(scope="module", params=DTYPES)
def loaded(request):
    """A model whose derived values each test forgets first."""
    return request.param, fresh(request.param)


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("first", ["inside", "outside"])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_features_are_bit_equal_in_every_surrounding(loaded, plain, inputs, name, first):
    dtype, model = loaded
    model.generator_module._forget_derived()
    places = [SURROUNDINGS[name], contextlib.nullcontext]
    for place in places if first == "inside" else reversed(places):
        with place():
            features = model.generator_features(**inputs)[0]

        assert features.dtype == DTYPES[dtype]
        assert torch.equal(features, plain[dtype])


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_read_is_bit_equal_in_every_surrounding(model, name):
    generator = model.generator_module
    clip = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = dict(generator.read(clip, [0, 1], [100, 300]))
    generator._forget_derived()

    with SURROUNDINGS[name]():
        read = dict(generator.read(clip, [0, 1], [100, 300]))

    assert all(torch.equal(read[step][block], expected[step][block]) for step in read for block in (0, 1))
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_gradients_are_as_before_between_two_levels_of_read(model):
    clip = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in model.generator_module.read(clip, [0], [100, 300]):
            assert torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


def test_a_float32_model_trains_under_autocast_on_the_features_of_inference(inputs, plain):
    model = fresh("float32").train()
    seen = []
    model.model.projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs, labels=inputs["input_ids"]).loss

    loss.backward()

    (hidden,) = seen[0]  # of the one clip
    assert torch.equal(hidden.float(), plain["float32"].to(hidden.dtype).float())
    assert model.model.fusion.gate.weight.grad.isfinite().all()
    assert torch.equal(model.generator_features(**inputs)[0], plain["float32"])


def four_bit(**options) -> VegaForSpatialReasoning:
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16, **options
    )
    return VegaForSpatialReasoning.from_pretrained(FROZEN, dtype="bfloat16", quantization_config=config)


@pytest.mark.filterwarnings("ignore")
def test_the_usual_qlora_recipe_runs_on_the_features_of_the_frozen_generator(inputs, plain):
    model = prepare_model_for_kbit_training(four_bit())
    targets = r".*language_model.*\.(q_proj|v_proj)"
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, modules_to_save=["projector", "fusion"]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)

    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()

    generator = model.base_model.model.generator_module
    assert {p.dtype for p in generator.tower.encoder.parameters()} == {torch.bfloat16}
    assert torch.equal(model.base_model.model.generator_features(**inputs)[0], plain["bfloat16"])


def test_a_cast_past_the_generator_is_undone(inputs, plain):
    model = fresh("bfloat16")
    model.generator_features(**inputs)  # what is derived from the weights is kept
    identity = feature_identity(model.generator_module)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()

    assert feature_identity(model.generator_module) == identity
    assert torch.equal(model.generator_features(**inputs)[0], plain["bfloat16"])


def test_a_cast_that_lost_digits_is_refused(inputs):
    model = fresh("float32")
    for parameter in model.parameters():
        parameter.data = parameter.data.half()

    with pytest.raises(ValueError, match=r"cast from torch.float32 to torch.float16 .* lost digits"):
        model.generator_features(**inputs)


def test_a_cast_of_the_whole_model_is_meant(inputs):
    model = fresh("bfloat16")
    model.generator_features(**inputs)

    assert model.float().generator_features(**inputs)[0].dtype == torch.float32


@pytest.mark.parametrize("way", ["in place", "data", "buffer"])
def test_nothing_derived_outlives_the_weights_it_comes_from(assemble, way):
    """Keys and values of the prompt are derived; other weights, or another prompt, give others."""
    model, clip = assemble(), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    generator = model.generator_module
    before = generator.encode([clip])[0]
    weight = generator.tower.transformer.blocks[0].attn2.to_v.weight
    with torch.no_grad():
        if way == "in place":
            weight.mul_(2)
        elif way == "data":
            weight.data = weight.data * 2
        else:
            generator.prompt_embeds = generator.prompt_embeds * 2

    after = generator.encode([clip])[0]
    generator._forget_derived()

    assert not torch.equal(after, before)
    assert torch.equal(after, generator.encode([clip])[0])


@pytest.mark.parametrize("offload_buffers", [False, True])
def test_a_model_offloaded_by_accelerate_answers_the_same(assemble, batch_of_one, offload_buffers):
    model = assemble()
    expected = model(**batch_of_one).logits
    cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=offload_buffers)

    assert torch.equal(model(**batch_of_one).logits, expected)
    assert torch.equal(model(**batch_of_one).logits, expected)
    assert next(model.generator_module.parameters()).is_meta


@pytest.fixture
def batch_of_one(batch):
    from tiny_inputs import VIDEO

    return batch([5, VIDEO, 7])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_features_that_are_not_finite_are_refused(assemble, batch_of_one, value, part):
    model = assemble()
    tower = model.generator_module.tower
    weight = tower.transformer.patch_embedding.bias if part == "transformer" else tower.encoder.conv_in.bias
    weight.data[0] = value

    with pytest.raises(ValueError, match=r"features of clip 0 \(of 1\) are not finite"):
        model(**batch_of_one)
    with pytest.raises(ValueError, match=r"hidden states of block 1 .*not finite"):
        list(model.generator_module.read(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), [1], [300]))


def test_the_clip_that_is_not_finite_is_named():
    states = [torch.zeros(2, 3), torch.tensor([0.0, float("inf")]), torch.zeros(1)]

    with pytest.raises(ValueError, match=r"States of clip 1 \(of 3\) are not finite"):
        check_finite(states, "States", "Mend them.")


@pytest.mark.parametrize("as_dict", [False, True])
def test_modules_left_alone_by_default_are_so_for_a_dict_that_says_none(as_dict):
    options = {"load_in_4bit": True, "llm_int8_skip_modules": None}
    config = options if as_dict else BitsAndBytesConfig(**options)

    model = VegaForSpatialReasoning.from_pretrained(FROZEN, quantization_config=config)

    quantised = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert quantised and all(".language_model." in name for name in quantised)


@pytest.mark.parametrize("skipped", [[], ["fusion"], ["model.generator", "model.vlm.model.visual"]], ids=str)
def test_a_head_tied_to_the_embedding_stays_as_it_is(inputs, skipped):
    assert FROZEN_CONFIG["vlm_config"]["tie_word_embeddings"]
    model = four_bit(llm_int8_skip_modules=skipped)

    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
