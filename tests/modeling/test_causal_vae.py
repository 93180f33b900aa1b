"""The encoder of consecutive frames gives what diffusers gives, whatever goes through it at a time."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from tiny_models import WAN_VAE, seeded
from vega3d.modeling.causal_vae_wan_vega3d import CausalWanEncoder
from vega3d.modeling.vae_wan_vega3d import FoldedWanEncoder

VAES = {
    "plain": WAN_VAE,
    "time is joined first": {**WAN_VAE, "temperal_downsample": [True, True, False]},
    "patches": {**WAN_VAE, "patch_size": 2, "in_channels": 12, "out_channels": 12, "dim_mult": [1, 2, 2]}
    | {"temperal_downsample": [True, True]},
}


def make(name: str) -> AutoencoderKLWan:
    return seeded(lambda: AutoencoderKLWan(**VAES[name]), 3).eval()


def clips(frames: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, frames, 3, 32, 48, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@torch.no_grad()
def expected(vae: AutoencoderKLWan, pixels: torch.Tensor) -> torch.Tensor:
    return vae.encode(pixels.transpose(1, 2)).latent_dist.mean.transpose(1, 2)


@pytest.mark.parametrize("frames_at_a_time", [1, 8, 1000])
@pytest.mark.parametrize("frames", [1, 5, 21])
@pytest.mark.parametrize("name", VAES)
@torch.no_grad()
def test_it_gives_what_diffusers_gives(name, frames, frames_at_a_time):
    vae, pixels = make(name), clips(frames, 2)
    encoder = CausalWanEncoder(vae)
    encoder.pixels_at_a_time = frames_at_a_time * 2 * 32 * 48
    latents = encoder.encode(pixels)
    assert latents.shape == (2, 1 + (frames - 1) // 4, vae.config.z_dim, 4, 6)
    torch.testing.assert_close(latents, expected(vae, pixels), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_latent_sees_its_frames_and_those_before_and_none_after():
    encoder, pixels = CausalWanEncoder(make("plain")), clips(9)
    changed = pixels.clone()
    changed[:, 5:] *= -1
    before, after = encoder.encode(pixels)[0], encoder.encode(changed)[0]
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2], atol=1e-3)


def test_at_most_the_pixels_that_are_allowed_go_through_at_a_time():
    encoder, pixels = CausalWanEncoder(make("plain")), clips(21, 2)
    encoder.pixels_at_a_time = 11 * 2 * 32 * 48
    assert [part.shape[1] for part in encoder.parts(pixels)] == [1, 8, 8, 4]
    encoder.pixels_at_a_time = 1
    assert [part.shape[1] for part in encoder.parts(pixels)] == [1, 4, 4, 4, 4, 4]


@torch.no_grad()
def test_it_compiles_as_one_graph():
    vae, pixels = make("plain"), clips(9)
    encoder = CausalWanEncoder(vae)
    encoder.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(encoder.encode(pixels), expected(vae, pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", [CausalWanEncoder, FoldedWanEncoder])
def test_a_vae_with_residual_shortcuts_is_refused(encoder):
    vae = AutoencoderKLWan(**{**WAN_VAE, "is_residual": True})
    with pytest.raises(ValueError, match=r"WanResidualDownBlock, .* use a Wan2\.1 VAE"):
        encoder(vae)
