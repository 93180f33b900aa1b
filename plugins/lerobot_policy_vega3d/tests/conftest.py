from pathlib import Path

import pytest
from plugin_data import BASE, CAMERAS, lerobot, write_demonstrations


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory) -> Path:
    return write_demonstrations(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def run(demonstrations, tmp_path_factory) -> Path:
    """Output of `lerobot-train` after 20 steps, with a checkpoint after 10."""
    folder = tmp_path_factory.mktemp("run") / "out"
    done = lerobot(
        "train",
        *("--policy.type=vega3d", f"--policy.base_model={BASE}", f"--policy.cameras={CAMERAS}"),
        *("--policy.device=cpu", "--policy.push_to_hub=false", "--policy.chunk_size=3", "--policy.n_action_steps=2"),
        *("--policy.learning_rates={act: 0.01}", "--policy.warmup_steps=0"),
        *("--dataset.repo_id=local/toy", f"--dataset.root={demonstrations}", f"--output_dir={folder}"),
        *("--steps=20", "--save_freq=10", "--batch_size=4", "--num_workers=0"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def checkpoint(run) -> Path:
    return run / "checkpoints" / "000020" / "pretrained_model"
