"""Every way of loading keeps the generator's weights; saves are exact; broken files are errors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    BitsAndBytesConfig,
    Trainer,
    TrainingArguments,
)

from remote_process import run_without_package
from tiny_inputs import CASES
from tiny_models import BLOCK, every_vlm, save_generator, save_vlm
from vega3d import VegaForSpatialReasoning, VegaModel
from vega3d.modeling.vae_wan_vega3d import FoldedWanEncoder


def assert_generator_is_its_source(model, source: Path, dtype: torch.dtype = torch.float32) -> None:
    """Weights equal their files after the cast to the load dtype, frozen and in eval mode; tables are fresh."""
    generator = model.base_model.generator
    transformer = WanTransformer3DModel.from_pretrained(
        source, subfolder="transformer", num_layers=BLOCK + 1, torch_dtype=dtype
    )
    files = load_file(source / "transformer" / "diffusion_pytorch_model.safetensors")
    loaded = generator.tower.transformer.state_dict()
    assert loaded.keys() == transformer.state_dict().keys()
    for key, value in loaded.items():
        assert torch.equal(value, files[key].to(value.dtype)), key
        assert value.dtype == transformer.state_dict()[key].dtype, key
    folded = FoldedWanEncoder(AutoencoderKLWan.from_pretrained(source, subfolder="vae", torch_dtype=dtype))
    encoder = generator.tower.encoder.state_dict()
    assert encoder.keys() == folded.state_dict().keys()
    for key, value in encoder.items():
        assert torch.equal(value, folded.state_dict()[key]), key
    vae_files = load_file(source / "vae" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(encoder["conv_in.weight"], vae_files["encoder.conv_in.weight"][:, :, -1].to(dtype))

    config = transformer.config
    fresh = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    rope = generator.tower.transformer.rope
    assert torch.equal(rope.freqs_cos, fresh.freqs_cos)
    assert torch.equal(rope.freqs_sin, fresh.freqs_sin)
    for mode in (True, False):
        model.train(mode)
        assert not any(module.training for module in generator.modules())
        assert not any(parameter.requires_grad for parameter in generator.parameters())
    embeds = load_prompt(model)
    assert torch.equal(generator.prompt_embeds, embeds.to(generator.prompt_embeds))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal weights at other memory addresses: the CPU's matrix products may differ in the last bit."""
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def load_prompt(model) -> torch.Tensor:
    """The stored embedding, or for an assembled model the buffer itself."""
    folder = Path(model.config._name_or_path)
    if not (folder / "model.safetensors").is_file():
        return model.base_model.generator.prompt_embeds
    return load_file(folder / "model.safetensors")["model.generator.prompt_embeds"]


@every_vlm
def test_assembled(assemble, backbones):
    assert_generator_is_its_source(assemble(), backbones[1])


@every_vlm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_from_pretrained(checkpoint, backbones, dtype, batch):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint, dtype=dtype)
    assert_generator_is_its_source(model, backbones[1], dtype)
    assert model.model.fusion.residual_scale.dtype == torch.float32
    assert model.model.fusion.gate.weight.dtype == dtype
    assert torch.isfinite(model(**batch(*CASES["mixture"])).logits).all()


@every_vlm
@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_device_map(checkpoint, backbones, model, device_map, batch):
    mapped = VegaForSpatialReasoning.from_pretrained(checkpoint, device_map=device_map)
    assert_generator_is_its_source(mapped, backbones[1])
    inputs = batch(*CASES["mixture"])
    assert_same(mapped(**inputs).logits, model(**inputs).logits)


@every_vlm
def test_sharded_save(model, backbones, tmp_path, batch):
    model.save_pretrained(tmp_path, max_shard_size="100kB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path)
    assert_generator_is_its_source(loaded, backbones[1])
    inputs = batch(*CASES["mixture"])
    assert_same(loaded(**inputs).logits, model(**inputs).logits)


@every_vlm
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM])
def test_auto_classes(checkpoint, backbones, auto_class):
    model = auto_class.from_pretrained(checkpoint)
    assert isinstance(model, VegaForSpatialReasoning)
    assert_generator_is_its_source(model, backbones[1])
    assert AutoConfig.from_pretrained(checkpoint).generator_config.block == BLOCK


@every_vlm
def test_the_base_model_loads_from_the_same_files(checkpoint, backbones, model, batch):
    base, info = VegaModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not info["missing_keys"]
    assert_generator_is_its_source(base, backbones[1])
    inputs = batch(*CASES["mixture"])
    hidden = base(**inputs).last_hidden_state
    assert_same(hidden, model.model(**inputs).last_hidden_state)


@every_vlm
def test_the_checkpoint_holds_its_parts_and_nothing_twice(checkpoint, backbones):
    keys = load_file(checkpoint / "model.safetensors").keys()
    parts = {key.split(".")[1] for key in keys}
    assert parts == {"vlm", "projector", "fusion", "generator"}
    assert [key for key in keys if key.startswith("model.generator.")] == ["model.generator.prompt_embeds"]
    for part in ("transformer", "vae"):
        for file in (backbones[1] / part).iterdir():
            assert (checkpoint / "generator" / part / file.name).read_bytes() == file.read_bytes()


@every_vlm
def test_saves_are_exact_and_repeatable(model, tmp_path):
    for folder in ("first", "second"):
        model.save_pretrained(tmp_path / folder)
    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path / "first")
    for (name, ours), (_, theirs) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    loaded.save_pretrained(tmp_path / "second")  # over an existing save
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    assert not list(tmp_path.rglob("*.partial"))


def test_a_smaller_save_leaves_no_old_shards(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="100kB")
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("model*.safetensors*")] == ["model.safetensors"]
    (tmp_path / ".saving-killed").mkdir()
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob(".saving*"))


def test_a_save_onto_its_own_folder(model, tmp_path, batch):
    model.save_pretrained(tmp_path)
    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path)
    inputs = batch(*CASES["video"])
    assert_same(VegaForSpatialReasoning.from_pretrained(tmp_path)(**inputs).logits, model(**inputs).logits)


def test_another_block_of_the_same_checkpoint(checkpoint, tmp_path):
    config = AutoConfig.from_pretrained(checkpoint)
    config.generator_config.block = 0
    shallow = VegaForSpatialReasoning.from_pretrained(checkpoint, config=config)
    assert len(shallow.model.generator.tower.transformer.blocks) == 1
    shallow.save_pretrained(tmp_path)
    deep = load_file(tmp_path / "generator" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert any(key.startswith("blocks.2.") for key in deep)


@every_vlm
def test_training_and_resuming(checkpoint, backbones, tmp_path, batch):
    """Two steps at once equal one step, a save, and another one; the generator is its source all the time."""
    inputs = batch(*CASES["video"])
    example = {**inputs, "labels": inputs["input_ids"]}

    def trainer(output: Path, steps: int) -> Trainer:
        model = VegaForSpatialReasoning.from_pretrained(checkpoint)
        options = {"max_steps": steps, "save_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 1}
        arguments = TrainingArguments(
            output, **options, lr_scheduler_type="constant", remove_unused_columns=False, report_to=[], use_cpu=True
        )
        return Trainer(model, arguments, train_dataset=[example] * 4, data_collator=lambda rows: dict(rows[0]))

    whole = trainer(tmp_path / "whole", 2)
    whole.train()
    trainer(tmp_path / "parts", 1).train()
    resumed = trainer(tmp_path / "parts", 2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-1"))
    assert_generator_is_its_source(resumed.model, backbones[1])
    start = VegaForSpatialReasoning.from_pretrained(checkpoint).state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    moved = [name for name, value in whole.model.named_parameters() if not torch.equal(value, start[name])]
    assert {name.split(".")[1] for name in moved} == {"vlm", "projector", "fusion"}
    reloaded = VegaForSpatialReasoning.from_pretrained(tmp_path / "parts" / "checkpoint-2")
    assert_generator_is_its_source(reloaded, backbones[1])


@every_vlm
def test_tied_embeddings_stay_tied(batch, vlm_type, tmp_path):
    """As in the smaller published VLMs: the output head is the embedding, stored once."""
    vlm, generator = save_vlm(tmp_path / "vlm", vlm_type, tied=True), save_generator(tmp_path / "generator")
    model = VegaForSpatialReasoning.from_backbones(vlm, generator, block=BLOCK, fusion_residual_init=0.5)
    inputs = batch(*CASES["mixture"])
    plain = AutoModelForImageTextToText.from_pretrained(vlm)

    model.save_pretrained(tmp_path / "model")

    assert not any("lm_head" in key for key in load_file(tmp_path / "model" / "model.safetensors"))

    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path / "model")
    for tied in (model, loaded):
        assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
        assert torch.equal(tied.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    assert_same(loaded(**inputs).logits, model(**inputs).logits)


# --- 4 bit -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wide_checkpoint(vlm_type, tmp_path_factory) -> Path:
    """Widths that are multiples of 64, as bitsandbytes wants them."""
    folder = tmp_path_factory.mktemp("wide")
    vlm, generator = save_vlm(folder / "vlm", vlm_type, width=64), save_generator(folder / "source")
    options = {"block": BLOCK, "projector_hidden_size": 64, "fusion_residual_init": 0.5}
    VegaForSpatialReasoning.from_backbones(vlm, generator, **options).save_pretrained(folder / "model")
    return folder / "model"


def quantised(model) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}


@every_vlm
def test_four_bit_quantises_the_language_model_only(wide_checkpoint, tmp_path, batch):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = VegaForSpatialReasoning.from_pretrained(wide_checkpoint, quantization_config=config)

    names = quantised(model)

    assert names
    assert all(name.startswith("model.vlm.model.language_model.") for name in names)
    assert_generator_is_its_source(model, wide_checkpoint / "generator", model.dtype)

    inputs = batch(*CASES["mixture"])
    logits = model(**inputs).logits
    assert torch.isfinite(logits).all()

    model.save_pretrained(tmp_path)
    reloaded = VegaForSpatialReasoning.from_pretrained(tmp_path)
    assert quantised(reloaded) == names
    assert_generator_is_its_source(reloaded, wide_checkpoint / "generator", model.dtype)

    with torch.no_grad():
        assert_same(reloaded(**inputs).logits, model(**inputs).logits)


def in_four_bits(checkpoint: Path) -> VegaForSpatialReasoning:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    return VegaForSpatialReasoning.from_pretrained(checkpoint, quantization_config=config)


def test_four_bit_weights_are_saved_as_they_were_loaded(wide_checkpoint, tmp_path, batch):
    """An answer on a CPU packs them, and rounds their scales."""
    model, inputs = in_four_bits(wide_checkpoint), batch(*CASES["mixture"])
    model.save_pretrained(tmp_path / "before")
    for name in ("after", "again"):
        with torch.no_grad():
            expected = model(**inputs).logits

        model.save_pretrained(tmp_path / name)

        before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("before", name))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        with torch.no_grad():
            assert torch.equal(VegaForSpatialReasoning.from_pretrained(tmp_path / name)(**inputs).logits, expected)
            assert torch.equal(model(**inputs).logits, expected)


def test_four_bit_layers_have_gradients_after_an_answer(wide_checkpoint, batch):
    inputs, gradients = batch(*CASES["mixture"]), []
    for answers_first in (False, True):
        model = in_four_bits(wide_checkpoint)
        if answers_first:
            with torch.no_grad():
                model(**inputs)
        model(**inputs).logits.square().mean().backward()
        gradients.append(model.model.fusion.gate.weight.grad)

    assert gradients[0].abs().max() > 0 and torch.equal(*gradients)


@pytest.mark.parametrize("width", [48, 96])
def test_four_bit_layers_of_any_width(tmp_path, width):
    """Neither width is one that bitsandbytes' packed kernel for CPUs takes in all layers."""
    from bitsandbytes.functional import dequantize_4bit

    vlm, generator = save_vlm(tmp_path / "vlm", width=width), save_generator(tmp_path / "source")
    VegaForSpatialReasoning.from_backbones(vlm, generator, block=BLOCK).save_pretrained(tmp_path / "model")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = VegaForSpatialReasoning.from_pretrained(tmp_path / "model", quantization_config=config).eval()
    random = torch.Generator().manual_seed(0)
    for name in quantised(model):
        layer = model.get_submodule(name)
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        hidden = torch.randn(2, 3, layer.in_features, generator=random)
        with torch.no_grad():
            ours = layer(hidden)
        expected = torch.nn.functional.linear(hidden, weight, layer.bias)
        torch.testing.assert_close(ours, expected, atol=0.02 * expected.abs().max().item(), rtol=0)  # in 16 bits


def test_a_given_skip_list_is_kept(wide_checkpoint):
    skip = ["model.generator", "model.fusion", "model.projector", "model.vlm"]
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": skip}
    model = VegaForSpatialReasoning.from_pretrained(wide_checkpoint, quantization_config=config)
    assert quantised(model) == set()


# --- Remote code -------------------------------------------------------------------------------------------------


@every_vlm
def test_remote_code_gives_the_same_logits(model, backbones, tmp_path, batch):
    """A process that cannot import the package loads the saved folder by its own code files."""
    model.save_pretrained(tmp_path / "model")
    inputs = batch(*CASES["mixture"])
    torch.save({"inputs": inputs, "logits": model(**inputs).logits.detach()}, tmp_path / "expected.pt")
    code = """
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

folder = sys.argv[1]
expected = torch.load(folder + "/expected.pt")
for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    model = auto.from_pretrained(folder + "/model", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    torch.testing.assert_close(model(**expected["inputs"]).logits, expected["logits"], atol=1e-6, rtol=0)
model.save_pretrained(folder + "/again")
again = AutoModel.from_pretrained(folder + "/again", trust_remote_code=True)
torch.testing.assert_close(again(**expected["inputs"]).logits, expected["logits"], atol=1e-6, rtol=0)
print("same logits")
"""

    assert "same logits" in run_without_package(code, tmp_path, str(tmp_path))


# --- Broken and wrong files --------------------------------------------------------------------------------------


@pytest.fixture
def copied(checkpoint, tmp_path) -> Path:
    shutil.copytree(checkpoint, tmp_path / "model")
    return tmp_path / "model"


def truncate(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def other_shapes(folder: Path) -> None:
    config = json.loads((folder / "generator" / "transformer" / "config.json").read_text())
    WanTransformer3DModel.from_config({**config, "ffn_dim": 48}).save_pretrained(folder / "other")
    file = "diffusion_pytorch_model.safetensors"
    shutil.copy(folder / "other" / file, folder / "generator" / "transformer" / file)


def drop_key(folder: Path) -> None:
    from safetensors.torch import save_file

    file = folder / "generator" / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["encoder.conv_in.weight"]
    save_file(state, file)


def shallow_files(folder: Path) -> None:
    config = json.loads((folder / "generator" / "transformer" / "config.json").read_text())
    WanTransformer3DModel.from_config({**config, "num_layers": 1}).save_pretrained(
        folder / "generator" / "transformer"
    )


def fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    text = config["vlm_config"]["text_config"]
    text["num_hidden_layers"] -= 1
    text["layer_types"] = None
    (folder / "config.json").write_text(json.dumps(config))


TRANSFORMER = Path("generator") / "transformer"
WEIGHTS = "diffusion_pytorch_model.safetensors"
BROKEN = {
    "no generator folder": (lambda folder: shutil.rmtree(folder / "generator"), "no folder 'generator'"),
    "no transformer": (lambda folder: shutil.rmtree(folder / TRANSFORMER), "transformer is missing"),
    "no vae": (lambda folder: shutil.rmtree(folder / "generator" / "vae"), "vae is missing"),
    "no weights": (lambda folder: (folder / TRANSFORMER / WEIGHTS).unlink(), "transformer in .* cannot be loaded"),
    "empty weights": (lambda folder: (folder / TRANSFORMER / WEIGHTS).write_bytes(b""), "cannot be loaded"),
    "truncated weights": (lambda folder: truncate(folder / TRANSFORMER / WEIGHTS), "cannot be loaded"),
    "truncated vae": (lambda folder: truncate(folder / "generator" / "vae" / WEIGHTS), "vae in .* cannot be loaded"),
    "other shapes": (other_shapes, "transformer in .* has ffn_dim=32|transformer in .* cannot be loaded"),
    "a missing tensor": (drop_key, "vae in .* lacks 1 of its weights, the first is encoder.conv_in.weight"),
    "too few blocks": (shallow_files, "transformer in .* has num_layers=1, but the model's config says 3"),
    "truncated model": (lambda folder: truncate(folder / "model.safetensors"), r"model\.safetensors cannot be read"),
    "too few layers of the VLM": (
        fewer_layers,
        r"weights of the VLM that its config does not tell of, the first is \S+layers",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_errors(copied, name):
    spoil, message = BROKEN[name]
    spoil(copied)
    with pytest.raises(ValueError, match=message):
        VegaForSpatialReasoning.from_pretrained(copied)


def test_weights_in_a_pickle_are_refused_with_what_to_do(copied):
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()

    with pytest.raises(OSError, match=r"has no model\.safetensors.*nothing is unpickled: have them saved"):
        VegaForSpatialReasoning.from_pretrained(copied)


def test_a_generator_of_another_config_is_refused(copied):
    file = copied / TRANSFORMER / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "eps": 1e-3}))
    with pytest.raises(ValueError, match=r"has eps=0\.001, but the model's config says 1e-06"):
        VegaForSpatialReasoning.from_pretrained(copied)


def test_missing_fusion_weights_are_an_error(copied):
    from safetensors.torch import save_file

    state = load_file(copied / "model.safetensors")
    del state["model.fusion.gate.weight"]
    save_file(state, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, the first is model\.fusion\.gate\.weight"):
        VegaForSpatialReasoning.from_pretrained(copied)


def test_a_plain_vlm_is_refused(backbones):
    with pytest.raises(ValueError, match="model_type 'qwen2_5_vl', not 'vega3d'"):
        VegaForSpatialReasoning.from_pretrained(backbones[0])


def test_a_model_from_memory_cannot_be_saved(checkpoint, tmp_path, batch):
    model = VegaForSpatialReasoning(AutoConfig.from_pretrained(checkpoint))
    assert torch.isfinite(model(**batch(*CASES["mixture"])).logits).all()
    with pytest.raises(ValueError, match="never written from memory"):
        model.save_pretrained(tmp_path)


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


PICKLES = {
    "model.safetensors": "pytorch_model.bin",
    str(TRANSFORMER / WEIGHTS): str(TRANSFORMER / "diffusion_pytorch_model.bin"),
    f"generator/vae/{WEIGHTS}": "generator/vae/diffusion_pytorch_model.bin",
}


@pytest.mark.parametrize("trapped", [True, False])
@pytest.mark.parametrize("name", PICKLES)
def test_pickled_weights_are_refused(copied, tmp_path, name, trapped):
    """With a trap inside, and also harmless ones: weights are safetensors only."""
    state = load_file(copied / name)
    (copied / name).unlink()
    torch.save({**state, **({"trap": Trap(tmp_path / "unpickled")} if trapped else {})}, copied / PICKLES[name])
    with pytest.raises((ValueError, OSError)):
        VegaForSpatialReasoning.from_pretrained(copied)
    assert not (tmp_path / "unpickled").exists()


def test_pickled_backbones_are_refused(backbones, tmp_path):
    for part, name in ((0, "model"), (1, "text_encoder/model")):
        folder = Path(shutil.copytree(backbones[part], tmp_path / str(part)))
        torch.save(load_file(folder / f"{name}.safetensors"), folder / f"{name.replace('model', 'pytorch_model')}.bin")
        (folder / f"{name}.safetensors").unlink()
        pair = [folder if index == part else backbones[index] for index in (0, 1)]
        with pytest.raises((ValueError, OSError)):
            VegaForSpatialReasoning.from_backbones(*pair, block=BLOCK)


# --- Assembling --------------------------------------------------------------------------------------------------


def test_the_empty_prompt_is_its_end_token(assemble, backbones):
    from transformers import UMT5EncoderModel

    encoder = UMT5EncoderModel.from_pretrained(backbones[1] / "text_encoder")
    with torch.no_grad():
        padded = encoder(torch.tensor([[1, 0, 0]]), attention_mask=torch.tensor([[1, 0, 0]])).last_hidden_state
    embeds = assemble().model.generator.prompt_embeds
    assert embeds.shape == (1, 16)
    torch.testing.assert_close(embeds, padded[0, :1], atol=1e-6, rtol=0)


def test_a_given_prompt_needs_no_text_encoder(backbones, tmp_path):
    save_generator(tmp_path, with_text_encoder=False)
    with pytest.raises(ValueError, match=r"no text_encoder.*Give prompt_embeds"):
        VegaForSpatialReasoning.from_backbones(backbones[0], tmp_path, block=BLOCK)
    prompt = torch.randn(3, 16)
    model = VegaForSpatialReasoning.from_backbones(backbones[0], tmp_path, prompt_embeds=prompt, block=BLOCK)
    assert torch.equal(model.model.generator.prompt_embeds, prompt)
    assert model.config.generator_config.prompt_tokens == 3


def test_new_weights_depend_on_the_seed_only(assemble):
    torch.manual_seed(5)
    first, same, other = assemble(seed=1), assemble(seed=1), assemble(seed=2)
    weights = [model.model.projector.mlp[0].weight for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.model.fusion.residual_scale == 0.5


@every_vlm
def test_assembled_in_bfloat16(assemble, backbones):
    model = assemble(dtype=torch.bfloat16)
    assert_generator_is_its_source(model, backbones[1], torch.bfloat16)
    assert model.model.projector.mlp[0].weight.dtype == torch.bfloat16
    assert model.model.fusion.residual_scale.dtype == torch.float32


OTHER_VLMS = {
    "llava": "The VLM is of model_type 'llava', but supported are qwen2_5_vl and qwen3_vl",
    "qwen3_vl_moe": "Give a Qwen2.5-VL, or a Qwen3-VL that is not a mixture of experts",
    "vega3d": "of model_type 'vega3d'",
    "unheard_of": "nor a Hub id of a vision-language model: .* has model type `unheard_of`",
}


@pytest.mark.parametrize("model_type", OTHER_VLMS)
def test_another_vlm_is_refused_before_anything_is_downloaded(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=OTHER_VLMS[model_type]):
        VegaForSpatialReasoning.from_backbones(tmp_path, "no/such-generator", block=BLOCK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blok": 1}, r"Unknown options \['blok'\]"),
        ({"block": 3}, "block=3"),
        ({"fusion": "gated"}, "fusion"),
        ({"vlm_config": {}}, "Unknown options"),
    ],
)
def test_bad_options_are_refused(backbones, options, message):
    with pytest.raises(ValueError, match=message):
        VegaForSpatialReasoning.from_backbones(*backbones, **{"block": BLOCK, **options})


def test_a_generator_in_another_place_is_refused(backbones, tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor a Hub id"):
        VegaForSpatialReasoning.from_backbones(backbones[0], tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no transformer, vae, text_encoder"):
        VegaForSpatialReasoning.from_backbones(backbones[0], tmp_path)


def test_an_encoder_of_patches_is_folded_too():
    """`patch_size=2`: squares of pixels become channels, in place of the first level."""
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True], patch_size=2,
        in_channels=12, out_channels=12,
    ).eval()  # fmt: skip
    frames = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        alone = FoldedWanEncoder(vae)(frames)
        expected = vae.encode(frames.unsqueeze(2)).latent_dist.mean.squeeze(2)
    assert alone.shape == (3, 4, 4, 6)
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)


def test_cast_weights_leaves_the_residual_scale_and_the_generator(assemble):
    model = assemble()
    before = {name: weight.clone() for name, weight in model.model.generator.named_parameters()}
    model.cast_weights(torch.bfloat16)
    own = {name: weight.dtype for name, weight in model.named_parameters() if ".generator." not in name}
    assert own.pop("model.fusion.residual_scale") == torch.float32
    assert set(own.values()) == {torch.bfloat16}
    assert model.config.dtype == model.model.generator.prompt_embeds.dtype == torch.bfloat16
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.generator.named_parameters())
