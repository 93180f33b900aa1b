"""Control families, several draws of the noise, several blocks and noise levels of one clip."""

import itertools

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from golden_models import load_generator
from tiny_models import WAN_TRANSFORMER, WAN_VAE, seeded
from vega3d import VegaForSpatialReasoning, VegaGenerator
from vega3d.modeling.configuration_vega3d import VegaGeneratorConfig
from vega3d.modeling.noise_vega3d import DRAW_STRIDE

CHANNELS = 24


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> VegaGenerator:
    """Loads all blocks and reads the last."""
    transformer = seeded(lambda: WanTransformer3DModel(**WAN_TRANSFORMER), 2)
    vae = seeded(lambda: AutoencoderKLWan(**WAN_VAE), 3)
    prompt = torch.randn(1, WAN_TRANSFORMER["text_dim"], generator=torch.Generator().manual_seed(5))
    return load_generator(tmp_path_factory.mktemp("wan") / "files", transformer, vae, prompt, block=-1, chunk_frames=2)


def clip(frames: int = 5, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, 32, 48), dtype=torch.uint8, generator=random)


def encode(generator: VegaGenerator, frames: torch.Tensor) -> torch.Tensor:
    return generator.encode([frames])[0]


def test_random_weights_come_from_their_seed(generator):
    torch.manual_seed(1)
    first = generator.variant(family="random")
    torch.manual_seed(2)

    again, other = generator.variant(family="random"), generator.variant(family="random", random_seed=1)

    for key, value in first.tower.transformer.state_dict().items():
        assert torch.equal(value, again.tower.transformer.state_dict()[key]), key

    weight = "blocks.0.attn1.to_q.weight"
    assert not torch.equal(
        first.get_parameter(f"tower.transformer.{weight}"), generator.get_parameter(f"tower.transformer.{weight}")
    )
    assert not torch.equal(
        first.get_parameter(f"tower.transformer.{weight}"), other.get_parameter(f"tower.transformer.{weight}")
    )
    for key, value in first.tower.encoder.state_dict().items():
        assert torch.equal(value, generator.tower.encoder.state_dict()[key]), key
    assert not torch.allclose(encode(first, clip()), encode(generator, clip()), atol=1e-2)


def test_random_weights_keep_the_precision_of_the_trained_ones(generator):
    for family in ("wan", "random"):
        variant = generator.variant(family=family)
        variant.load_files(generator.files, torch.bfloat16)
        dtypes = {name: p.dtype for name, p in variant.tower.transformer.named_parameters()}
        if family == "wan":
            expected = dtypes
        assert dtypes == expected
    assert torch.float32 in expected.values() and torch.bfloat16 in expected.values()


@pytest.mark.parametrize("clip_mode", ["frame", "views", "clip"])
def test_noise_sees_no_image(generator, clip_mode):
    control = generator.variant(family="noise", clip_mode=clip_mode)
    assert torch.equal(encode(control, clip(seed=1)), encode(control, clip(seed=2)))
    trained = generator.variant(clip_mode=clip_mode)
    assert encode(control, clip()).shape == encode(trained, clip()).shape
    assert not torch.equal(encode(trained, clip(seed=1)), encode(trained, clip(seed=2)))
    assert control.level == (999, 1.0)


def test_noise_is_the_trained_transformer(generator):
    control = generator.variant(family="noise")
    latents = torch.zeros(1, 4, 4, 6)
    noise = control.noise(0, latents.shape)
    constants = generator.tower.constants(generator.prompt_embeds, 512, 999)
    expected = generator.tower(noise.unsqueeze(2), constants, [2])[2][:, 0]
    torch.testing.assert_close(encode(control, clip(1)), expected)


@pytest.mark.parametrize("clip_mode", ["frame", "views", "clip"])
def test_vae_tokens_are_latents_two_by_two(generator, clip_mode):
    control = generator.variant(family="vae", clip_mode=clip_mode)
    frames = clip(5)
    features = encode(control, frames)
    latents = control.tower.encode_frames((frames.float() / 127.5 - 1)[None])[0]
    assert features.shape == (2 if clip_mode == "clip" else 5, 2, 3, control.config.hidden_size)
    expected = latents[
        1, :, 2:4, 4:6
    ].flatten()  # latent 1, token (1, 2): channels, then the window's rows and columns
    torch.testing.assert_close(features[1, 1, 2], expected)
    assert sum(p.numel() for p in control.parameters()) == sum(p.numel() for p in control.tower.encoder.parameters())


def test_draws_are_averaged(generator):
    frames = clip(3)
    averaged = encode(generator.variant(noise_draws=3), frames)
    single = []
    for draw in range(3):
        noise = generator.noise(0, (3, 4, 4, 6), draw=draw)
        single.append(generator.encode([frames], noise=[noise])[0])
    torch.testing.assert_close(averaged, torch.stack(single).mean(0))
    assert torch.equal(single[0], encode(generator, frames))
    assert not torch.allclose(single[1], single[0], atol=1e-3)


def test_draws_do_not_meet_within_a_million_frames():
    places = sorted(draw * DRAW_STRIDE % 2**32 for draw in range(64))
    assert min(after - before for before, after in itertools.pairwise(places)) > 1_000_000


def test_given_noise_is_one_draw(generator):
    with pytest.raises(ValueError, match="noise_draws is 2"):
        generator.variant(noise_draws=2).encode([clip(1)], noise=[torch.zeros(1, 4, 4, 6)])


def test_extra_blocks_follow_the_first(generator):
    frames = clip(3)
    both = generator.variant(block=1, extra_blocks=[0, -1])
    assert both.config.hidden_size == 3 * CHANNELS
    features = encode(both, frames)
    for place, block in enumerate((1, 0, 2)):
        alone = encode(generator.variant(block=block), frames)
        assert torch.equal(features[..., place * CHANNELS : (place + 1) * CHANNELS], alone)
    assert len(generator.variant(block=0, extra_blocks=[1]).tower.transformer.blocks) == 2


@pytest.mark.parametrize("clip_mode", ["frame", "views", "clip"])
def test_read_equals_encode_at_every_block_and_level(generator, clip_mode):
    frames = clip(5)
    reader = generator.variant(clip_mode=clip_mode)
    levels = dict(reader.read(frames, [0, 1, -1], [100, 700]))
    assert list(levels) == [100, 700]
    for timestep, hidden in levels.items():
        assert list(hidden) == [0, 1, -1]
        for block, states in hidden.items():
            single = generator.variant(clip_mode=clip_mode, block=block, timestep=timestep)
            assert torch.equal(states, encode(single, frames)), (timestep, block)


def test_read_encodes_the_clip_once(generator):
    reader = generator.variant(clip_mode="views")
    calls = []
    hook = reader.tower.encoder.register_forward_hook(lambda *_: calls.append(1))
    list(reader.read(clip(4), [0, 1, 2], [100, 300, 700]))
    hook.remove()
    assert len(calls) == 2  # four frames, chunk_frames=2


@pytest.mark.parametrize(
    ("blocks", "timesteps", "message"),
    [([3], [300], r"block=3 is out of range: it must be in \[-3, 2\]"), ([0], [1000], "timestep=1000")],
)
def test_read_refuses_what_is_out_of_range(generator, blocks, timesteps, message):
    with pytest.raises(ValueError, match=message):
        list(generator.read(clip(1), blocks, timesteps))


def test_read_refuses_blocks_that_are_not_loaded(generator):
    with pytest.raises(ValueError, match="block=2 is out of range: it must be below 2, the number of blocks"):
        list(generator.variant(block=1).read(clip(1), [2], [300]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "vae", "extra_blocks": [0]}, "family='vae' is out of range"),
        ({"family": "vae", "noise_draws": 2}, "family='vae' is out of range"),
        ({"family": "sd"}, "family"),
        ({"extra_blocks": [3]}, "extra_blocks=3"),
        ({"block": 1, "extra_blocks": [-2]}, r"extra_blocks=\[-2\] is out of range: it must be without block 1"),
        ({"noise_draws": 0}, "noise_draws=0"),
        ({"random_seed": -1}, "random_seed=-1"),
        ({"linear_precision": "int4"}, "linear_precision"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VegaGeneratorConfig(transformer=WAN_TRANSFORMER, vae=WAN_VAE, **{"block": 1, **options})


@pytest.mark.parametrize(
    "options",
    [{"family": "random"}, {"family": "noise"}, {"family": "vae"}, {"extra_blocks": [0]}, {"noise_draws": 2}],
)
def test_fused_models_save_and_load_with_them(assemble, tmp_path, options):
    model = assemble(**options)
    model.save_pretrained(tmp_path)
    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path)
    frames = clip(3)
    expected, features = (encode(m.model.generator, frames) for m in (model, loaded))
    assert torch.equal(features, expected)
    projected = loaded.model.projector(features[None], 3, (2, 4, 6))[0]
    assert projected.shape == (12, 32)


def test_the_hash_of_the_files_is_stored_at_assembly(assemble, backbones, tmp_path):
    model = assemble()
    stored = model.config.generator_config.files_hash
    assert stored is not None and len(stored) == 64

    model.save_pretrained(tmp_path)
    loaded = VegaForSpatialReasoning.from_pretrained(tmp_path)
    loaded.config.generator_config.files_hash = None
    assert loaded.model.generator.files_hash() == stored

    weights = tmp_path / "generator" / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    loaded.config.generator_config.files_hash = None

    assert loaded.model.generator.files_hash() != stored
