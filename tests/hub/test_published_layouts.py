"""Every published layout is assembled, or refused with words that say what to give, before anything large is read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub.hub_process import files_asked, run, serving
from hub.published_layouts import LAYOUTS, WAN, read, save_configs, save_vlm, save_wan, write
from processing.builders import build_processor
from tiny_checkpoints import VLM_PROCESSORS
from tiny_models import BLOCK, save_generator
from tiny_models import save_vlm as save_tiny_vlm
from vega3d import VegaForSpatialReasoning, VegaGeneratorConfig
from vega3d.hub.assemble import describe, make_processor, size_text
from vega3d.modeling.backbones_vega3d import read_generator
from vega3d.modeling.files_vega3d import Repository
from vega3d.processing.processor_checks_vega3d import check_vlm_parts

VLMS = [
    "qwen2.5-vl-7b-instruct",
    "qwen2.5-vl-3b-instruct",
    "qwen3-vl-8b-instruct",
    "qwen3-vl-4b-instruct",
    "qwen3-vl-2b-instruct",
]


@pytest.fixture(scope="module")
def wan(tmp_path_factory) -> Path:
    return save_wan(tmp_path_factory.mktemp("wan"))


# --- Assembled ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b-instruct", "qwen3-vl-2b-instruct"])
def test_a_published_layout_is_assembled_saved_and_loaded(wan, tmp_path, name):
    vlm = save_vlm(tmp_path / "vlm", name)

    model = VegaForSpatialReasoning.from_backbones(vlm, wan, block=20, projector_hidden_size=32)
    model.save_pretrained(tmp_path / "model")
    again = VegaForSpatialReasoning.from_pretrained(tmp_path / "model", dtype="auto")

    assert len(again.model.generator.tower.transformer.blocks) == 21
    for (key, ours), (_, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize("name", VLMS)
def test_a_published_config_describes_a_model_of_its_size(tmp_path, name):
    millions = {"7b": 8292, "3b": 3755, "8b": 8767, "4b": 4438, "2b": 2128}[name.split("-")[2]]
    parts = {part: read(WAN / part / "config.json") for part in ("transformer", "vae")}
    vlm = read(LAYOUTS / name / "config.json")
    config = {"model_type": "vega3d", "dtype": "bfloat16", "vlm_config": vlm, "generator_config": parts}
    write(tmp_path / "config.json", config)

    facts = describe(tmp_path)

    assert round(facts["parameters"]["vlm"] / 1e6) == millions
    assert round(facts["generator_parameters_stored"] / 1e6) == 1546


def test_the_sizes_of_the_published_generator():
    manifest = read(WAN / "manifest.json")["files"]
    sizes = {file["path"]: file["bytes"] for file in manifest}

    _, weights = read_generator(Repository("wan", WAN, sizes, is_local=False), with_text_encoder=True)

    downloaded = sum(sizes[path] for paths in weights.values() for path in paths)
    copied = sum(sizes[path] for part in ("transformer", "vae") for path in weights[part])
    assert (size_text(downloaded), size_text(copied)) == ("28.9 GB", "6.2 GB")


# --- Generators that are refused ---------------------------------------------------------------------------------


def two_experts_by_folder(folder: Path) -> None:
    save_configs(folder, "wan2.2-t2v-a14b-diffusers")
    write(folder / "transformer_2" / "config.json", read(folder / "transformer" / "config.json"))
    (folder / "model_index.json").unlink()


def of_class(part: str, name: str, **values) -> Callable[[Path], object]:
    return lambda folder: save_configs(folder, WAN.name, **{part: {"_class_name": name, **values}})


def original_wan(folder: Path) -> None:
    write(folder / "config.json", {"_class_name": "WanModel", "model_type": "t2v", "dim": 1536})
    for name in ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "diffusion_pytorch_model.safetensors"):
        (folder / name).touch()


def stable_diffusion(folder: Path) -> None:
    write(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    for part, kind in (("vae", "AutoencoderKL"), ("text_encoder", "CLIPTextModel"), ("unet", "UNet2DConditionModel")):
        write(folder / part / "config.json", {"_class_name": kind})


def gguf(folder: Path) -> None:
    (folder / "wan2.1-t2v-1.3b-q4.gguf").touch()


def without_weights(folder: Path) -> None:
    save_configs(folder, WAN.name)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").rename(folder / "transformer" / "weights.bin")


def index_outside(part: str, place: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        save_configs(folder, WAN.name)
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        (folder / part / f"{stem}.safetensors").unlink()
        write(folder / part / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": {"a": place}})

    return spoil


T2V = "Give a text-to-video generator of Wan2.1"
GENERATORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "Wan2.2-A14B": (
        lambda folder: save_configs(folder, "wan2.2-t2v-a14b-diffusers"),
        rf"two experts: transformer for steps of noise from 875 of 1000 on, transformer_2 below.*{T2V}",
    ),
    "two experts without an index": (two_experts_by_folder, "two experts"),
    "Wan2.2-TI2V-5B": (lambda folder: save_configs(folder, "wan2.2-ti2v-5b-diffusers"), "is_residual=True.*TI2V-5B"),
    "I2V": (lambda folder: save_configs(folder, "wan2.1-i2v-14b-480p-diffusers"), f"image_dim=1280.*{T2V}"),
    "Fun, 36 channels": (of_class("transformer", "WanTransformer3DModel", in_channels=36), "in_channels=36.*z_dim=16"),
    "added keys of an image": (
        of_class("transformer", "WanTransformer3DModel", added_kv_proj_dim=1536),
        "added_kv_proj_dim=1536",
    ),
    "VACE": (
        lambda folder: save_configs(folder, "wan2.1-vace-1.3b-diffusers"),
        rf"class 'WanVACETransformer3DModel', but must be 'WanTransformer3DModel'.*{T2V}",
    ),
    "CogVideoX": (
        of_class("transformer", "CogVideoXTransformer3DModel", patch_size=2),
        "'CogVideoXTransformer3DModel'",
    ),
    "Animate": (of_class("transformer", "WanAnimateTransformer3DModel"), "class 'WanAnimateTransformer3DModel'"),
    "LTX": (of_class("transformer", "LTXVideoTransformer3DModel"), "class 'LTXVideoTransformer3DModel'"),
    "a ControlNet": (of_class("transformer", "WanControlnet"), "class 'WanControlnet'"),
    "no class": (of_class("transformer", None), "class None"),  # type: ignore[arg-type]
    "another VAE": (of_class("vae", "AutoencoderKLLTXVideo"), "class 'AutoencoderKLLTXVideo'.*'AutoencoderKLWan'"),
    "latents of 16 px": (of_class("vae", "AutoencoderKLWan", patch_size=2, in_channels=12), "latent .* is of 16 px"),
    "quantised": (
        of_class("transformer", "WanTransformer3DModel", quantization_config={"quant_method": "gguf"}),
        "transformer .* is quantised",
    ),
    "another text encoder": (of_class("text_encoder", "", model_type="t5"), "model_type 't5', but must be 'umt5'"),
    "a narrow text encoder": (of_class("text_encoder", "", d_model=2048), "d_model=2048.*text_dim=4096"),
    "original layout": (original_wan, "has no transformer, vae, text_encoder.*'WanModel'.*name ends in -Diffusers"),
    "Stable Diffusion": (stable_diffusion, rf"has no transformer.*'StableDiffusionPipeline'.*{T2V}"),
    "GGUF": (gguf, "GGUF files are not read"),
    "pickled weights": (without_weights, r"has no diffusion_pytorch_model\.safetensors, only \.bin files"),
    "an index that points outside": (index_outside("transformer", "../../x.safetensors"), r"lies in '\.\./\.\./x"),
    "an absolute index": (index_outside("text_encoder", "/etc/x.safetensors"), "beside their index"),
    "a missing shard": (index_outside("vae", "x-00001-of-00001.safetensors"), "lacks 1 of its 1 files of weights"),
}


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("tiny_vlm"))


@pytest.mark.parametrize("clip_mode", ["frame", "clip"])
@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_of_another_layout_is_refused(tiny_vlm, tmp_path, name, clip_mode):
    make, words = GENERATORS[name]
    make(tmp_path)

    with pytest.raises(ValueError, match=words):
        VegaForSpatialReasoning.from_backbones(tiny_vlm, tmp_path, block=20, clip_mode=clip_mode)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("text", ["[]", "null", "NaN", "5", "{", "[" * 100_000 + "]" * 100_000])
def test_a_config_of_a_generator_that_holds_something_else_is_refused(tiny_vlm, tmp_path, part, text):
    folder = save_configs(tmp_path, WAN.name)
    (folder / part / "config.json").write_text(text)

    with pytest.raises(ValueError, match=r"config\.json"):
        VegaForSpatialReasoning.from_backbones(tiny_vlm, folder)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("transformer", {"num_layers": 0}),
        ("transformer", {"num_attention_heads": "x"}),
        ("transformer", {"patch_size": [1, 0, 0]}),
        ("transformer", {"patch_size": 2}),
        ("transformer", {"eps": float("nan")}),
        ("transformer", {"qk_norm": "none"}),
        ("vae", {"dim_mult": [0, 0, 0]}),
        ("vae", {"dim_mult": None}),
        ("vae", {"z_dim": True}),
        ("vae", {"latents_mean": [float("inf")] * 16}),
        ("vae", {"latents_std": [0.0] * 16}),
        ("vae", {"latents_std": [1.0]}),
        ("vae", {"temperal_downsample": [True]}),
    ],
)
def test_impossible_values_of_a_generator_are_refused(tiny_vlm, tmp_path, part, values):
    folder = save_configs(tmp_path, WAN.name, **{part: values})

    with pytest.raises(ValueError, match=f"{part}.{next(iter(values))}"):
        VegaForSpatialReasoning.from_backbones(tiny_vlm, folder)


def test_unknown_weights_of_a_generator_are_refused(tiny_vlm, tmp_path):
    folder = save_generator(tmp_path)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "blocks.0.attn2.add_k_proj.weight": torch.zeros(2)}, file)

    with pytest.raises(ValueError, match=r"1 weights that its config does not tell of.*attn2\.add_k_proj"):
        VegaForSpatialReasoning.from_backbones(tiny_vlm, folder, block=BLOCK)


# --- VLMs that are refused ---------------------------------------------------------------------------------------


def changed_config(**values) -> Callable[[Path], object]:
    return lambda folder: write(folder / "config.json", {**read(folder / "config.json"), **values})


def changed_weights(change: Callable[[dict], dict]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})

    return spoil


def sharded(spoil: Callable[[dict, Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        names = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
        spoil(names, folder)
        write(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": names})

    return make


def official(names: dict, folder: Path) -> None:
    names |= dict.fromkeys(
        read(LAYOUTS / "vega-3d-spatial-reasoning-7b" / "state_dict.json"), next(iter(names.values()))
    )


def pipe_in_place_of_a_shard(names: dict, folder: Path) -> None:
    (folder / "model-00001-of-00001.safetensors").unlink()
    os.mkfifo(folder / "model-00001-of-00001.safetensors")


def adapter(folder: Path) -> None:
    write(
        folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}
    )


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


QUANTISED = r"is quantised \({}\).*`--4bit`"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "bitsandbytes": (
        changed_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        QUANTISED.format("bitsandbytes"),
    ),
    "AWQ": (changed_config(quantization_config={"quant_method": "awq", "bits": 4}), QUANTISED.format("awq")),
    "GPTQ": (changed_config(quantization_config={"quant_method": "gptq", "bits": 4}), QUANTISED.format("gptq")),
    "FP8": (changed_config(quantization_config={"quant_method": "fp8"}), QUANTISED.format("fp8")),
    "compressed": (changed_config(compression_config={"format": "int-quantized"}), "is quantised"),
    "official config": (changed_config(use_generative_encoder=True), "official VEGA-3D checkpoint"),
    "official index": (sharded(official), "official VEGA-3D checkpoint"),
    "official weights": (
        changed_weights(lambda weights: {**weights, "generative_merger.ln_q.weight": torch.zeros(2)}),
        "official VEGA-3D checkpoint.*would be lost",
    ),
    "an unknown weight": (
        changed_weights(lambda weights: {**weights, "depth_head.weight": torch.zeros(2)}),
        r"has 1 weights that a qwen2_5_vl has not, the first is depth_head\.weight",
    ),
    "a missing weight": (
        changed_weights(lambda weights: {key: value for key, value in weights.items() if "norm1" not in key}),
        "lacks 2 weights",
    ),
    "another shape": (
        changed_weights(lambda weights: {**weights, "lm_head.weight": torch.zeros(3, 3)}),
        "The VLM .* cannot be read",
    ),
    "truncated": (truncated, "The VLM .* cannot be read"),
    "code of its own": (changed_config(auto_map={"AutoConfig": "evil.Config"}), "brings code of its own"),
    "text only": (changed_config(model_type="qwen2"), "model_type 'qwen2', but supported are qwen2_5_vl and qwen3_vl"),
    "another family": (changed_config(model_type="llava"), "model_type 'llava'"),
    "an adapter": (adapter, r"is an adapter of Qwen/Qwen2\.5-VL-7B-Instruct.*Merge it"),
    "GGUF": (
        lambda folder: (folder / "model.safetensors").rename(folder / "m.gguf"),
        r"no model\.safetensors, only \.gguf",
    ),
    "a missing shard": (sharded(lambda names, folder: names.update(a="b.safetensors")), "lacks 1 of its 2 files"),
    "a shard outside": (sharded(lambda names, folder: names.update(a="../b.safetensors")), "beside their index"),
    "a shard that is pickled": (sharded(lambda names, folder: names.update(a="b.bin")), "beside their index"),
    "a shard that is a pipe": (sharded(pipe_in_place_of_a_shard), "lacks 1 of its 1 files"),
    "no vocabulary": (changed_config(text_config={"vocab_size": 1}), "image_token_id=290"),
    "no width": (changed_config(text_config={"hidden_size": 0}), "hidden_size=0"),
    "a part that is a list": (changed_config(text_config=[1]), "config"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_vlm_of_another_kind_is_refused(tiny_vlm, backbones, tmp_path, name):
    spoil, words = REFUSED[name]
    folder = Path(shutil.copytree(tiny_vlm, tmp_path / "vlm"))
    spoil(folder)

    with pytest.raises(ValueError, match=words):
        VegaForSpatialReasoning.from_backbones(folder, backbones[1], block=BLOCK, projector_hidden_size=32)


def test_the_official_checkpoint_is_not_sent_to_assemble(tiny_vlm, tmp_path):
    changed_config(use_generative_encoder=True)(Path(shutil.copytree(tiny_vlm, tmp_path / "model")))

    with pytest.raises(ValueError, match=r"official VEGA-3D checkpoint: .* would be lost") as refused:
        VegaForSpatialReasoning.from_pretrained(tmp_path / "model")

    assert "vega3d assemble" not in str(refused.value)


# --- Nothing large is downloaded before --------------------------------------------------------------------------


def test_a_wrong_repository_is_refused_before_its_weights_are_asked_for(backbones, tmp_path):
    root = tmp_path / "hub"
    shutil.copytree(backbones[0], root / "org" / "vlm")
    for number, name in enumerate(GENERATORS):
        make, _ = GENERATORS[name]
        (root / "org" / f"generator{number}").mkdir(parents=True)
        make(root / "org" / f"generator{number}")
    for number, name in enumerate(["AWQ", "official config", "official index", "an adapter", "a missing shard"]):
        REFUSED[name][0](Path(shutil.copytree(backbones[0], root / "org" / f"vlm{number}")))
    pairs = [("org/vlm", f"org/generator{number}") for number in range(len(GENERATORS))]
    pairs += [(f"org/vlm{number}", "org/generator0") for number in range(5)]
    code = f"""
import json
from vega3d import VegaForSpatialReasoning
said = []
for vlm, generator in {pairs!r}:
    try:
        VegaForSpatialReasoning.from_backbones(vlm, generator, block=20)
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""

    with serving(root) as address:
        said = json.loads(run((address, root), code, tmp_path))

    assert len(said) == len(pairs)
    asked = files_asked(root)
    assert "org/generator0/transformer/config.json" in asked
    assert not [file for file in asked if not file.endswith(".json")]


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b-instruct", "qwen3-vl-8b-instruct"])
def test_the_published_settings_and_chat_template_of_a_processor_are_taken(tmp_path, name):
    vlm_type = read(LAYOUTS / name / "config.json")["model_type"]
    tokenizer = build_processor(VLM_PROCESSORS[vlm_type]).tokenizer
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    for file in ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json", "config.json"):
        if (LAYOUTS / name / file).is_file():
            shutil.copy(LAYOUTS / name / file, tmp_path / file)
    vision = read(tmp_path / "config.json")["vision_config"]

    processor = make_processor(tmp_path, VegaGeneratorConfig(block=20))
    check_vlm_parts(processor)

    assert processor.video_processor.patch_size == vision["patch_size"]
    assert "chat_template" in read(tmp_path / "chat_template.json") and processor.chat_template is not None
