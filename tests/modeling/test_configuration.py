import pytest

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
    assert (generator.timestep, generator.shift, generator.frame_fit) == (300, 5.0, "resize")


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
        ("max_area", 255, "max_area=255 .*at least one token of 16 x 16 px"),
        ("prompt_tokens", 513, r"prompt_tokens=513 .*\[1, prompt_length=512\]"),
        ("source", "", "source=''"),
        ("source", "..", r"source='\.\.'"),
        ("frame_size", (480, 832), "frame_size=.* None with frame_fit='resize'"),
    ],
)
def test_generator_values_out_of_range(option, value, message):
    with pytest.raises(ValueError, match=message):
        VegaGeneratorConfig(**{**GENERATOR, option: value})


@pytest.mark.parametrize("size", [None, (480,), (480, 830), (0, 832)])
def test_centre_crop_needs_a_size_in_cells(size):
    with pytest.raises(ValueError, match="multiples of 16 px with frame_fit='center_crop'"):
        VegaGeneratorConfig(**GENERATOR, frame_fit="center_crop", frame_size=size)


@pytest.mark.parametrize(
    ("option", "value"),
    [("clip_mode", "video"), ("family", "ltx"), ("block", 1.5), ("timestep", "300"), ("noise_shared", "no")],
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


def test_a_config_of_another_model_is_refused(backbones):
    with pytest.raises(ValueError, match="model_type 'qwen2_5_vl', not 'vega3d'"):
        VegaConfig.from_pretrained(backbones[0])
