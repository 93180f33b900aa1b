import json
import multiprocessing
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
from train_jobs import train_among_processes, train_and_tell
from training_data import losses_of, run_config, run_training

from vega3d.training.checkpoints import damage


@pytest.fixture(scope="module")
def whole_run(talk, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    return output, run_training(run_config(talk, output))


def forkserver():
    """Starts processes that need not import everything anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vega3d.hub.load", "vega3d.training", "transformers", "peft", "datasets"])
    return context


def kill_after(talk: Path, output: Path, steps: int, seconds: float) -> int:
    """Trains in another process and kills it so long after a step; returns the steps that it had done."""
    context = forkserver()
    told = output.with_name(f"{output.name}.steps")
    told.touch()
    process = context.Process(target=train_and_tell, args=(str(talk), str(output), str(told)))
    process.start()
    deadline = time.monotonic() + 120
    while told.stat().st_size < steps and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return told.stat().st_size


def assert_continues_exactly(talk, output, whole_run):
    for checkpoint in (output / "checkpoints").glob("checkpoint-*"):
        print(checkpoint.name, damage(checkpoint) is None)
    result = run_training(run_config(talk, output))
    assert losses_of(result["log"]) == losses_of(whole_run[1]["log"])
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (output / file).read_bytes() == (whole_run[0] / file).read_bytes()


@pytest.mark.parametrize(("steps", "seconds"), [(1, 0.0), (4, 0.01), (8, 0.05)])
def test_a_killed_run_continues_exactly(talk, tmp_path, whole_run, steps, seconds):
    assert kill_after(talk, tmp_path / "run", steps, seconds) >= steps
    assert_continues_exactly(talk, tmp_path / "run", whole_run)


@pytest.mark.stress
@pytest.mark.parametrize("round_number", range(20))
def test_a_run_killed_at_any_moment_continues_exactly(talk, tmp_path, whole_run, round_number):
    """Twice killed, at moments within steps, checkpoints and the writing of the result."""
    moments = random.Random(round_number)
    for _ in range(2):
        kill_after(talk, tmp_path / "run", moments.randint(0, 8), moments.uniform(0, 0.15))
    assert_continues_exactly(talk, tmp_path / "run", whole_run)


def test_two_processes_share_the_rows(talk, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = [(rank, port, str(talk), str(tmp_path)) for rank in range(2)]
    processes = [forkserver().Process(target=train_among_processes, args=arguments) for arguments in job]

    for process in processes:
        process.start()

    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0

    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["some text"]["weights"] == second["some text"]["weights"]
    assert len(first["some text"]["refusals"]) == 2 and not second["some text"]["refusals"]
    assert "The rows text0 have neither image nor video" in first["some text"]["refusals"][0]
    assert first["all used"] == {**first["rows"], "looks for unused": False} and first["rows"]["looks for unused"]
    for kind in ("stream", "rows", "all used"):
        assert first[kind]["weights"] == second[kind]["weights"]
        rows = [process[kind]["rows"] for process in (first, second)]
        assert all(row[1:] == [1, 1] for process in rows for row in process)  # one prompt with its own video
        ids = [[row[0] for row in process] for process in rows]
        assert len({*ids[0], *ids[1]}) == 8
        if kind == "stream":
            assert ids == [[f"row{number}" for number in numbers] for numbers in ((0, 2, 4, 6), (1, 3, 5, 7))]
