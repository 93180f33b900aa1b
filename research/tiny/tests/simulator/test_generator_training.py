"""The chain at toy size: rooms -> VAE -> transformer -> files -> `VegaGenerator` -> samples."""

import json
import shutil
from contextlib import closing

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from PIL import Image
from toy_generators import DIT, VAE, figures_of, files_of, toy_config, train

from research.tiny.simulator import Watch, sample_videos
from research.tiny.simulator.dit import DiTTrainer, build_dit, draw_sigmas, empty_prompt
from research.tiny.simulator.frames import is_whole_array
from research.tiny.simulator.latents import LatentEncoder, as_batch
from research.tiny.simulator.rooms import RoomStream, WalkWindow, pixels, validation_stream
from research.tiny.simulator.run import make_rooms
from research.tiny.simulator.stages import VAEStage
from research.tiny.simulator.vae import (
    build_vae,
    latent_statistics,
    psnr,
    reconstruct,
    single_frames,
)
from research.tiny.simulator.whole_clip import WholeClips
from vega3d import VegaForSpatialReasoning, VegaGenerator
from vega3d.modeling.files_vega3d import generator_options, read_prompt
from vega3d.modeling.noise_vega3d import flow_matching_step
from vega3d.runs import hash_folder


def frames_of(count, seed=0, size=32):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)


def test_the_results_say_what_was_done(simulator):
    output, results = simulator
    for stage, result in results.items():
        stored = json.loads((output / "runs" / stage / "result.json").read_text())
        assert stored == result
        assert result["finished"] and result["steps"] == result["steps_wanted"] == result["log"][-1]["step"]
        assert result["clips_per_second"] > 0 and {"torch", "diffusers", "python"} <= result["versions"].keys()
        assert result["settings"]["seed"] == 0 and result["settings"]["processes"] == 1
        for picture in ("curves.png", "samples/step-0000004.png"):
            Image.open(output / "runs" / stage / picture).verify()

    vae, dit, twin = results.values()

    assert vae["gate"] == {"gate": "G1", "goal_db": 28.0, "psnr_db": vae["psnr"], "passed": False}
    assert {"validation_loss_clip", "validation_loss_views", "validation_loss_frame"} <= dit["log"][-1].keys()
    assert "validation_loss_0.3_frame" in twin["log"][-1] and "validation_loss_clip" not in twin["log"][-1]
    assert dit["parameters"] == twin["parameters"] and dit["steps"] == twin["steps"]
    assert dit["settings"]["vae_sha256"] == twin["settings"]["vae_sha256"] == hash_folder(output / "generator" / "vae")


def test_the_trained_vae_is_what_was_measured(simulator):
    output, results = simulator
    vae = AutoencoderKLWan.from_pretrained(output / "generator" / "vae")
    config = toy_config(output)
    stream = validation_stream(config.rooms)

    clips = pixels(stream.frames(0)[:, : config.rooms.clip_frames], torch.device("cpu"))

    assert psnr(reconstruct(vae, clips), clips).mean().item() == pytest.approx(results["vae"]["psnr"], abs=1e-4)

    train_rooms = RoomStream(config.rooms)
    last = [pixels(train_rooms.frames(1)[:, : config.rooms.clip_frames], torch.device("cpu"))]

    mean, spread = latent_statistics(vae, last)

    # The statistics were taken before the weights were rounded to bfloat16.
    assert np.allclose(mean, vae.config.latents_mean, atol=0.02 * max(spread))
    assert np.allclose(spread, vae.config.latents_std, rtol=0.05)
    assert vae.config.scale_factor_temporal == 4 and vae.config.scale_factor_spatial == 8


@pytest.mark.parametrize("name", ["generator", "image-twin"])
@pytest.mark.parametrize(("mode", "t"), [("frame", 5), ("views", 5), ("clip", 2)])
def test_the_generator_is_read(simulator, name, mode, t):
    generator = VegaGenerator.from_folder(simulator[0] / name, block=1, clip_mode=mode)
    (hidden,) = generator.encode([frames_of(5)])
    assert hidden.shape == (t, 2, 2, DIT["num_attention_heads"] * DIT["attention_head_dim"])
    assert hidden.isfinite().all()
    random = generator.variant(family="random")
    assert not torch.equal(random.encode([frames_of(5)])[0], hidden)
    assert generator.variant(family="vae").encode([frames_of(5)])[0].shape == (t, 2, 2, 4 * VAE["z_dim"])


def test_a_model_is_assembled_over_it(simulator, backbones):
    folder = simulator[0] / "generator"
    options = generator_options(folder)
    model = VegaForSpatialReasoning.from_backbones(backbones[0], folder, block=1, **options)
    alone = VegaGenerator.from_folder(folder, block=1)
    assert torch.equal(model.generator_module.prompt_embeds, read_prompt(folder))
    assert model.generator_module.config.prompt_length == DIT["prompt_tokens"]
    clip = frames_of(3)
    assert torch.equal(model.generator_module.encode([clip])[0], alone.encode([clip])[0])


def test_the_noise_is_that_which_is_read(simulator):
    """The features at a noise level are those of the pass whose error training lowers."""
    # Training takes 1000 sigma for the time, reading the integer below it: where they meet, the passes are the same.
    levels = (flow_matching_step(timestep, 5.0) for timestep in range(200, 800))
    level = min(levels, key=lambda level: abs(1000 * level.sigma - level.step))
    generator = VegaGenerator.from_folder(simulator[0] / "generator", block=-1, clip_mode="clip", timestep=level.step)
    assert generator.level == level

    transformer = WanTransformer3DModel.from_pretrained(simulator[0] / "generator" / "transformer")
    seen = {}
    transformer.blocks[-1].register_forward_hook(lambda block, inputs, output: seen.update(hidden=output))
    trainer = DiTTrainer(transformer, toy_config(simulator[0]).dit)
    clip = frames_of(5)
    latents = generator._latents(clip[None]).transpose(1, 2)
    sigma = generator.level.sigma
    epsilon = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        trainer(latents, epsilon, torch.tensor([sigma]))

    hidden = generator.encode([clip], noise=[epsilon[0].transpose(0, 1)])[0]

    torch.testing.assert_close(seen["hidden"].view_as(hidden), hidden, atol=2e-3, rtol=0)


def test_the_target_is_noise_minus_latents():
    """At sigma 1 the input is the noise alone, so a transformer that returns its input errs by the latents."""

    class Same(torch.nn.Module):
        def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict):
            self.timestep = timestep
            return (hidden_states,)

    options = toy_config("x").dit
    trainer = DiTTrainer(Same(), options)
    latents = torch.randn(3, 4, 2, 4, 4)
    errors = trainer.errors(latents, torch.randn(latents.shape), torch.ones(3))
    torch.testing.assert_close(errors, latents.square().flatten(1).mean(1))
    assert trainer.transformer.timestep.tolist() == [1000.0] * 3


def test_noise_levels_lie_in_the_middle():
    random = torch.Generator().manual_seed(0)
    for shift, median in ((1.0, 0.5), (2.0, 2 / 3), (5.0, 5 / 6)):
        sigmas = draw_sigmas(toy_config("x", dit={"shift": shift}).dit, 4000, random)
        assert sigmas.min() > 0 and sigmas.max() < 1
        assert sigmas.median().item() == pytest.approx(median, abs=0.02)


def test_batches_of_all_kinds_come_from_latents_of_walks():
    rooms = toy_config("x", rooms={"num_frames": 13}).rooms
    assert (rooms.num_latents, rooms.num_clips, rooms.num_views) == (2, 3, 4)
    # 3 clips of 2 latents and 4 views; each latent holds the number of its walk and its place.
    places = torch.arange(10.0) + 100 * torch.arange(4.0)[:, None]
    walks = places.view(4, 1, 10, 1, 1).expand(4, 2, 10, 4, 4)

    def batch(kind):
        latents = as_batch(walks, kind, rooms, np.random.default_rng(0))
        assert latents.shape[1] == 2 and latents.shape[3:] == (4, 4)
        return latents[:, 0, :, 0, 0].int().tolist()

    starts = [0, 2, 4]
    for number, clip in enumerate(batch("clip")):
        assert clip[0] - 100 * number in starts and clip[1] == clip[0] + 1
    assert batch("views") == [[6, 7, 8, 9], [106, 107, 108, 109]]  # as many tokens as 4 clips
    frames = batch("frame")
    assert [frame[0] // 100 for frame in frames] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {frame[0] % 100 for frame in frames} <= {6, 7, 8, 9} and len(frames[0]) == 1
    assert len({tuple(clip) for kind in ("clip", "frame") for clip in batch(kind)}) > 4
    clip = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 3, 9, 16, 16)
    assert single_frames(clip)[:, 0, 0, 0, 0].tolist() == [0, 4, 8]


@pytest.mark.parametrize("frames", [1, 5, 13])
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    "levels", [{"patch_size": 1, "dim_mult": [1, 2, 2, 3]}, {"patch_size": 2, "dim_mult": [1, 2, 3]}]
)
def test_whole_clips_are_what_diffusers_encodes_and_decodes(frames, compile, levels):
    """With gradients, and beyond the clamp of `decode`."""
    vae = build_vae(toy_config("x", vae=levels).vae, seed=0).double()
    random = torch.Generator().manual_seed(0)
    for parameter in vae.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    vae.decoder.conv_out.weight.data *= 5
    whole_clips = WholeClips(vae, compile)
    clip = torch.rand(2, 3, frames, 32, 48, generator=random).double() * 2 - 1
    latents = torch.randn(2, VAE["z_dim"], 1 + frames // 4, 4, 6, generator=random).double()

    def gradients(encoded, decoded):
        vae.zero_grad()
        (encoded.square().mean() + decoded.square().mean()).backward()
        return {name: one.grad.clone() for name, one in vae.named_parameters() if one.grad is not None}

    expected = vae.encode(clip).latent_dist.parameters, vae.decode(latents).sample
    encoded, decoded = whole_clips.encode(clip), whole_clips.decode(latents)
    torch.testing.assert_close(encoded, expected[0])
    # diffusers enlarges images in float32.
    torch.testing.assert_close(decoded.clamp(-1, 1), expected[1], rtol=1e-4, atol=1e-4)
    assert decoded.abs().max() > 1.01 > expected[1].abs().max()
    theirs, ours = gradients(*expected), gradients(encoded, decoded.clamp(-1, 1))
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5)


def test_walks_are_encoded_as_clips_and_views(simulator):
    config = toy_config(simulator[0])
    vae = AutoencoderKLWan.from_pretrained(simulator[0] / "generator" / "vae", torch_dtype=torch.float32)
    walks = torch.randint(0, 256, (2, 9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = LatentEncoder(vae, config.rooms, Accelerator(cpu=True)).encode(walks)
    assert latents.shape == (2, VAE["z_dim"], 2 * 2 + 3, 4, 4) and latents.dtype == torch.bfloat16
    frames = pixels(walks, torch.device("cpu"))
    mean, spread = (
        torch.tensor(one).view(1, -1, 1, 1, 1) for one in (vae.config.latents_mean, vae.config.latents_std)
    )

    def encoded(*places):
        return (vae.encode(frames[:, :, list(places)]).latent_dist.mean - mean) / spread

    parts = [encoded(*range(0, 5)), encoded(*range(4, 9)), encoded(0), encoded(4), encoded(8)]
    torch.testing.assert_close(latents.float(), torch.cat(parts, 2), rtol=0.01, atol=0.01)


def test_first_weights_let_pictures_through():
    """As an image VAE would, frame by frame, at the strength that they have."""
    options = toy_config("x", vae={"base_dim": 8, "z_dim": 8, "patch_size": 1, "dim_mult": [1, 2, 2, 4]}).vae
    vae, clip = build_vae(options, seed=0), torch.rand(2, 3, 9, 64, 64) * 2 - 1

    with torch.no_grad():
        latents = vae.encode(clip).latent_dist
        decoded = vae.decode(latents.mean).sample
        alone = vae.encode(clip[:, :, 4:5]).latent_dist.mean

    torch.testing.assert_close(latents.mean[:, :, 1:2], alone)
    torch.testing.assert_close(decoded[:, :, 1:2].expand(-1, -1, 4, -1, -1), decoded[:, :, 1:5])
    assert 0.3 < decoded.std() / clip.std() < 3

    blocks = [block for block in vae.modules() if isinstance(block, WanResidualBlock)]
    for block in blocks:
        x = torch.randn(1, block.in_dim, 1, 4, 4)
        assert torch.equal(block(x), block.conv_shortcut(x))
    assert len(blocks) == 16
    assert latents.std.mean().item() == pytest.approx(0.05, rel=0.1)


def test_frames_come_first_and_every_few_steps():
    """A step sees clips of consecutive frames, or frames from anywhere in the walks."""
    config = toy_config("x", vae={"frames_first": 3, "frames_every": 4})
    walks = torch.arange(9, dtype=torch.uint8).view(1, 9, 1, 1, 1).expand(3, 9, 32, 32, 3)
    window = WalkWindow(config.vae, walks=3, seed=0, load=lambda number: walks)
    stage = VAEStage(None, config.vae, config.rooms, window, walks, torch.device("cpu"), 0)

    seen = [stage.inputs(step).tensors[0] for step in range(9)]

    assert [step for step, batch in enumerate(seen) if batch.shape == (4, 3, 1, 32, 32)] == [0, 1, 2, 3, 7]

    numbers = [(batch[:, 0, :, 0, 0] * 127.5 + 127.5).round().int() for batch in seen]
    assert len({frame for step in (0, 1, 2, 3, 7) for frame in numbers[step].flatten().tolist()}) > 4

    clips = torch.cat([numbers[step] for step in (4, 5, 6, 8)])
    assert clips.shape == (8, 5) and (clips.diff() == 1).all() and len(set(clips[:, 0].tolist())) > 1
    assert torch.equal(stage.inputs(4).tensors[0], seen[4])


def test_vaes_of_other_architectures_are_refused():
    vae = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True
    )
    with pytest.raises(ValueError, match="residual shortcuts"):
        WholeClips(vae)


def test_the_window_moves_on_and_depends_on_the_step_alone():
    options = toy_config("x", dit={"first_walks": 4, "window": 9, "new_walks": 1.5, "batch_size": 4}).dit
    asked = []

    def load(number):
        asked.append(number)
        return torch.arange(3) + 10 * number

    def window():
        return WalkWindow(options, walks=3, seed=0, load=load)

    going = window()
    drawn = [going.batch(step) for step in range(12)]
    assert asked == list(range(7))  # each room once, in order: 4 + 1.5 * 11 walks in rooms of 3
    for values, walks in drawn:
        assert values.tolist() == [10 * walk.room + walk.walk for walk in walks]
        assert len(set(walks)) == 4
    assert {walk.room for walk in drawn[-1][1]} <= {4, 5, 6}
    assert window().batch(11)[1] == drawn[11][1] and asked[7:] == [4, 5, 6]
    assert drawn[10][1] != drawn[11][1]


def test_rooms_come_in_any_order():
    options = toy_config("x", rooms={"workers": 1}).rooms
    with closing(RoomStream(options)) as stream:
        for number in (3, 4, 1):
            here = RoomStream(toy_config("x").rooms).frames(number)
            assert here.shape == (3, 9, 32, 32, 3) and torch.equal(stream.frames(number), here)


def test_samples_depend_on_their_seed_alone(simulator):
    folder = simulator[0] / "generator"
    vae = AutoencoderKLWan.from_pretrained(folder / "vae")
    transformer = build_dit(toy_config("x").dit, VAE["z_dim"], seed=0)
    prompt = empty_prompt(toy_config("x").dit)
    size = {"num_frames": 5, "height": 32, "width": 48, "steps": 3}

    both = sample_videos(transformer, vae, prompt, seeds=[4, 5], **size)

    assert both.shape == (2, 5, 32, 48, 3) and both.dtype == np.uint8

    alone = sample_videos(transformer, vae, prompt, seeds=[5], **size)
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1
    assert not np.array_equal(both[0], both[1])

    euler = sample_videos(transformer, vae, prompt, seeds=[5], solver="euler", **size)
    assert euler.shape == alone.shape and not np.array_equal(euler, alone)
    with pytest.raises(ValueError, match="num_frames is 6"):
        sample_videos(transformer, vae, prompt, seeds=[5], **{**size, "num_frames": 6})


def test_a_run_that_pauses_continues_exactly(simulator, tmp_path):
    output, results = simulator
    paused = train("vae", tmp_path, Watch(max_minutes=1e-6))
    assert not paused["finished"] and paused["steps"] == 2
    assert not (tmp_path / "generator").exists()
    done = train("vae", tmp_path)
    assert done["continued_from"] == "checkpoint-2"
    assert figures_of(done) == figures_of(results["vae"])
    assert files_of(tmp_path / "generator") == {
        name: data for name, data in files_of(output / "generator").items() if name.startswith("vae")
    }


def test_a_finished_run_is_not_trained_again(simulator):
    output, results = simulator
    before = files_of(output)
    again = train("generator", output)
    assert again["continued_from"] == "checkpoint-10" and again["log"] == results["generator"]["log"]
    assert files_of(output) == before


def test_rooms_made_beforehand_change_nothing(simulator, tmp_path):
    """Frames from files train the same VAE; a run that is cut short goes on."""
    config = toy_config(tmp_path)
    short = make_rooms(config, Watch(max_minutes=1e-9))
    assert (short["finished"], short["rooms"]) == (False, 0)

    told = []
    result = make_rooms(config, Watch(on_step=lambda done, rooms: told.append(rooms)))
    # 3 clips, then half a clip for each of 9 further steps, 3 clips a room; and one room for validation
    assert result["finished"] and result["rooms"] == len(told) == 4

    files = sorted((tmp_path / "frames").rglob("*.npy"))
    assert len(files) == 4

    before = [file.stat().st_mtime_ns for file in files]
    make_rooms(config)
    assert [file.stat().st_mtime_ns for file in files] == before

    train("vae", tmp_path)
    same = files_of(tmp_path / "generator" / "vae")
    assert same and same == files_of(simulator[0] / "generator" / "vae")

    changed = tmp_path / "changed"
    shutil.copytree(tmp_path / "frames", changed / "frames")
    for file in (changed / "frames").glob("train-*/*.npy"):
        np.save(file, 255 - np.load(file))

    train("vae", changed)

    assert files_of(changed / "generator" / "vae") != same


def test_files_of_frames_that_were_cut_short_are_known(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(9))
    whole = path.read_bytes()

    assert is_whole_array(path)
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"cut off", bytes(len(whole))):
        path.write_bytes(damaged)
        assert not is_whole_array(path), len(damaged)
    path.unlink()
    assert not is_whole_array(path)
