"""A tiny world for the closed loop: a point that is to reach a place on a line. Its expert fails from some seeds."""

import os
from functools import partial

import numpy as np

from vega3d.robotics.closed_loop import Observation

NEAR, SPEED, HEIGHT, WIDTH = 0.05, 0.1, 32, 64


class LineWorld:
    instruction = "Reach the bright place."
    most_steps = 40
    rest_action = np.zeros(2, np.float32)

    def __init__(self, task: str, dies_at: int | None = None):
        self.task, self._dies_at = task, dies_at
        self.at = self.goal = 0.0
        self._stuck = False

    def reset(self, seed: int) -> Observation:
        self.at, self.goal = np.random.default_rng([seed, len(self.task)]).uniform([-1, 0.2], [-0.2, 1]).tolist()
        self._stuck = seed % 5 == 4
        if seed == self._dies_at:
            os._exit(7)
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[Observation, bool]:
        assert action.dtype == np.float32 and np.abs(action).max() <= 1
        self.at += SPEED * float(action[0])
        return self._observation(), abs(self.at - self.goal) < NEAR

    def expert_action(self) -> np.ndarray:
        towards = np.clip((self.goal - self.at) / SPEED, -1, 1)
        return np.array([0 if self._stuck else towards, 0.5], np.float32)

    def close(self) -> None:
        pass

    def _observation(self) -> Observation:
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[:, column(self.goal), 0] = 255
        image[:, column(self.at), 1] = 255
        return Observation({"front": image}, np.array([self.at], np.float32))


def column(place: float) -> int:
    return int(np.clip((place + 1) / 2 * (WIDTH - 1), 0, WIDTH - 1))


class Seeing:
    """A policy that reads the place from the image, in chunks of three actions."""

    def __init__(self, gain: float = 1.0):
        self.gain, self.asked = gain, 0

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        assert instruction == LineWorld.instruction
        self.asked += 1
        goal = images["front"][0, :, 0].argmax() / (WIDTH - 1) * 2 - 1
        steps = (goal - state[0]) / SPEED * self.gain
        return np.array([[np.clip(steps - k, -2, 2), 0] for k in range(3)])


def line_world(dies_at: int | None = None) -> partial:
    return partial(LineWorld, dies_at=dies_at)
