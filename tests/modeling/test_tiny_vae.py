"""A tiny VAE in the layout of TAEHV: its latents, and the generators and models that are made with it."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from command_line import answer, run
from tiny_checkpoints import save_vlm_with_processor
from tiny_models import BLOCK, WAN_TRANSFORMER, WAN_VAE, save_generator
from vega3d import VegaGenerator, VegaGeneratorConfig
from vega3d.hub.assemble import assemble, describe
from vega3d.hub.convert import convert
from vega3d.modeling.tiny_vae_wan_vega3d import FramePool, MemoryBlock, TinyFrameEncoder, TinyVAEToLatents

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
WIDTH, LATENTS = 6, WAN_VAE["z_dim"]
CONFIG = {"z_dim": LATENTS, "tiny_width": WIDTH, "latents_mean": [0.0] * LATENTS, "latents_std": [1.0] * LATENTS}


def tiny_vae() -> TinyVAEToLatents:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return TinyVAEToLatents(**CONFIG)


def published_latents(vae: TinyVAEToLatents, frames: torch.Tensor) -> torch.Tensor:
    """As TAEHV encodes videos of one frame each: four copies of it, layer by layer over all frames."""
    videos = len(frames)
    x = frames.add(1).div(2).repeat_interleave(4, dim=0)
    for layer in vae.encoder:
        if isinstance(layer, MemoryBlock):
            in_time = x.unflatten(0, (videos, -1))
            before = F.pad(in_time, (0, 0) * 3 + (1, 0))[:, :-1].flatten(0, 1)
            x = F.relu(layer.conv(torch.cat([x, before], dim=1)) + x)
        elif isinstance(layer, FramePool):
            x = layer.conv(x.reshape(-1, layer.conv.in_channels, *x.shape[2:]))
        else:
            x = layer(x)
    return x


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of weights as TAEHV publishes them, with a decoder."""
    file = tmp_path_factory.mktemp("taehv") / "taew2_1.safetensors"
    save_file({**tiny_vae().state_dict(), "decoder.1.weight": torch.zeros(8, LATENTS, 3, 3)}, file)
    return file


@pytest.fixture(scope="module")
def generator(weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generators")
    return convert(weights, folder / "tiny", save_generator(folder / "wan"))


def test_latents_are_those_of_the_published_layers():
    vae, frames = tiny_vae(), torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours, theirs = TinyFrameEncoder(vae)(frames), published_latents(vae, frames)
    assert ours.shape == (3, LATENTS, 4, 6) and theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip_mode", ["frame", "views"])
def test_a_generator_reads_it(generator, clip_mode):
    """Its latents are those of the published layers, as they are, and its features are made of them."""
    loaded = VegaGenerator.from_folder(generator, torch.float32, torch.ones(1, 16), block=BLOCK, clip_mode=clip_mode)
    clip = torch.randint(0, 256, (3, 3, 32, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    latents = loaded.tower.encode_frames(clip[None] / 127.5 - 1)
    torch.testing.assert_close(latents[0], published_latents(tiny_vae(), clip / 127.5 - 1), rtol=1e-5, atol=1e-5)
    (features,) = loaded.encode([clip])
    assert features.shape == (3, 2, 3, loaded.config.hidden_size) and features.std() > 0.01
    whole = VegaGenerator.from_folder(
        generator.parent / "wan", torch.float32, torch.ones(1, 16), block=BLOCK, clip_mode=clip_mode
    )
    assert (whole.encode([clip])[0] - features).abs().max() > 0.01


def test_consecutive_frames_are_refused(generator):
    """Wan's first latent is of one frame, that of TAEHV of four."""
    with pytest.raises(ValueError, match=r"clip_mode='clip'.*tiny VAE.*clip_mode='views'"):
        VegaGenerator.from_folder(generator, torch.float32, torch.ones(1, 16), block=BLOCK, clip_mode="clip")


def test_a_model_with_it_answers_and_tells_of_it(generator, tmp_path):
    """Also without the package, whose code is stored beside it."""
    vlm = save_vlm_with_processor(tmp_path / "vlm", "qwen2_5_vl")
    model = assemble(vlm, generator, tmp_path / "model", block=BLOCK, max_area=4096)
    asked = ("Which is nearer?", "--options", "bed", "door", "--num-frames", "2")
    assert sum(answer("room", *asked, model=model)["options"].values()) == pytest.approx(1)
    stored = json.loads((model / "config.json").read_text())["generator_config"]["vae"]
    assert stored == CONFIG
    parameters = describe(model)["parameters"]["generator VAE encoder"]
    assert (
        0 < parameters < sum(value.numel() for value in tiny_vae().parameters())
    )  # what equal frames share is folded
    told = run("info", model, "--memory", "--json")
    assert told.exit_code == 0, told.stderr


@pytest.mark.parametrize("pickled", [False, True])
def test_the_file_becomes_a_generator(weights, tmp_path, pickled):
    """With the bytes of its encoder and of the transformer, and nothing of a decoder or of the VAE that was there."""
    if pickled:
        torch.save(load_file(weights), tmp_path / "taew2_1.pth")
        weights = tmp_path / "taew2_1.pth"
    wan = save_generator(tmp_path / "wan")
    done = run("convert", weights, tmp_path / "tiny", "--generator", wan)
    assert done.exit_code == 0, done.stderr
    stored = load_file(tmp_path / "tiny" / "vae" / "diffusion_pytorch_model.safetensors")
    wanted = tiny_vae().state_dict()
    assert stored.keys() == wanted.keys() and all(torch.equal(value, wanted[name]) for name, value in stored.items())
    for name in ("transformer/config.json", TRANSFORMER, "text_encoder/model.safetensors"):
        assert (tmp_path / "tiny" / name).read_bytes() == (wan / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["text_encoder", "transformer", "vae"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values.pop("encoder.9.conv.2.bias"), "lacks 1 weights, the first is encoder.9.conv.2.bias"),
        (lambda values: values.clear(), "holds no encoder in the layout of TAEHV. Give taew2_1"),
        (lambda values: values.update({"encoder.0.weight": torch.zeros(WIDTH, 12, 3, 3)}), "patches of 12 colours"),
        (lambda values: values.update({"encoder.17.weight": torch.zeros(9, WIDTH, 3, 3)}), "latents of z_dim=9"),
        (
            lambda values: values.update({"encoder.5.skip.weight": torch.zeros(1)}),
            "does not tell of, the first is enc",
        ),
    ],
)
def test_other_weights_are_refused_in_a_line(weights, generator, tmp_path, change, words):
    values = load_file(weights)
    change(values)
    save_file({"decoder.0.weight": torch.zeros(1), **values}, tmp_path / "other.safetensors")
    done = run("convert", tmp_path / "other.safetensors", tmp_path / "out", "--generator", generator.parent / "wan")
    assert done.exit_code == 2 and words in done.stderr and done.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_a_vae_alone_wants_its_generator(weights, tmp_path):
    done = run("convert", weights, tmp_path / "out")
    assert done.exit_code == 2 and "holds a VAE alone. Give --generator" in done.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tiny_width": 0}, "vae.tiny_width=0 is out of range"),
        ({"z_dim": LATENTS + 1}, "vae.latents_mean"),
        ({"latents_std": [0.0] * LATENTS}, "vae.latents_std.*positive"),
    ],
)
def test_impossible_configs_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        VegaGeneratorConfig(vae={**CONFIG, **changes}, transformer=WAN_TRANSFORMER, block=BLOCK)
