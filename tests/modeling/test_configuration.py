import json

import pytest
from transformers import AutoConfig

from tiny_models import WAN_TRANSFORMER, WAN_VAE
from vega3d import VegaConfig, VegaGeneratorConfig

GENERATOR = {"transformer": WAN_TRANSFORMER, "vae": WAN_VAE, "block": 1}


def test_names_of_the_contract():
    generator = VegaGeneratorConfig(**GENERATOR)
    config = VegaConfig(generator_config=generator.to_dict())
    assert config.fusion == "token_gated_residual"
    assert config.fusion_residual_init == 0.0
    assert config.projector == "merger_mlp"
    assert (generator.family, generator.source, generator.clip_mode) == ("wan", "generator", "frame")
    assert (generator.timestep, generator.shift) == (300, 5.0)


@pytest.mark.parametrize(("block", "index"), [(0, 0), (2, 2), (-1, 2), (-3, 0)])
def test_block_counts_from_either_end(block, index):
    assert VegaGeneratorConfig(**{**GENERATOR, "block": block}).block_index == index


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("block", 3, r"block=3 .*\[-3, 2\] for a transformer of 3 blocks"),
        ("block", -4, r"block=-4 .*\[-3, 2\]"),
        ("timestep", 1000, r"timestep=1000 .*\[0, 1000\)"),
        ("timestep", -1, "timestep=-1"),
        ("shift", 0.0, "shift=0.0 .*positive"),
        ("noise_seed", -1, "noise_seed=-1"),
        ("chunk_frames", 0, "chunk_frames=0 .*at least 1"),
        ("prompt_tokens", 513, r"prompt_tokens=513 .*\[1, prompt_length=512\]"),
        ("source", "", "source=''"),
        ("source", "..", r"source='\.\.'"),
        ("max_area", 4096, "max_area is no option of the model.* to `VegaProcessor` as generator_max_area"),
        ("frame_fit", "resize", "frame_fit is no option of the model"),
        ("frame_size", (480, 832), "frame_size is no option of the model"),
    ],
)
def test_generator_values_out_of_range(option, value, message):
    with pytest.raises(ValueError, match=message):
        VegaGeneratorConfig(**{**GENERATOR, option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clip_mode", "video"),
        ("frame_stride", 3),
        ("family", "ltx"),
        ("block", 1.5),
        ("timestep", "300"),
        ("noise_shared", "no"),
    ],
)
def test_generator_values_of_the_wrong_kind(option, value):
    with pytest.raises(ValueError, match=option):
        VegaGeneratorConfig(**{**GENERATOR, option: value})


@pytest.mark.parametrize(
    ("option", "value"), [("fusion", "gated"), ("projector", "linear"), ("fusion_residual_init", "0")]
)
def test_fused_values_of_the_wrong_kind(option, value):
    with pytest.raises(ValueError, match=option):
        VegaConfig(generator_config=GENERATOR, **{option: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion_residual_init": 2.0}, "fusion_residual_init=2.0"),
        ({"projector_hidden_size": 0}, "projector_hidden_size=0"),
        ({"fusion": "cross_attention", "fusion_num_heads": 7}, "fusion_num_heads=7 .*divisor of the hidden size"),
    ],
)
def test_fused_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        VegaConfig(generator_config=GENERATOR, **options)


@pytest.mark.parametrize(
    ("config_class", "wrong", "right"),
    [
        (VegaConfig, "fusoin", "fusion"),
        (VegaGeneratorConfig, "blok", "block"),
        (VegaGeneratorConfig, "time_step", "timestep"),
    ],
)
def test_a_misspelled_option_is_refused(config_class, wrong, right):
    with pytest.raises(ValueError, match=f"no option '{wrong}'; did you mean '{right}'"):
        config_class(**{wrong: 1})


def test_save_and_load_are_exact(tmp_path):
    config = VegaConfig(generator_config=GENERATOR, fusion="concat", notice="untrained")
    config.save_pretrained(tmp_path)
    assert VegaConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_frame_settings_of_an_earlier_version_are_dropped(tmp_path):
    config = VegaConfig(generator_config=GENERATOR)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["generator_config"] |= {"max_area": 4096, "frame_fit": "center_crop", "frame_size": [48, 32]}
    (tmp_path / "config.json").write_text(json.dumps(saved))

    for loader in (VegaConfig, AutoConfig):
        assert loader.from_pretrained(tmp_path).generator_config.to_dict() == config.generator_config.to_dict()


def test_a_config_of_another_model_is_refused(backbones):
    with pytest.raises(ValueError, match="model_type 'qwen2_5_vl', not 'vega3d'"):
        VegaConfig.from_pretrained(backbones[0])


def test_a_stride_is_refused_where_the_vae_joins_frames():
    with pytest.raises(ValueError, match=r"frame_stride=2 .*must be 1 with clip_mode='clip'.*Use clip_mode='frame'"):
        VegaGeneratorConfig(**GENERATOR, clip_mode="clip", frame_stride=2)
