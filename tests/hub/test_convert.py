"""Official checkpoints and the original Wan become ours; the logits of a converted one are in `test_conformance`."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from command_line import answer, run
from golden_models import Fixture, wan_vae
from hub.published_layouts import LAYOUTS, WAN, read, write
from official_checkpoints import (
    TOWER,
    official_config,
    official_weights,
    original_text_encoder,
    save_official,
    save_original_wan,
    umt5_encoder,
)
from processing.builders import build_processor
from vega3d import VegaConfig, VegaForSpatialReasoning
from vega3d.hub.convert import check_fused, convert, fused_config, fused_weights, under
from vega3d.hub.official_configs import spatial_settings
from vega3d.hub.official_names import GROUNDING_HEAD, WAN_TRANSFORMER, rename
from vega3d.hub.original_wan import Wan, rename_transformer
from vega3d.hub.tensor_files import StoredTensor, unpickle
from vega3d.hub.weight_checks import check_weights
from vega3d.modeling.alignment_vega3d import PROJECTORS
from vega3d.modeling.backbones_vega3d import embed_empty_prompt
from vega3d.modeling.files_vega3d import Repository
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.grounding_head_vega3d import HEADS

VAE = "Wan2.1_VAE.safetensors"
DIT = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return save_original_wan(tmp_path_factory.mktemp("original") / "wan", pickled=False)


@pytest.fixture(scope="module")
def wan(original, tmp_path_factory) -> Path:
    """The same in diffusers' layout, with its prompt."""
    return convert(original, tmp_path_factory.mktemp("converted") / "wan")


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    return save_official(tmp_path_factory.mktemp("official") / "model")


def begun_anew(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What transformers makes of a frozen tower that it takes for missing: matrices N(0, 0.02), biases zero."""
    random = torch.Generator().manual_seed(0)
    anew = dict(weights)
    for key, value in weights.items():
        if key.startswith(TOWER) and value.ndim > 1 and "modulation" not in key:
            anew[key] = torch.randn(value.shape, generator=random) * 0.02
            anew[key.replace("weight", "bias")] = torch.zeros(len(value))
    return anew


# --- The spatial-reasoning checkpoint ----------------------------------------------------------------------------


def test_every_published_name_and_shape_has_its_place():
    shapes = read(LAYOUTS / "vega-3d-spatial-reasoning-7b" / "state_dict.json")
    tensors = {key: StoredTensor(Path(), key, torch.bfloat16, tuple(shape)) for key, shape in shapes.items()}
    published = read(LAYOUTS / "qwen2.5-vl-7b-instruct" / "config.json")
    generative = {key: value for key, value in official_config().items() if "generative_" in key}
    config = {**published, **generative, "generative_merger_hidden_dim": 4096}
    transformer, vae = (read(WAN / part / "config.json") for part in ("transformer", "vae"))

    settings, vlm = spatial_settings(config, "it")
    given = Wan(Repository("wan", WAN, {}, is_local=True), False, transformer, 512)
    fused = fused_config(settings, vlm, given, vae=vae)
    weights, tower = fused_weights(tensors, fused.fusion), rename_transformer(under(tensors, TOWER), "it")
    check_fused(weights, fused, "it")
    with torch.device("meta"):
        check_weights(tower, WanTransformer3DModel.from_config(transformer).state_dict(), "it")

    assert len(weights) + len(tower) == len(shapes) == 1566
    assert (
        tower.keys()
        == read(WAN / "transformer" / "diffusion_pytorch_model.safetensors.index.json")["weight_map"].keys()
    )


def test_the_pretrained_transformer_is_known_by_its_weights(official, wan, tmp_path):
    done = run("convert", official, tmp_path / "model", "--generator", wan)

    assert done.exit_code == 0, done.stderr
    assert "weights of the transformer are those of" in done.stderr and "the pretrained ones" in done.stderr
    assert done.stdout == f"{tmp_path / 'model'}\n"
    saved = {file.name for file in (tmp_path / "model").iterdir()}
    VegaForSpatialReasoning.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    again = {file.name for file in (tmp_path / "again").iterdir()}
    assert {name for name in again if name.endswith((".py", "config.json"))} <= saved


def test_a_transformer_rounded_to_bfloat16_is_the_pretrained_one(wan, tmp_path):
    weights = {key: value.bfloat16() for key, value in official_weights().items()}
    lines: list[str] = []

    convert(save_official(tmp_path / "official", weights), tmp_path / "model", wan, report=lines.append)

    assert "(in bfloat16; there in float32): they are the pretrained ones" in lines[-1]
    model = VegaForSpatialReasoning.from_pretrained(tmp_path / "model", dtype="auto")
    assert model.dtype == torch.bfloat16
    merger = official_weights()["generative_merger.mlp.0.weight"].bfloat16()
    assert torch.equal(model.model.projector.mlp[0].weight, merger)


@pytest.mark.parametrize("restore", [False, True])
def test_a_transformer_begun_anew_is_told_of_and_kept_or_restored(wan, tmp_path, restore):
    spoiled = save_official(tmp_path / "official", begun_anew(official_weights()))
    lines: list[str] = []

    convert(spoiled, tmp_path / "model", wan, restore, lines.append)

    assert "not the pretrained ones, but random" in lines[-1]
    assert ("are taken (--restore)" in lines[-1]) == restore
    source = official_weights() if restore else begun_anew(official_weights())
    tower = {key.removeprefix(TOWER): value for key, value in source.items() if key.startswith(TOWER)}
    written = load_file(tmp_path / "model" / "generator" / DIT)
    for key, value in rename(tower, WAN_TRANSFORMER).items():
        assert torch.equal(written[key], value), key
    assert VegaForSpatialReasoning.from_pretrained(tmp_path / "model").model.generator.tower is not None


def test_a_head_that_is_tied_to_the_embeddings_may_be_left_out(wan, tmp_path):
    official = save_official(
        tmp_path / "official", without_block(official_weights(), "lm_head."), tie_word_embeddings=True
    )

    model = VegaForSpatialReasoning.from_pretrained(convert(official, tmp_path / "model", wan))

    embeddings = official_weights()["model.embed_tokens.weight"]
    assert torch.equal(model.get_output_embeddings().weight, embeddings)


def test_other_weights_of_the_transformer_are_not_called_random(official, wan, tmp_path):
    weights = official_weights()
    weights[f"{TOWER}blocks.1.ffn.0.weight"] = weights[f"{TOWER}blocks.1.ffn.0.weight"] + 0.1
    lines: list[str] = []

    convert(save_official(tmp_path / "official", weights), tmp_path / "model", wan, report=lines.append)

    assert re.search(r"^1 of the \d+ weights .* blocks\.1\.ffn\.net\.0\.proj\.weight.*pretrained ones\. ", lines[-1])


def test_a_converted_model_answers(wan, tmp_path):
    tokenizer = build_processor().tokenizer
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    tokens = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
    wider = {key: torch.randn(300, 64) for key in ("model.embed_tokens.weight", "lm_head.weight")}
    official = save_official(tmp_path / "official", {**official_weights(), **wider}, vocab_size=300, **tokens)

    folder = convert(official, tmp_path / "model", wan)

    assert read(folder / "processor_config.json")["generator_frame_size"] == [80, 112]
    asked = ("Which is nearer?", "--options", "bed", "door", "--num-frames", "2")
    assert sum(answer("room", *asked, model=folder)["options"].values()) == pytest.approx(1)


# --- The original Wan --------------------------------------------------------------------------------------------


def test_the_original_wan_becomes_a_generator_for_assemble(tmp_path):
    encoder, vae = umt5_encoder(24), Fixture("wan_vae")
    wan = save_original_wan(tmp_path / "wan", vae=vae.under("state."), prompt=False, pickled=False)
    torch.save(original_text_encoder(encoder), wan / "models_t5_umt5-xxl-enc-bf16.pth")
    encoder.save_pretrained(tmp_path / "own" / "text_encoder")

    convert(wan, tmp_path / "generator")

    folders = [tmp_path / name / "text_encoder" for name in ("generator", "own")]
    made, own = (load_file(*folder.glob("*.safetensors")) for folder in folders)
    assert made.keys() == own.keys() and all(torch.equal(value, own[key]) for key, value in made.items())
    # The encoder is mapped from its file, and where a weight begins there decides how its products are rounded.
    torch.testing.assert_close(*(embed_empty_prompt(folder.parent) for folder in folders))
    loaded = AutoencoderKLWan.from_pretrained(tmp_path / "generator", subfolder="vae")
    ours = wan_vae(vae.config["dim"], vae.config["num_res_blocks"], vae.under("state.")).state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in loaded.state_dict().items())
    assert torch.allclose(torch.tensor(loaded.config.latents_std), vae["input.latents_std"])
    WanTransformer3DModel.from_pretrained(tmp_path / "generator", subfolder="transformer")


# --- The 3D-scene checkpoint -------------------------------------------------------------------------------------


CHANNELS = 40  # of the Wan of `save_original_wan`
SCENE_CONFIG: dict[str, Any] = {
    "model_type": "llava_qwen",
    "hidden_size": 48,
    "mm_projector_type": "mlp2x_gelu",
    "world_position_embedding_type": "avg-discrete-sin3d",
    "object_feature_type": "patch14-pe",
    "use_generative_feature": True,
    "generative_feat_dim": CHANNELS,
    "generative_projector_type": "mlp2x_gelu",
    "generative_vision_tower_type": "wan_t2v_online",
    "generative_vision_tower_task": "t2v-1.3B",
    "generative_vision_tower_size": "1280*720",
    "generative_vision_tower_feat_block_idx": 20,
    "use_feat_fusion": True,
    "feature_fusion_method": "token_gated",
    "ground_head_type": "infonce",
    "ground_head_temperature": 0.07,
}


def scene_weights() -> dict[str, torch.Tensor]:
    fixture, width = Fixture("main_prefix"), SCENE_CONFIG["hidden_size"]
    parts = ("generative_projector.", "feature_fusion.", "mm_projector.")
    weights = {f"model.{part}{key}": value for part in parts for key, value in fixture.under(f"state.{part}").items()}
    weights["model.image_newline"] = fixture["state.image_newline"]
    weights["model.generative_projector.0.weight"] = torch.randn(48, CHANNELS)
    weights["lm_head.weight"] = torch.zeros(40, width)
    weights["ground_head_zero_target"] = torch.randn(width)
    for part in ("ground_head_obj", "ground_head_query"):
        head = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.LayerNorm(width), torch.nn.Linear(width, width)
        )
        weights |= {f"{part}.{key}": value.detach() for key, value in head.state_dict().items()}
    return weights


def save_scene(folder: Path, weights: dict[str, torch.Tensor] | None = None, **config) -> Path:
    write(folder / "config.json", {**SCENE_CONFIG, **config})
    save_file(scene_weights() if weights is None else weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_generative_parts_of_a_scene_checkpoint(wan, tmp_path):
    weights = scene_weights()
    done = run("convert", save_scene(tmp_path / "official", weights), tmp_path / "parts", "--generator", wan)

    assert done.exit_code == 0, done.stderr
    assert "the 6 of its VLM, a LLaVA-Video, are left out" in done.stderr
    fields, parts = read(tmp_path / "parts" / "parts.json"), load_file(tmp_path / "parts" / "parts.safetensors")
    assert (fields["hidden_size"], fields["generator_width"]) == (48, CHANNELS)
    assert fields["processor"]["generator_frame_size"] == [720, 1280]
    options = {key: value for key, value in fields["config"].items() if key not in ("block", "timestep", "shift")}
    text = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = VegaConfig(
        vlm_config={"model_type": "qwen2_5_vl", "text_config": text},
        generator_config={"transformer": {"num_attention_heads": 1, "attention_head_dim": CHANNELS}},
        **options,
    )
    assert (config.fusion, config.position_code, config.grounding_tokens) == ("token_gated_norm", "sin3d", "semantic")
    for prefix, module in (
        ("model.projector.", PROJECTORS[config.projector](config)),
        ("model.fusion.", FUSIONS[config.fusion](config)),
        ("grounding_head.ranking.", HEADS[config.grounding_head](config)),
    ):
        module.load_state_dict(under(parts, prefix), strict=True)
    head = {key: value for key, value in weights.items() if key.startswith("ground_head")}
    for key, value in rename(head, GROUNDING_HEAD).items():
        assert torch.equal(parts[f"grounding_head.ranking.{key}"], value)
    assert (tmp_path / "parts" / "generator" / DIT).is_file()


# --- What is refused ---------------------------------------------------------------------------------------------


class Evil:
    """A pickle that would make a folder if it were loaded as any pickle is."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(official, tmp_path):
    wan = save_original_wan(tmp_path / "wan")
    (wan / "Wan2.1_VAE.pth").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))

    done = run("convert", official, tmp_path / "model", "--generator", wan)

    assert done.exit_code == 2
    assert re.search(r"Wan2\.1_VAE\.pth is not read: .*Only pickles of plain tensors are", done.stderr)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda ran: {"weight": Evil(ran)}, "UnpicklingError: Weights only load failed"),
        (lambda ran: {"model": {}}, "more than tensors by name"),
        (lambda ran: [torch.zeros(1)], "more than tensors by name"),
        (lambda ran: {"weight": torch.zeros(1, dtype=torch.complex64)}, "a type that safetensors lacks"),
    ],
)
def test_pickles_of_more_than_tensors(tmp_path, content, words):
    torch.save(content(tmp_path / "ran"), tmp_path / "weights.pth")

    with pytest.raises(SystemExit, match=words):
        unpickle(str(tmp_path / "weights.pth"), str(tmp_path / "weights.safetensors"))

    assert {path.name for path in tmp_path.iterdir()} == {"weights.pth"}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_tensors_is_read_whole(tmp_path, zipped):
    """Also what begins at another place of its memory, has no dimension, or is of the format before torch 1.6."""
    weights = {"part": torch.arange(6.0)[2:], "turned": torch.ones(2, 3).bfloat16().T, "scalar": torch.tensor(0.5)}
    torch.save(weights, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)

    unpickle(str(tmp_path / "weights.pth"), str(tmp_path / "weights.safetensors"))

    read_back = load_file(tmp_path / "weights.safetensors")
    assert read_back.keys() == weights.keys()
    assert all(torch.equal(read_back[name], value) for name, value in weights.items())


def without_block(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith(prefix)}


def changed(**config) -> Callable[[Path], object]:
    return lambda folder: write(folder / "config.json", {**read(folder / "config.json"), **config})


def saved_again(change: Callable[[dict], dict]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        shutil.rmtree(folder)
        save_official(folder, change(official_weights()))

    return spoil


def pickled(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    torch.save(official_weights(), folder / "pytorch_model.bin")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled weights": (pickled, r"only \.bin files, which are not read"),
    "a truncated shard": (
        lambda folder: os.truncate(folder / "model-00001-of-00002.safetensors", 20000),
        r"model-00001-of-00002\.safetensors cannot be read.*download it again",
    ),
    "a missing shard": (
        lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
        "lacks 1 of its 2 files",
    ),
    "an unknown key": (changed(use_depth_head=True), "1 keys that are not known, the first is 'use_depth_head'"),
    "an unknown generative key": (changed(generative_extra=1), "the first is 'generative_extra'"),
    "another tower": (changed(generative_encoder_tower_type="svd_online"), "a tower of type 'svd_online'"),
    "a VACE tower": (changed(generative_vision_tower_task="vace-1.3B"), "task 'vace-1.3B'"),
    "another fusion": (changed(generative_fusion_method="mean"), "generative_fusion_method 'mean', but only"),
    "no size": (changed(generative_vision_tower_size="large"), "size 'large', but must have one like"),
    "a block too many": (changed(generative_vision_tower_feat_block_idx=3), "block=3"),
    "another width": (changed(generative_merger_hidden_dim=4096), r"mlp\.0\.\w+ is \(48.*config says \(4096"),
    "fewer blocks of the transformer": (
        saved_again(lambda weights: without_block(weights, f"{TOWER}blocks.2.")),
        r"The transformer of \S+official has 2 blocks, but the config of \S+wan says 3\. Give the Wan",
    ),
    "fewer layers of the language model": (
        saved_again(lambda weights: without_block(weights, "model.layers.2.")),
        r"has 2 model\.vlm\.model\.language_model\.layers, but its config says 3",
    ),
    "VACE weights": (
        saved_again(lambda weights: {**weights, f"{TOWER}vace_blocks.0.norm3.bias": torch.zeros(2)}),
        r"has vace_blocks\.0\.norm3\.bias: it is no Wan2\.1 text-to-video",
    ),
    "an unknown weight": (
        saved_again(lambda weights: {**weights, "depth_head.weight": torch.zeros(2)}),
        r"No vega3d name is known for 'depth_head\.weight'",
    ),
    "a missing weight": (
        saved_again(lambda weights: without_block(weights, "generative_merger.mlp.2.bias")),
        r"lacks 1 weights, the first is model\.projector\.mlp\.2\.bias",
    ),
    "a plain VLM": (
        lambda folder: write(folder / "config.json", {"model_type": "qwen2_5_vl"}),
        "neither an official VEGA-3D checkpoint .* given to `vega3d assemble`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_ends_in_one_line(official, wan, tmp_path, name):
    spoil, words = REFUSED[name]
    folder = Path(shutil.copytree(official, tmp_path / "official"))
    spoil(folder)

    done = run("convert", folder, tmp_path / "model", "--generator", wan)

    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(words, done.stderr), done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"official"}


WAN_REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown key": (changed(num_experts=2), "the first is 'num_experts'"),
    "image to video": (changed(model_type="i2v"), "model_type 'i2v', but must be of WanModel and t2v"),
    "windows": (changed(window_size=[4, 4]), "window_size in The config of"),
    "fewer blocks": (changed(num_layers=4), "has 3 blocks, but its config says 4"),
    "no VAE": (lambda folder: (folder / VAE).unlink(), r"has no Wan2\.1_VAE\.pth"),
    "no prompt": (lambda folder: (folder / "wan_prompt_embedding.pt").unlink(), "has no models_t5_umt5"),
    "a truncated VAE": (lambda folder: os.truncate(folder / VAE, 5000), r"Wan2\.1_VAE\.safetensors cannot be read"),
    "another VAE": (
        lambda folder: save_file({"encoder.conv1.weight": torch.zeros(3)}, folder / VAE),
        r"is none of Wan2\.1",
    ),
    "a part of a VAE": (
        lambda folder: save_file(without_block(load_file(folder / VAE), "encoder.middle.1.proj.bias"), folder / VAE),
        r"The VAE of .* lacks 1 weights, the first is encoder\.mid_block\.attentions\.0\.proj\.bias",
    ),
}


@pytest.mark.parametrize("name", WAN_REFUSED)
def test_another_original_wan_is_refused(original, tmp_path, name):
    spoil, words = WAN_REFUSED[name]
    folder = Path(shutil.copytree(original, tmp_path / "wan"))
    spoil(folder)

    with pytest.raises(ValueError, match=words):
        convert(folder, tmp_path / "generator")

    assert {path.name for path in tmp_path.iterdir()} == {"wan"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generative_projector_type": "linear"}, "generative_projector_type 'linear', but only mlp2x_gelu"),
        ({"generative_vision_tower_type": "wan_vace_online"}, "tower of type 'wan_vace_online'"),
        ({"world_position_embedding_type": "avg-mlp"}, "world_position_embedding_type 'avg-mlp'"),
        ({"feature_fusion_method": "concat"}, "No vega3d name is known for 'gate_projection"),
        ({"ground_head_type": None}, "has 13 weights that its config does not tell of"),
        ({"fusion_extra": 1}, "the first is 'fusion_extra'"),
    ],
)
def test_another_scene_checkpoint_is_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        convert(save_scene(tmp_path / "official", **changes), tmp_path / "parts")


def test_the_wan_of_another_scene_checkpoint_is_refused(wan, tmp_path):
    weights = {**scene_weights(), "model.generative_projector.0.weight": torch.randn(48, 12)}

    with pytest.raises(ValueError, match=r"takes features of 12 channels, but those of .* have 40"):
        convert(save_scene(tmp_path / "official", weights), tmp_path / "parts", wan)


def test_options_that_do_not_fit(official, original, wan, tmp_path):
    for arguments, words in (
        ((official, tmp_path / "model"), "holds neither the VAE nor the prompt.*--generator Wan-AI"),
        ((original, tmp_path / "model", "--generator", wan), "is a generator itself"),
        ((original, tmp_path / "model", "--restore"), "none to restore"),
        ((official, wan, "--generator", wan), "is already there"),
    ):
        done = run("convert", *arguments)
        assert done.exit_code == 2 and re.search(words, done.stderr), done.stderr


# --- Memory ------------------------------------------------------------------------------------------------------


PEAK = """
import sys
from pathlib import Path
import diffusers
from vega3d.hub.convert import convert
from vega3d.hub.tensor_files import unpickle
def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
def growth(work):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    work()
    return memory("VmHWM") - before
official, wan, pickle, out = sys.argv[1:]
print(growth(lambda: convert(official, f"{out}/model", wan)))
print(growth(lambda: unpickle(pickle, f"{out}/out.safetensors")))
"""


@pytest.mark.stress
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_one_shard_is_in_memory_at_a_time(wan, tmp_path):
    """Of 300 MB in two tensors one is in memory; a pickle is mapped, and not copied as well."""
    vocabulary = 1_200_000
    weights = official_weights()
    large = {key: torch.ones(vocabulary, 64).bfloat16() for key in ("model.embed_tokens.weight", "lm_head.weight")}
    official = save_official(tmp_path / "official", {**weights, **large}, vocab_size=vocabulary)
    torch.save(large, tmp_path / "large.pth")
    size = (tmp_path / "large.pth").stat().st_size / 2**20

    files = [official, wan, tmp_path / "large.pth", tmp_path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PEAK, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stderr
    converted, unpickled = map(float, done.stdout.split())
    assert size > 290
    assert 0.4 * size < converted < 0.7 * size and unpickled < 1.2 * size, done.stdout
