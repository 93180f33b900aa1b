"""A generator that holds what reading features needs, and no more."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_generators import toy_config

from research.tiny.simulator import __main__ as commands
from research.tiny.simulator.dit import build_dit, empty_prompt
from research.tiny.simulator.export import WEIGHTS, export_generator, export_part, export_read
from research.tiny.simulator.vae import build_vae
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d_cli import run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A generator of three blocks, and the same with two blocks, trimmed."""
    folder = tmp_path_factory.mktemp("generators")
    config, whole = toy_config(folder / "unused"), folder / "whole"
    export_part(build_vae(config.vae, 0), folder / "parts", "vae")
    transformer = build_dit(config.dit, config.vae.z_dim, 0)
    facts = {"kind": "video", "num_frames": 5, "size": 64, "prompt_length": config.dit.prompt_tokens}
    export_generator(transformer, folder / "parts" / "vae", whole, empty_prompt(config.dit), facts)
    export_read(whole, folder / "trimmed", 2)
    return whole, folder / "trimmed"


def rounded(folder, whole):
    """The whole generator with the matrices of its blocks rounded to 8 bits, as a folder."""
    shutil.copytree(whole, folder)
    weights = load_file(whole / "transformer" / WEIGHTS)
    for name, value in weights.items():
        if name.startswith("blocks.") and value.ndim == 2 and value.dtype == torch.bfloat16:
            weights[name] = value.to(torch.float8_e4m3fn).to(torch.bfloat16)
    save_file(weights, folder / "transformer" / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("mode", ["frame", "views", "clip"])
def test_features_are_those_of_the_rounded_weights(folders, tmp_path, mode):
    whole, trimmed = folders
    clip = torch.randint(0, 255, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    options = {"block": 1, "timestep": 500, "clip_mode": mode}

    found = VegaGenerator.from_folder(trimmed, **options).encode([clip])[0]

    wanted = VegaGenerator.from_folder(rounded(tmp_path / "rounded", whole), **options).encode([clip])[0]
    torch.testing.assert_close(
        found, wanted, rtol=1e-4, atol=1e-5
    )  # where weights lie in memory decides the last digit
    plain = VegaGenerator.from_folder(whole, **options).encode([clip])[0]
    assert not torch.equal(found, plain)
    assert (found - plain).norm() < 0.2 * plain.norm()


def test_it_is_smaller_and_has_no_later_block(folders):
    whole, trimmed = folders
    weights = load_file(trimmed / "transformer" / WEIGHTS)
    assert {name.split(".")[1] for name in weights if name.startswith("blocks.")} == {"0", "1"}
    assert not any(name.startswith("decoder.") for name in load_file(trimmed / "vae" / WEIGHTS))
    sizes = [sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in (whole, trimmed)]
    assert sizes[1] < 0.7 * sizes[0]
    with pytest.raises(ValueError, match=r"block=2 is out of range: .* for a transformer of 2 blocks"):
        VegaGenerator.from_folder(trimmed, block=2)


def test_a_vae_without_an_encoder_is_refused(folders, tmp_path):
    broken = shutil.copytree(folders[1], tmp_path / "broken")
    weights = load_file(broken / "vae" / WEIGHTS)
    weights.pop("encoder.conv_in.weight")
    save_file(weights, broken / "vae" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of its weights, the first is encoder\.conv_in\.weight"):
        VegaGenerator.from_folder(broken, block=1)


def test_the_command_and_what_it_refuses(folders, tmp_path, capsys):
    arguments = ["trim", str(folders[0]), str(tmp_path / "out"), "--blocks"]
    assert run([*arguments, "1"], commands.app, commands.NAME) == 0
    assert "1 blocks" in capsys.readouterr().out
    for output, blocks, message in (("out", "1", "is already there"), ("other", "9", "blocks is 9, but")):
        arguments[2] = str(tmp_path / output)
        assert run([*arguments, blocks], commands.app, commands.NAME) == 2
        assert message in capsys.readouterr().err
