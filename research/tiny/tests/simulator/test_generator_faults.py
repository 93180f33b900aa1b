"""Killed runs, other recipes, losses that are not finite, and settings that are refused."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_generators import figures_of, files_of, toy_config, train, train_and_tell

from research.tiny.simulator import make_generator_config, read_generator_config
from research.tiny.simulator.export import export_part
from research.tiny.simulator.rooms import FrameFiles, RoomStream
from research.tiny.simulator.run import load_vae
from research.tiny.simulator.samples import check_samples
from vega3d.files import LOCK, only_run
from vega3d.training.checkpoints import PREFIX


def kill_after(stage: str, output: Path, steps: int, seconds: float) -> int:
    """Trains in another process and kills it so long after a step; returns the steps that it had done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["research.tiny.simulator"])
    told = output.with_name(f"{output.name}.steps")
    told.touch()
    before = told.stat().st_size
    process = context.Process(target=train_and_tell, args=(stage, str(output), str(told)))
    process.start()
    deadline = time.monotonic() + 120
    while told.stat().st_size - before < steps and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return told.stat().st_size - before


def prepared(stage: str, simulator: Path, output: Path) -> None:
    """Before the transformer there is a VAE."""
    if stage != "vae":
        shutil.copytree(simulator / "generator" / "vae", output / "generator" / "vae")


def assert_continues_exactly(stage, output, simulator):
    whole, results = simulator
    result = train(stage, output)
    assert figures_of(result) == figures_of(results[stage])
    checkpoint = f"runs/{stage}/{PREFIX}{result['steps']}"
    for folder in (checkpoint, f"generator/{stage}" if stage == "vae" else f"{stage}/transformer"):
        assert files_of(output / folder) == files_of(whole / folder)


@pytest.mark.parametrize(
    ("stage", "steps", "seconds"), [("vae", 5, 0.0), ("generator", 3, 0.0), ("generator", 8, 0.05)]
)
def test_a_killed_run_continues_exactly(simulator, tmp_path, stage, steps, seconds):
    output = tmp_path / "run"
    prepared(stage, simulator[0], output)
    assert kill_after(stage, output, steps, seconds) >= steps
    assert_continues_exactly(stage, output, simulator)


@pytest.mark.stress
@pytest.mark.parametrize("round_number", range(20))
def test_a_run_killed_at_any_moment_continues_exactly(simulator, tmp_path, round_number):
    """Twice killed, at moments within the making of rooms, steps, checkpoints and the writing of the result."""
    moments = random.Random(round_number)
    stage = ("vae", "generator", "image-twin")[round_number % 3]
    output = tmp_path / "run"
    prepared(stage, simulator[0], output)
    for _ in range(2):
        kill_after(stage, output, moments.randint(0, 6), moments.uniform(0, 0.4))
    assert_continues_exactly(stage, output, simulator)


def test_another_recipe_is_refused(simulator):
    output, _ = simulator
    told = r"dit.learning_rate was 0.003 and is 0.1; dit.shift was 2.0 and is 3.0\. Continue it with the same"
    with pytest.raises(ValueError, match=told):
        train("generator", output, dit={"learning_rate": 0.1, "shift": 3.0})
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        train("vae", output, seed=1)


def test_a_transformer_of_another_vae_is_refused(simulator, tmp_path):
    output, _ = simulator
    shutil.copytree(output / "runs" / "generator", tmp_path / "runs" / "generator")
    shutil.copytree(output / "generator" / "vae", tmp_path / "generator" / "vae")
    config = tmp_path / "generator" / "vae" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ValueError, match="vae_sha256 was"):
        train("generator", tmp_path)


def test_a_loss_that_is_not_finite_stops_with_step_and_clips(simulator, tmp_path):
    prepared("generator", simulator[0], tmp_path)
    told = r"in step \d+, on room \d+ walk \d+, room \d+ walk \d+\. Training stops"
    with pytest.raises(ValueError, match=told):
        train("generator", tmp_path, dit={"learning_rate": 1e30, "save_steps": 2, "warmup": 0.0})
    assert not [path for path in (tmp_path / "runs" / "generator").glob(f"{PREFIX}*") if path.name != f"{PREFIX}2"]


def test_the_transformer_needs_a_vae(tmp_path):
    with pytest.raises(ValueError, match="holds no VAE: train the stage vae first"):
        train("generator", tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dit": {"lerning_rate": 1e-3}}, "no setting 'dit.lerning_rate'. Did you mean 'dit.learning_rate'"),
        ({"dits": {}}, "no setting 'dits'. Did you mean 'dit'"),
        ({"rooms": {"size": 100}}, "rooms.size is 100, but must be a multiple of 16"),
        ({"rooms": {"clip_frames": 16}}, "rooms.clip_frames is 16, but must be 1 \\+ 4k"),
        ({"rooms": {"num_frames": 11}}, "rooms.num_frames is 11, but a walk must consist of clips of 5 frames"),
        ({"dit": {"mixture": ["clips"]}}, "dit.mixture\\[0\\] is 'clips'"),
        ({"dit": {"window": 1}}, "batch_size 2, first_walks 3 and window 1"),
        ({"vae": {"dim_mult": [1, 2]}}, "vae.dim_mult is \\[1, 2\\], but must have 3 levels with patch_size 2"),
        ({"vae": {"patch_size": 1}}, "vae.dim_mult is \\[1, 2, 2\\], but must have 4 levels with patch_size 1"),
        ({"vae": {"patch_size": 4}}, "vae.patch_size is 4, but must be 1 or 2"),
        ({"vae": {"optimizer": "sgd"}}, "vae.optimizer is 'sgd'"),
        ({"vae": {"save_steps": 3}}, "save_steps is 3, but must be a multiple of logging_steps 2"),
        ({"vae": {"steps": 0}}, "steps is 0, but must be at least 1"),
        ({"vae": {"warmup": 1.0}}, "warmup is 1.0, but must be below 1"),
        ({"dit": {"shift": 0.0}}, "^dit.shift is 0.0, but must be above 0"),
        ({"vae": {"steps": "many"}}, "vae.steps is 'many', but must be a whole number"),
        ({"vae": {"dim_mult": [0, 0, 0]}}, "vae.dim_mult is \\[0, 0, 0\\], but each level must be 1 to 64"),
        ({"vae": {"dim_mult": [1, -1, 2]}}, "each level must be 1 to 64"),
        ({"vae": {"dim_mult": [1, 1, 10**9]}}, "each level must be 1 to 64"),
        ({"vae": {"dim_mult": [1, [2], 2]}}, "vae.dim_mult\\[1\\] is \\[2\\], but must be a whole number"),
        ({"vae": {"dim_mult": 2}}, "vae.dim_mult is 2, but must be a list"),
        ({"vae": {"dim_mult": [1, 1, 1], "base_dim": 1}}, "Make one of them 2"),
        ({"vae": {"base_dim": 0}}, "base_dim is 0, but must be at least 1"),
        ({"vae": {"z_dim": 10**6}}, "z_dim is 1000000, but must be at most 4096"),
        ({"vae": {"learning_rate": float("nan")}}, "learning_rate is nan"),
        ({"vae": {"learning_rate": 10**400}}, "learning_rate is .* but must be a number"),
        ({"vae": {"kl_weight": True}}, "kl_weight is True, but must be a number"),
        ({"vae": {"steps": 1 << 70}}, "vae.steps is"),
        ({"vae": {"compile": 1}}, "vae.compile is 1, but must be true or false"),
        ({"dit": {"attention_head_dim": 7}}, "attention_head_dim is 7, but must be even"),
        ({"dit": {"freq_dim": 1}}, "freq_dim is 1, but must be at least 2"),
        ({"dit": {"mixture": "clip"}}, "dit.mixture is 'clip', but must be a list"),
        (
            {"dit": {"mixture": [["clip"]]}},
            r"dit.mixture\[0\] is \['clip'\], but must be one of \['clip', 'views', 'frame'\]",
        ),
        ({"dit": {"new_walks": 1e300}}, "new_walks is 1e\\+300, but must be at most"),
        ({"rooms": {"workers": 10**9}}, "workers is 1000000000, but must be at most 256"),
        ({"rooms": {"size": 16 * 10**6}}, "size is 16000000, but must be at most 4096"),
        ({"rooms": {"renderer": ["embree"]}}, "rooms.renderer is \\['embree'\\]"),
        ({"seed": 1 << 40}, "seed is 1099511627776, but must be at most 2147483647"),
        ({"seed": True}, "seed is True, but must be a whole number"),
    ],
)
def test_bad_settings_are_refused(changes, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        toy_config(tmp_path, **changes)


def test_settings_take_the_place_of_the_files(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("output: a\nvae: {steps: 5, batch_size: 2, learning_rate: 1e-3}\ndit: {steps: 5, batch_size: 2}\n")
    with pytest.raises(ValueError, match=r"does not say dit.learning_rate"):
        read_generator_config(file)
    config = read_generator_config(file, {"dit.learning_rate": 1e-3, "dit.steps": 7, "output": "b"})
    assert (config.dit.steps, config.vae.steps, config.output) == (7, 5, Path("b"))
    with pytest.raises(ValueError, match="does not say output"):
        make_generator_config({"vae": {}, "dit": {}})


@pytest.mark.parametrize("value", [[1], 0, "", False, "text"])
def test_a_section_that_is_no_section_is_refused(tmp_path, value):
    file = tmp_path / "recipe.yaml"
    file.write_text("output: a\nvae: {steps: 5, batch_size: 2, learning_rate: 1e-3}\ndit: {steps: 5, batch_size: 2}\n")

    for settings in ({"vae": value}, {"vae": value, "vae.steps": 1}):
        with pytest.raises(ValueError, match=r"vae is .*, but must hold names with values"):
            read_generator_config(file, settings)


def test_a_stage_in_one_folder_is_trained_once_at_a_time(simulator):
    output, _ = simulator

    with only_run(output / "runs" / "vae"), pytest.raises(ValueError, match=r"Another run is writing .*vae"):
        train("vae", output)


def test_frames_of_a_room_that_are_not_whole_are_made_again(tmp_path):
    config = toy_config(tmp_path, rooms={"walks": 1})
    files = FrameFiles(tmp_path, RoomStream(config.rooms))
    files.folder.mkdir()
    np.save(files.path(0), np.zeros((1, 9, 32, 32, 3), np.uint8))
    assert files.missing(1) == []
    whole = files.path(0).read_bytes()

    for damaged in (b"", whole[:50], whole[:-1]):
        files.path(0).write_bytes(damaged)
        assert files.missing(1) == [0]

    assert files.frames(0).float().std() > 1
    np.save(files.path(0), np.zeros((1, 2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"but must be uint8\[1, 9, 32, 32, 3\]"):
        files.frames(0)


def test_what_a_killed_export_left_is_removed(simulator, tmp_path):
    """A killed process leaves its folder without the lock on it."""
    left = tmp_path / ".vae-0123abcd.partial"
    left.mkdir()
    (left / LOCK).touch()
    (left / "weights").touch()
    vae = load_vae(simulator[0] / "generator" / "vae", torch.device("cpu"))

    export_part(vae, tmp_path, "vae")

    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
    assert {path.name for path in (tmp_path / "vae").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("samples.json", '{"mine": 1}', "samples.json is not of `sample`"),
        ("samples.json", "[]", "samples.json holds list"),
        ("samples.png", "mine", "samples.png is not of an earlier run"),
        ("video-3.mp4", "mine", "video-3.mp4 is not of an earlier run"),
    ],
)
def test_samples_take_no_file_of_the_user(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(ValueError, match=told):
        check_samples(tmp_path, [3])

    assert (tmp_path / name).read_text() == text
    check_samples(tmp_path / "new", [3])


def test_samples_may_be_made_again(tmp_path):
    for name in ("samples.png", "video-3.mp4"):
        (tmp_path / name).touch()
    facts = {"generator_files": "x", "files": ["samples.png", "video-3.mp4"]}
    (tmp_path / "samples.json").write_text(json.dumps(facts))

    check_samples(tmp_path, [3])
