"""Demonstrations of the size of Meta-World's, LeRobot's commands on them, and its batches of them."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from robotics.demonstration_data import FPS, write_toy
from tiny_checkpoints import FROZEN

BASE, CHUNK = FROZEN, 3
CAMERAS = "{front: observation.images.front}"  # and the other one is left out
SHORT = Path(__file__).parent / "short_episodes.py"


def write_demonstrations(folder: Path) -> Path:
    return write_toy(folder, 2, state_size=4, action_size=4)


def lerobot(command: str, *options: str, program: Path | None = None) -> subprocess.CompletedProcess:
    """`lerobot-COMMAND` of the interpreter that runs the tests."""
    started = [str(program)] if program else ["-m", f"lerobot.scripts.lerobot_{command}"]
    environment = {"MUJOCO_GL": "egl", **os.environ}
    return subprocess.run(
        [sys.executable, *started, *options], env=environment, capture_output=True, text=True, timeout=500
    )


def rows_of(folder: Path) -> LeRobotDataset:
    steps = {"action": [step / FPS for step in range(CHUNK)]}
    return LeRobotDataset("local/toy", root=folder, delta_timestamps=steps)


def batch_of(folder: Path, *places: int) -> dict:
    rows = rows_of(folder)
    return torch.utils.data.default_collate([rows[place] for place in places])
