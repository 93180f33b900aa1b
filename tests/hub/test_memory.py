"""How a model is held in less memory, and what is told of it before it is loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from command_line import run
from tiny_checkpoints import FROZEN, FROZEN_CONFIG, copy_frozen, save_checkpoint
from vega3d import VegaForSpatialReasoning
from vega3d.hub.load import load_vega
from vega3d.hub.memory import (
    GENERATOR,
    LANGUAGE,
    VAE,
    VISUAL,
    WEIGHT_PARTS,
    Weight,
    check_widths,
    checkpoint_shapes,
    held_bytes,
    language_bytes,
    read_shapes,
    weight_bytes,
)
from vega3d.hub.memory_choices import CHOICES, memory_choice
from vega3d.hub.memory_report import GIB, activation_bytes, check_memory, describe_memory, together
from vega3d.modeling import generator_wan_vega3d
from vega3d.modeling.causal_vae_wan_vega3d import CausalWanEncoder

LAYOUTS = Path(__file__).parents[1] / "fixtures" / "layouts"
QWEN, WAN = LAYOUTS / "qwen2.5-vl-7b-instruct", LAYOUTS / "wan2.1-t2v-1.3b-diffusers"
MEASURED = Path(__file__).parents[2] / "docs" / "results" / "model_h200.json"
ON_CPU = ("full", "4bit", "low", "low-8bit")


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models() -> dict:
    return {memory: load_vega(FROZEN, device="cpu", memory=memory)[0] for memory in ON_CPU}


@pytest.fixture(scope="module")
def full_size():
    return read_shapes(QWEN, WAN)


# --- Loaded ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ON_CPU)
def test_what_is_told_before_loading_is_held_after_it(models, memory):
    told = weight_bytes(checkpoint_shapes(FROZEN), CHOICES[memory], device="cpu")

    assert held_bytes(models[memory]) == told.parts
    assert told.in_host == 0


def test_other_models_are_told_of_as_well(tmp_path):
    folder = save_checkpoint(tmp_path, "qwen3_vl", clip_mode="clip", fusion="cross_attention")

    told = weight_bytes(checkpoint_shapes(folder), CHOICES["full"], torch.float32, "cpu")

    assert held_bytes(load_vega(folder, device="cpu", dtype="float32")[0]) == told.parts


def test_a_model_saved_in_4_bits_is_told_of_as_it_is(models, tmp_path):
    models["4bit"].save_pretrained(tmp_path)

    told = weight_bytes(checkpoint_shapes(tmp_path), CHOICES["full"], device="cpu")

    assert held_bytes(VegaForSpatialReasoning.from_pretrained(tmp_path)) == told.parts


def test_little_memory_on_a_cpu_is_4_bits_and_single_frames(models, clip):
    low, full = models["low"], models["full"]
    kinds = {name for name, module in low.named_modules() if type(module).__name__ == "Linear4bit"}
    encoder = low.generator_module.tower.encoder

    assert kinds and all(".language_model." in name for name in kinds)
    assert not low.generator_module.is_offloaded
    assert [len(part) for part in encoder.parts(clip)] == [1] * len(clip)
    features = (model.generator_module.encode([clip])[0] for model in (low, full))
    torch.testing.assert_close(*features, rtol=0.02, atol=0.02)  # bfloat16, and convolutions of other batches


def test_a_generator_of_eight_bits_is_loaded_by_name(models, clip):
    low, full = (models[name].generator_module for name in ("low-8bit", "full"))

    assert low.config.linear_precision == "int8" and full.config.linear_precision == "native"
    first, second = (generator.encode([clip])[0].float() for generator in (low, full))
    assert 0.98 < torch.cosine_similarity(first, second, dim=-1).mean() < 1 - 1e-6


def test_blocks_are_there_when_they_are_computed_and_not_after(models, clip, tmp_path, monkeypatch):
    """The hooks of a GPU on a CPU, with the disk for host memory: a block that is not brought has no values."""
    expected = models["full"].generator_module.encode([clip])[0]
    source = models["full"].generator_module
    monkeypatch.setitem(generator_wan_vega3d.OFFLOADING, "offload_to_disk_path", str(tmp_path))
    generator = source.variant()

    generator.load_files(FROZEN / "generator", offload=True)

    blocks = generator.tower.transformer.blocks
    assert len(list(tmp_path.glob("group_*.safetensors"))) == len(blocks) + 1
    for block in blocks:  # what memory without values happens to hold must not be what is computed with
        for weight in block.parameters():
            weight.data.fill_(torch.nan)
    for _ in range(2):  # the first pass also computes the constants of the prompt
        assert torch.equal(generator.encode([clip])[0], expected)
    names = dict(source.tower.named_parameters())
    assert dict(generator.tower.named_parameters()).keys() == names.keys()


def test_compiled_blocks_are_not_offloaded(models):
    generator = models["full"].generator_module.variant()
    generator.config.compile = True

    with pytest.raises(ValueError, match="offload is True and compile is True"):
        generator.load_files(FROZEN / "generator", offload=True)


# --- Told before -----------------------------------------------------------------------------------------------------


def test_full_size_is_what_a_gpu_held(full_size):
    """A fused model of these shapes was weighed on an H200; an index says what the VLM's files hold."""
    measured = json.loads(MEASURED.read_text())["rows"]["full"]["weights_gib"]
    index = json.loads((QWEN / "model.safetensors.index.json").read_text())
    held = weight_bytes(full_size, CHOICES["full"])

    assert held.total / GIB == pytest.approx(measured, rel=2e-3)
    assert held.parts[LANGUAGE] + held.parts[VISUAL] == pytest.approx(index["metadata"]["total_size"], rel=1e-6)


def test_choices_save_what_they_say(full_size):
    held = {name: weight_bytes(full_size, choice) for name, choice in CHOICES.items()}
    bits = {"int8": 8, "fp8": 8, "4bit": 4.13}

    matrices = (held["full"].parts[LANGUAGE] - held["int8"].parts[LANGUAGE]) / 8  # bytes a bit saved, nearly
    for name, width in bits.items():
        saved = held["full"].parts[LANGUAGE] - held[name].parts[LANGUAGE]
        assert saved == pytest.approx((16 - width) * matrices, rel=2e-3), name
    whole, offloaded = held["4bit"].parts[GENERATOR], held["low"].parts[GENERATOR]
    blocks = held["low"].in_host
    assert offloaded == pytest.approx(whole - blocks * 19 / 21)  # two of 21 are on the GPU
    assert held["low-8bit"].parts[GENERATOR] < 0.65 * whole
    needed = held["low"].total + together(activation_bytes(full_size, CHOICES["low"], torch.bfloat16))
    assert needed < 10 * GIB


@pytest.mark.parametrize("choice", ["full", "low"])
def test_activations_grow_with_the_frames(full_size, choice):
    few, many = (
        activation_bytes(replace(full_size, num_frames=frames), CHOICES[choice], torch.bfloat16) for frames in (1, 64)
    )

    assert all(few[stage] <= many[stage] for stage in few) and together(few) < together(many)


@pytest.mark.parametrize(("choice", "frames"), [("full", 8), ("low", 4)])
def test_the_vae_of_consecutive_frames_takes_as_many_as_it_encodes_at_a_time(choice, frames):
    shapes = replace(read_shapes(WAN), area=832 * 480, num_frames=33)
    shapes.config.generator_config.clip_mode = "clip"
    encoder = CausalWanEncoder(AutoencoderKLWan(base_dim=4))
    encoder.pixels_at_a_time = 1 if CHOICES[choice].slices else encoder.pixels_at_a_time
    at_a_time = max(part.shape[1] for part in encoder.parts(torch.empty(1, 33, 3, 480, 832, device="meta")))

    held = activation_bytes(shapes, CHOICES[choice], torch.bfloat16)["VAE"]

    assert at_a_time == frames
    assert held == 8 * frames * 832 * 480 * 96 * 2


def test_the_estimate_of_the_blocks_is_near_what_was_measured():
    """Peaks less weights of a generator alone, 16 frames at a time (docs/results.md)."""
    measured = json.loads((MEASURED.parent / "generator_h200.json").read_text())["sizes"]
    shapes = read_shapes(WAN)
    weights = weight_bytes(shapes, CHOICES["full"]).total / GIB
    for name, area in (("832x480", 832 * 480), ("1280x720", 1280 * 720)):
        blocks = activation_bytes(replace(shapes, area=area), CHOICES["full"], torch.bfloat16)["generator blocks"]
        assert weights + blocks / GIB == pytest.approx(measured[name]["vega3d, eager, bf16"]["peak_gib"], rel=0.05)


@pytest.mark.parametrize(("model", "parts"), [(QWEN, {LANGUAGE, VISUAL}), (WAN, {GENERATOR, VAE, "text states"})])
def test_a_backbone_alone_has_its_own_parts(model, parts):
    held = weight_bytes(read_shapes(model), CHOICES["full"])

    assert {part for part in WEIGHT_PARTS if held.parts[part]} == parts


def test_too_little_memory_is_refused_with_what_would_save_some(full_size):
    check_memory(full_size, "low", None, 12 * GIB)
    check_memory(full_size, "full", None, None)
    with pytest.raises(
        ValueError,
        match=r"memory='full' the weights need 17\.\d+ GiB .* but 12\.00 GiB are free\. "
        r"memory='4bit' saves \d\.\d+ GiB; memory='low' saves 1\d\.\d+ GiB",
    ):
        check_memory(full_size, "full", None, 12 * GIB)


def with_transformer(folder: Path, **values) -> Path:
    generator = FROZEN_CONFIG["generator_config"]
    return copy_frozen(folder, generator_config={**generator, "transformer": {**generator["transformer"], **values}})


def test_widths_that_cannot_be_are_refused_by_the_layer(tmp_path):
    folder = with_transformer(tmp_path / "model", ffn_dim=100)
    with pytest.raises(
        ValueError, match=r"multiples of 16, but block 0 of the generator has ffn\.net\.0\.proj of 100 x 48"
    ):
        load_vega(folder, device="cpu", memory="low-8bit")
    with pytest.raises(ValueError, match=r"multiples of 128, but model\.vlm\.\S+layers\.0\.self_attn\.q_proj has 32"):
        check_widths(checkpoint_shapes(FROZEN), CHOICES["int4"])
    refused = describe_memory(checkpoint_shapes(folder))["choices"]
    assert "refused" in refused["low-8bit"] and "refused" not in refused["low"]


@pytest.mark.parametrize(("rows", "columns", "padded"), [(3584, 3584, (3584, 4096)), (20, 2048, (24, 2048))])
def test_matrices_of_int4_are_padded(rows, columns, padded):
    weight = Weight("layer", LANGUAGE, rows * columns, rows, is_linear=True, own_bytes=None)

    count = padded[0] * padded[1]
    assert language_bytes(weight, {}, "int4", torch.bfloat16) == count // 2 + count // 128 * 4


def test_names_that_contradict_each_other():
    assert memory_choice("full", four_bit=True) == "4bit"
    assert memory_choice("low", four_bit=True) == "low"
    with pytest.raises(ValueError, match="memory is 'int8', and 4 bits of bitsandbytes"):
        memory_choice("int8", four_bit=True)
    with pytest.raises(ValueError, match=r"memory is 'tiny', but must be one of \['full', '4bit', 'low'"):
        load_vega(FROZEN, device="cpu", memory="tiny")


# --- The commands ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_info_prints_a_table_without_a_gpu():
    result = run("info", FROZEN, "--memory")

    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["MiB", *(name for name in CHOICES if name != "int4")]
    assert "There is no GPU here." in lines and any(line.startswith("int4: memory='int4' needs") for line in lines)
    assert not any(line.startswith("fits") for line in lines)


def test_info_prints_bytes_as_json(full_size):
    result = run("info", QWEN, "--generator", WAN, "--memory", "--num-frames", "16", "--json")

    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["num_frames"] == 16 and values["choices"].keys() == CHOICES.keys()
    for name, choice in CHOICES.items():
        one = values["choices"][name]
        assert one["weights_together"] == weight_bytes(full_size, choice).total == sum(one["weights"].values())
        assert one["needed"] == one["weights_together"] + one["activations_together"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", FROZEN, "--num-frames", "4"], "--num-frames is 4, but only --memory reads it"),
        (["info", FROZEN, "--memory", "--generator", WAN], "has a generator of its own"),
        (["info", "nowhere", "--memory"], "There is no model 'nowhere'"),
        (["ask", "room", "Where?", "--memory", "tiny"], "'tiny'"),
        (["ask", "room", "Where?", "--memory", "int8", "--4bit"], "memory is 'int8', and 4 bits"),
    ],
)
def test_bad_options_end_with_one_line(arguments, message):
    result = run(*arguments)

    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert message in line


def test_ask_in_little_memory():
    result = run(
        "ask",
        "room",
        "Which is larger?",
        "--options",
        "bed",
        "lamp",
        "--model",
        FROZEN,
        "--memory",
        "low",
        "--device",
        "cpu",
        "--num-frames",
        "2",
        "--json",
    )

    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["options"]) == {"A", "B"}
