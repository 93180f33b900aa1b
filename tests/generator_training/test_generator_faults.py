"""Killed runs, other recipes, losses that are not finite, and settings that are refused."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from toy_generators import figures_of, files_of, toy_config, train, train_and_tell

from vega3d.generator_training import make_generator_config, read_generator_config
from vega3d.run_files import PREFIX


def kill_after(stage: str, output: Path, steps: int, seconds: float) -> int:
    """Trains in another process and kills it so long after a step; returns the steps that it had done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vega3d.generator_training"])
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
        ({"dit": {"mixture": ["clips"]}}, "dit.mixture is \\['clips'\\]"),
        ({"dit": {"window": 1}}, "batch_size 2, first_walks 3 and window 1"),
        ({"vae": {"dim_mult": [1, 2]}}, "vae.dim_mult is \\[1, 2\\], but must have 3 levels with patch_size 2"),
        ({"vae": {"patch_size": 1}}, "vae.dim_mult is \\[1, 2, 2\\], but must have 4 levels with patch_size 1"),
        ({"vae": {"patch_size": 4}}, "vae.patch_size is 4, but must be 1 or 2"),
        ({"vae": {"optimizer": "sgd"}}, "vae.optimizer is 'sgd'"),
        ({"vae": {"save_steps": 3}}, "save_steps is 3, but must be a multiple of logging_steps 2"),
        ({"vae": {"steps": 0}}, "steps is 0, but must be at least 1"),
        ({"vae": {"warmup": 1.0}}, "warmup is 1.0, but must be below 1"),
        ({"dit": {"shift": 0.0}}, "dit.shift is 0.0"),
        ({"vae": {"steps": "many"}}, "vae.steps is 'many', but must be a whole number"),
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
