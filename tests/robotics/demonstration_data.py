"""Demonstrations of a toy arm, for tests: each frame is of one grey value, which tells its step."""

import os
from pathlib import Path

import numpy as np

from vega3d.robotics.episode_writer import EpisodeWriter

FPS, SIZE, TASKS = 10, (32, 48), ("reach the ball", "close the drawer")
CAMERAS = ("front", "wrist")
GREY, DARKER, TONE = 8, 100, 15  # of a step, and by how much the wrist camera and the next episode are brighter


def toy_episode(number: int, steps: int = 12, cameras=CAMERAS, state_size: int = 3, action_size: int = 2) -> dict:
    """What `EpisodeWriter.write` takes."""
    random = np.random.default_rng(number)
    frames = {}
    for place, name in enumerate(cameras):
        grey = (np.arange(steps) * GREY + place * DARKER + number * TONE).astype(np.uint8)
        frames[name] = np.broadcast_to(grey[:, None, None, None], (steps, *SIZE, 3)).copy()
    states = random.normal(size=(steps, state_size)).cumsum(0)
    actions = random.uniform(-1, 1, size=(steps, action_size))
    return {"frames": frames, "states": states, "actions": actions, "task": TASKS[number % len(TASKS)]}


def write_toy(folder: Path, episodes: int = 3, **options) -> Path:
    with EpisodeWriter(folder, FPS) as writer:
        for number in range(len(writer), episodes):
            writer.write(**toy_episode(number, **options))
    return folder


def die_while_writing(folder: Path, at: str) -> None:
    """Writes the toy data set, but dies before a file of episode 2 is in its place."""
    replace = Path.replace

    def dying(self: Path, target: Path):
        if at in str(target) and "002" in str(target):
            os._exit(9)
        return replace(self, target)

    Path.replace = dying
    write_toy(folder)
