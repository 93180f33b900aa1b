"""The closed loop: a policy acts in an environment until the task is done, or the steps are used up.

Letters: K actions of a chunk, A numbers of an action, P numbers of a state, T steps, n frames that a policy sees.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

LARGEST, SMALLEST = 1.0, -1.0  # limits of each number of an action, in all environments here


@dataclass(frozen=True)
class Observation:
    """What a robot sees and feels before an action.

    Attributes:
        images: uint8[H, W, 3] of each view, upright, the third person's first and the wrist's second.
        state: float32[P], the robot's own position and gripper.
    """

    images: dict[str, np.ndarray]
    state: np.ndarray


class ActionPolicy(Protocol):
    """Chooses actions from what is seen; it remembers nothing between two calls."""

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        """float[K, A], the next actions in the environment's own units.

        Args:
            images: uint8[H, W, 3] of each view, or uint8[n, H, W, 3], its last n frames, where several are asked for.
        """


class Environment(Protocol):
    """A simulated robot with one task."""

    task: str
    instruction: str
    most_steps: int
    rest_action: np.ndarray  # float32[A]: the arm stays where it is, the gripper open

    def reset(self, seed: int) -> Observation:
        """The first observation of the initial state that `seed` stands for."""

    def step(self, action: np.ndarray) -> tuple[Observation, bool]:
        """The observation after an action float32[A] in [-1, 1], and whether the task is done."""

    def close(self) -> None: ...


class ExpertEnvironment(Environment, Protocol):
    """An environment that knows how its task is done."""

    def expert_action(self) -> np.ndarray:
        """float32[A] that a scripted expert takes in the present state."""


@dataclass(frozen=True)
class Episode:
    """One attempt at a task.

    Attributes:
        task: name of the task, and `seed` of the initial state.
        success: whether the task was done.
        steps: actions that were carried out; the last one did the task, if it succeeded.
        queries: how often the policy was asked.
        clipped: share of the numbers of the actions that were outside [-1, 1], and were carried out as the limit.
    """

    task: str
    seed: int
    success: bool
    steps: int
    queries: int
    clipped: float


Seen = Callable[[Observation, np.ndarray], None]  # an observation, and the action that is carried out after it


def run_episode(
    environment: Environment,
    policy: ActionPolicy,
    seed: int,
    most_steps: int | None = None,
    execute: int | None = None,
    frames: int = 1,
    on_step: Seen | None = None,
) -> Episode:
    """One attempt of a policy; it ends with the first success, or after `most_steps`.

    Args:
        seed: of the initial state.
        most_steps: at most those of the environment, which are the default.
        execute: actions of each chunk that are carried out before the policy is asked again; all by default.
        frames: n that the policy sees of each view, the newest last; at first the first one is repeated.
        on_step: called before each step.

    Raises:
        ValueError: if a limit is out of range, or the policy gives no finite float[K, A], K at least `execute`.
    """
    limit = checked_limit(environment, most_steps)
    observation = environment.reset(seed)
    seen = deque([observation.images] * frames, frames)
    clipped, steps, queries, success = 0, 0, 0, False
    while steps < limit and not success:
        actions = policy.predict_actions(stacked(seen), environment.instruction, observation.state)
        chunk = checked_chunk(actions, len(environment.rest_action), execute, f"{environment.task}, step {steps}")
        queries += 1
        for action in chunk[: limit - steps]:
            carried_out = action.clip(SMALLEST, LARGEST)
            clipped += int((carried_out != action).sum())
            if on_step is not None:
                on_step(observation, carried_out)
            observation, success = environment.step(carried_out)
            seen.append(observation.images)
            steps += 1
            if success:
                break
    return Episode(environment.task, seed, success, steps, queries, clipped / (steps * len(environment.rest_action)))


def stacked(seen: Collection[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of each view uint8[n, H, W, 3], or its only image uint8[H, W, 3]."""
    *_, newest = seen
    return newest if len(seen) == 1 else {view: np.stack([images[view] for images in seen]) for view in newest}


def checked_limit(environment: Environment, most_steps: int | None) -> int:
    if most_steps is None:
        return environment.most_steps
    if not 1 <= most_steps <= environment.most_steps:
        raise ValueError(
            f"most_steps is {most_steps}, but an episode of {environment.task} has at least 1 and at most "
            f"{environment.most_steps} steps."
        )
    return most_steps


def checked_chunk(actions: np.ndarray, size: int, execute: int | None, place: str) -> np.ndarray:
    """The actions to carry out, float32[K, A]; raises ValueError as `run_episode` says."""
    chunk = np.asarray(actions, np.float32)
    if chunk.ndim != 2 or chunk.shape[1] != size or not len(chunk) or not np.isfinite(chunk).all():
        raise ValueError(
            f"{place}: the policy gave actions {chunk.dtype}{list(chunk.shape)}, but they must be finite numbers "
            f"[K, {size}], one action at least."
        )
    if execute is None:
        return chunk
    if not 1 <= execute <= len(chunk):
        raise ValueError(f"{place}: execute is {execute}, but the policy gives chunks of {len(chunk)} actions.")
    return chunk[:execute]


class Expert:
    """The scripted expert of an environment, asked before every action: the oracle of the closed loop."""

    def __init__(self, environment: ExpertEnvironment, seed: int = 0):
        self._environment = environment

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        return self._environment.expert_action()[None]


class Nothing:
    """A policy that leaves the arm where it is: what the environment alone gives."""

    def __init__(self, environment: Environment, seed: int = 0):
        self._action = environment.rest_action

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        return self._action[None]


class Random:
    """A policy that draws each number evenly from [-1, 1]; `seed` decides the draws."""

    def __init__(self, environment: Environment, seed: int = 0):
        self._size = len(environment.rest_action)
        self._random = np.random.default_rng(seed)

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        return self._random.uniform(SMALLEST, LARGEST, (1, self._size))


class Blind:
    """A policy that repeats what the expert did from another initial state: what can be done without looking.

    Where it succeeds often, a task says little about what a policy sees.
    """

    def __init__(self, environment: ExpertEnvironment, seed: int = 0):
        actions: list[np.ndarray] = []
        other = seed + OTHER_STATE
        run_episode(environment, Expert(environment), other, on_step=lambda _, action: actions.append(action))
        self._actions = np.stack([*actions, environment.rest_action])
        self._asked = False

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        actions = self._actions[-1:] if self._asked else self._actions
        self._asked = True
        return actions


OTHER_STATE = 1_000_003  # added to a seed: an initial state that no demonstration and no other episode has
BASELINES: dict[str, Callable[[Any, int], ActionPolicy]] = {
    "expert": Expert,
    "nothing": Nothing,
    "random": Random,
    "blind": Blind,
}
