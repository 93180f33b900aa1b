"""A policy in the closed loop or on a recorded episode, watched: what it saw, its gates, and what it did."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vega3d.modeling.actions_vega3d import HOW_TO_MAKE, VegaForActionPrediction
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.robotics.closed_loop import Environment, Episode, Observation, run_episode
from vega3d.robotics.demonstrations import Demonstrations, check_replay


@dataclass(frozen=True)
class Query:
    """What a policy was asked, and its answer.

    Attributes:
        images: uint8[H, W, 3] of each camera, the newest one.
        actions: float32[K, A].
        gates: float32[h, w] of each camera, where 1 keeps the semantic token; None of a model without a gate.
    """

    images: dict[str, np.ndarray]
    actions: np.ndarray
    gates: dict[str, np.ndarray] | None


@dataclass(frozen=True)
class Attempt:
    """An episode of T steps that was watched.

    Attributes:
        instruction: what the robot was told to do.
        frames: uint8[T, H, W, 3] of each camera, before each action.
        actions: float32[T, A] that were carried out, or those that the policy predicts for a recorded episode.
        fusion: the policy's, as in its config.
        queries: in their order, and `query_of`, which of them each step is of.
        episode: what came of it; None of a recorded one.
        recorded: float32[T, A], what was done in a recorded episode; None in the closed loop.
    """

    instruction: str
    fusion: str
    frames: dict[str, np.ndarray]
    actions: np.ndarray
    queries: list[Query]
    query_of: list[int]
    episode: Episode | None = None
    recorded: np.ndarray | None = None


class WatchedPolicy:
    """A model's policy for `run_episode` that keeps its queries."""

    def __init__(self, model: VegaForActionPrediction, processor: Any):
        self.model, self.processor = model, processor
        self.queries: list[Query] = []

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        output = self.model.query(self.processor, images, instruction, state, output_gates=True)
        assert output.actions is not None
        actions = output.actions[0].cpu().numpy()
        cameras = self.model.config.action_cameras
        newest = {name: image if image.ndim == 3 else image[-1] for name, image in images.items()}
        self.queries.append(Query(newest, actions, camera_gates(output.gates, cameras)))
        return actions


def camera_gates(
    gates: Mapping[str, Any] | None, cameras: list[str] | tuple[str, ...]
) -> dict[str, np.ndarray] | None:
    """float32[h, w] of each camera's newest tokens, the mean over channels where they have gates of their own."""
    if not gates:
        return None
    [maps] = gates.values()
    newest = [gate.float()[-1].cpu().numpy() for gate in maps]
    means = [gate if gate.ndim == 2 else gate.mean(-1) for gate in newest]
    return dict(zip(cameras, means, strict=True))


def check_policy(config: VegaConfig, name: str) -> None:
    """Raises ValueError for a model without actions."""
    if config.action_token_id is None or config.action_statistics is None:
        raise ValueError(f"The model {name!r} is no policy: its config has no action_token_id. {HOW_TO_MAKE}")


def check_robot(config: VegaConfig, name: str, views: tuple[str, ...], sizes: tuple[int, int]) -> None:
    """Raises ValueError if a policy sees other views than a robot has, or has another state or other actions.

    Args:
        config: of the policy of this name.
        sizes: numbers of the robot's state and of its actions.
    """
    unknown = sorted(set(config.action_cameras) - set(views))
    if unknown or (config.state_size, config.action_size) != sizes:
        raise ValueError(
            f"{name} sees {list(config.action_cameras)}, with states of {config.state_size} and actions of "
            f"{config.action_size} numbers, but here are {list(views)}, {sizes[0]} and {sizes[1]}. Give a policy "
            "that was trained on demonstrations of this robot."
        )


def watch_episode(
    environment: Environment,
    model: VegaForActionPrediction,
    processor: Any,
    seed: int,
    most_steps: int | None = None,
    execute: int | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Attempt:
    """One attempt in the closed loop; other arguments are those of `run_episode`, as are the errors.

    Args:
        on_progress: called with the steps that are newly done.
    """
    policy = WatchedPolicy(model, processor)
    seen: list[tuple[Observation, np.ndarray, int]] = []

    def remember(observation: Observation, action: np.ndarray) -> None:
        seen.append((observation, action, len(policy.queries) - 1))
        on_progress(1)

    frames = model.config.action_frames
    episode = run_episode(environment, policy, seed, most_steps, execute, frames, remember)
    observations, actions, numbers = zip(*seen, strict=True)
    shown = {name: np.stack([one.images[name] for one in observations]) for name in model.config.action_cameras}
    return Attempt(
        environment.instruction, model.config.fusion, shown, np.stack(actions), policy.queries, list(numbers), episode
    )


def watch_replay(
    data: Demonstrations,
    episode: int,
    model: VegaForActionPrediction,
    processor: Any,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Attempt:
    """What a policy predicts for a recorded episode, asked every K steps with what was recorded there.

    Args:
        on_progress: called with the steps that are newly done.

    Raises:
        ValueError: as `check_replay`.
    """
    check_replay(data, episode)
    config, policy = model.config, WatchedPolicy(model, processor)
    states, recorded = data.numbers(episode)
    steps = list(range(len(recorded)))
    frames = {name: data.frames(episode, name, steps) for name in config.action_cameras}
    predicted: list[np.ndarray] = []
    for step in steps[:: config.action_chunk]:
        last = np.arange(step - config.action_frames + 1, step + 1).clip(0)
        images = {name: clip[last] if len(last) > 1 else clip[step] for name, clip in frames.items()}
        chunk = policy.predict_actions(images, data.task(episode, step), states[step])
        predicted += list(chunk[: len(steps) - step])
        on_progress(min(config.action_chunk, len(steps) - step))
    numbers = [step // config.action_chunk for step in steps]
    return Attempt(
        data.task(episode), config.fusion, frames, np.stack(predicted), policy.queries, numbers, recorded=recorded
    )
