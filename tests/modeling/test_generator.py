"""The latent world simulator: early exit, noise, independence of the batch, bad input."""

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from golden_models import load_generator
from tiny_models import BLOCK, WAN_TRANSFORMER, WAN_VAE, seeded
from vega3d import VegaGenerator

PROMPT_LENGTH = 12


@pytest.fixture(scope="module")
def parts():
    return seeded(lambda: WanTransformer3DModel(**WAN_TRANSFORMER), 2), seeded(lambda: AutoencoderKLWan(**WAN_VAE), 3)


@pytest.fixture(scope="module")
def build(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan") / "files"
    prompt = torch.randn(2, WAN_TRANSFORMER["text_dim"], generator=torch.Generator().manual_seed(5))

    def generator(**config) -> VegaGenerator:
        return load_generator(folder, *parts, prompt, **{"block": BLOCK, "prompt_length": PROMPT_LENGTH, **config})

    return generator


def clip(frames: int, rows: int = 2, columns: int = 3, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, 16 * rows, 16 * columns), dtype=torch.uint8, generator=random)


class Straightforward:
    """The whole diffusers pipeline up to the block, by a hook; latents of one clip as [1, Z, t, h, w]."""

    def __init__(self, parts, generator: VegaGenerator):
        self.transformer, self.vae = parts
        self.generator = generator
        self.prompt = torch.zeros(1, PROMPT_LENGTH, WAN_TRANSFORMER["text_dim"])
        self.prompt[0, : len(generator.prompt_embeds)] = generator.prompt_embeds

    @torch.no_grad()
    def latents(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8[T, 3, H, W] as one video -> [1, Z, t, h, w]"""
        video = (frames.float() / 127.5 - 1).transpose(0, 1)[None]
        mean, std = (torch.tensor(WAN_VAE[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
        return (self.vae.encode(video).latent_dist.mean - mean) / std

    @torch.no_grad()
    def hidden(self, latents: torch.Tensor, first_frame: int) -> torch.Tensor:
        noise = self.generator.noise(first_frame, latents[0].transpose(0, 1).shape).transpose(0, 1)[None]
        caught = []
        hook = self.transformer.blocks[BLOCK].register_forward_hook(lambda *call: caught.append(call[2]))
        noisy = (1 - self.generator.level.sigma) * latents + self.generator.level.sigma * noise
        self.transformer(noisy, torch.tensor([self.generator.level.step]), self.prompt)
        hook.remove()
        t, h, w = latents.shape[2], latents.shape[3] // 2, latents.shape[4] // 2
        return caught[0].reshape(t, h, w, -1)


def test_frame_mode_equals_the_whole_model_with_a_hook(build, parts):
    generator = build(chunk_frames=2)
    reference = Straightforward(parts, generator)
    frames = clip(5)
    expected = [reference.hidden(reference.latents(frames[i : i + 1]), i) for i in range(5)]
    torch.testing.assert_close(generator.encode([frames])[0], torch.cat(expected), atol=2e-5, rtol=0)


def test_views_mode_attends_between_frames(build, parts):
    generator = build(clip_mode="views", chunk_frames=2)
    reference = Straightforward(parts, generator)
    frames = clip(5)
    latents = torch.cat([reference.latents(frames[i : i + 1]) for i in range(5)], dim=2)
    together = generator.encode([frames])[0]
    torch.testing.assert_close(together, reference.hidden(latents, 0), atol=2e-5, rtol=0)
    assert not torch.allclose(together[:1], generator.encode([frames[:1]])[0], atol=1e-2)


def test_clip_mode_goes_through_the_causal_vae(build, parts):
    generator = build(clip_mode="clip")
    reference = Straightforward(parts, generator)
    frames = clip(9)
    hidden = generator.encode([frames])[0]
    assert hidden.shape[0] == 3
    torch.testing.assert_close(hidden, reference.hidden(reference.latents(frames), 0), atol=2e-5, rtol=0)


def test_clip_mode_repeats_the_last_frame(build):
    generator = build(clip_mode="clip")
    frames = clip(7)
    padded = torch.cat([frames, frames[-1:].expand(2, -1, -1, -1)])
    assert torch.equal(generator.encode([frames])[0], generator.encode([padded])[0])


@pytest.mark.parametrize("num_frames", [1, 4, 5])
def test_a_stride_leaves_out_frames_and_changes_no_other(build, num_frames):
    frames = clip(num_frames)
    every, told = build(chunk_frames=2).encode([frames])[0], []

    seen = build(chunk_frames=2, frame_stride=2).encode([frames], on_progress=told.append)[0]

    assert torch.equal(seen, every[::2]) and sum(told) == num_frames
    reader = build(chunk_frames=2, frame_stride=2)
    [(_, states)] = reader.read(frames, [reader.config.block_index], [reader.config.timestep])
    assert torch.equal(states[reader.config.block_index], seen)


def test_a_stride_among_views_is_the_clip_of_the_frames_that_are_seen(build):
    frames, generator = clip(5), build(clip_mode="views")
    noise = generator.noise(0, (5, *generator.tower.encode_frames(frames[None].float()).shape[2:]), "cpu", 0)

    seen = build(clip_mode="views", frame_stride=2).encode([frames])[0]

    assert torch.equal(seen, generator.encode([frames[::2]], noise=[noise[::2]])[0])


def test_padded_prompt_rows_take_part_in_attention(build):
    frames = clip(1)
    short, long = (build(prompt_length=length).encode([frames])[0] for length in (3, 300))
    assert (short - long).abs().max() > 1e-3


@pytest.mark.parametrize("chunk_frames", [1, 2, 3, 16])
def test_chunks_change_nothing(build, chunk_frames):
    frames = clip(5)
    expected = build(chunk_frames=8).encode([frames])[0]
    torch.testing.assert_close(build(chunk_frames=chunk_frames).encode([frames])[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("clip_mode", ["frame", "views", "clip"])
def test_features_depend_on_the_own_clip_only(build, clip_mode):
    generator = build(clip_mode=clip_mode)
    clips = [clip(5, seed=1), clip(2, 3, 2, seed=2), clip(1, 1, 1, seed=3)]
    alone = [generator.encode([frames])[0] for frames in clips]
    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 0]):
        together = generator.encode([clips[i] for i in order])
        assert all(torch.equal(features, alone[i]) for features, i in zip(together, order, strict=True))
    again = build(clip_mode=clip_mode).encode(clips)
    assert all(torch.equal(features, alone[i]) for i, features in enumerate(again))


def test_noise_is_a_function_of_seed_and_frame(build):
    shape = (3, 4, 6, 4)
    noise = build().noise(0, shape)
    assert torch.equal(build().noise(0, shape), noise)
    torch.manual_seed(99)
    assert torch.equal(build().noise(1, (2, *shape[1:])), noise[1:])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(build(noise_seed=1).noise(0, shape), noise)
    assert torch.equal(build(noise_shared=True).noise(0, shape)[2], noise[0])


def test_kept_and_fresh_noise_are_the_same(build):
    generator = build()
    shape = (100, 4, 2, 2)
    whole = generator.noise(0, shape)
    pieces = [generator.noise(start, (10, *shape[1:])) for start in range(0, 100, 10)]
    other = generator.noise(5, (3, 4, 4, 4))
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(generator.noise(5, (3, 4, 4, 4)), other)


def test_noise_does_not_touch_the_global_generator(build):
    generator = build()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    generator.noise(0, (2, 4, 2, 2))
    assert torch.equal(torch.rand(3), expected)


def test_autocast_changes_nothing(build):
    generator, frames = build(), clip(2)
    expected = generator.encode([frames])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(generator.encode([frames])[0], expected)


def test_float_pixels_equal_uint8_pixels(build):
    generator, frames = build(), clip(2)
    assert torch.equal(generator.encode([frames.float() / 127.5 - 1])[0], generator.encode([frames])[0])


def test_constants_follow_the_dtype(build):
    generator, frames = build(), clip(2)
    generator.encode([frames])
    expected = generator.encode([frames])[0]
    generator.double().float()
    torch.testing.assert_close(generator.encode([frames])[0], expected, atol=1e-6, rtol=0)


def test_progress_counts_frames(build):
    counts = []
    build(chunk_frames=2).encode([clip(5), clip(1)], on_progress=counts.append)
    assert counts == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(2, 16, 16, 3, dtype=torch.uint8), r"\[T, 3, H, W\] .* got \(2, 16, 16, 3\)"),
        (torch.zeros(0, 3, 16, 16, dtype=torch.uint8), r"at least one frame.* got \(0, 3, 16, 16\)"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"got \(3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 20, dtype=torch.uint8), "multiples of 16 px, but got 16 x 20"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int32), "uint8, or float in .* got torch.int32"),
        (torch.full((1, 3, 16, 16), 1.5), r"\[-1, 1\], but got \[1.5, 1.5\]"),
        (torch.full((1, 3, 16, 16), float("nan")), r"\[-1, 1\], but got \[nan, nan\]"),
    ],
)
def test_bad_clips_are_refused(build, frames, message):
    with pytest.raises(ValueError, match=message):
        build().encode([frames])


def test_without_weights_nothing_runs():
    from golden_models import generator_config

    with torch.device("meta"):
        config = generator_config(WanTransformer3DModel(**WAN_TRANSFORMER), AutoencoderKLWan(**WAN_VAE), block=BLOCK)
        generator = VegaGenerator(config)
    with pytest.raises(ValueError, match="has no weights"):
        generator.encode([clip(1)])


def test_a_wan22_vae_is_refused(parts, tmp_path):
    vae = AutoencoderKLWan(**{**WAN_VAE, "patch_size": 2, "in_channels": 12, "out_channels": 12})
    with pytest.raises(ValueError, match=r"of 16 px \(patch_size 2, 4 levels\).*use a Wan2\.1 VAE"):
        load_generator(tmp_path / "files", parts[0], vae, torch.zeros(1, 16), block=BLOCK)


def test_a_folder_without_a_prompt_needs_one(parts, tmp_path):
    for name, part in zip(("transformer", "vae"), parts, strict=True):
        part.save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"generator\.json is not there\. Give prompt_embeds"):
        VegaGenerator.from_folder(tmp_path)
    prompt = torch.zeros(1, WAN_TRANSFORMER["text_dim"])
    generator = VegaGenerator.from_folder(tmp_path, torch.bfloat16, prompt, block=BLOCK, prompt_length=PROMPT_LENGTH)
    assert generator.encode([clip(1)])[0].dtype == torch.bfloat16
    assert generator.files == tmp_path


def test_noise_is_given_for_each_clip(build):
    with pytest.raises(ValueError, match="noise for 1 clips, but there are 2"):
        build().encode([clip(1), clip(1)], noise=[torch.zeros(1, 4, 4, 6)])
