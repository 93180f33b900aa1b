"""A model's policy in the closed loop, and the measurement of any policy, for the benchmarks of the recipes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.inference.acting import check_robot
from vega3d.robotics.closed_loop import BASELINES
from vega3d.robotics.results import evaluate_policy
from vega3d.robotics.runners import Job, MakeEnvironment, Plan
from vega3d.runs import hash_folder, versions
from vega3d.shipped import model_folder


class ModelPolicy:
    """A `VegaForActionPrediction` that answers the closed loop.

    Args:
        name: folder or Hub id.
        views: those that the environment has.
        sizes: numbers of its state and of its actions.

    Raises:
        ValueError: if the model sees other views, or is of another robot.
    """

    def __init__(self, name: str, device: str | None, views: tuple[str, ...], sizes: tuple[int, int]):
        from vega3d import VegaForActionPrediction
        from vega3d.hub.load import load_task

        self._model, self._processor = load_task(VegaForActionPrediction, name, device=device)
        config = self._model.config
        check_robot(config, name, views, sizes)
        self.views, self.frames = tuple(config.action_cameras), config.action_frames
        self.chunk = config.action_chunk
        self.description: dict[str, Any] = {"name": name, "sha256": hash_folder(model_folder(name))}

    def predict_actions(self, images: dict[str, np.ndarray], instruction: str, state: np.ndarray) -> np.ndarray:
        return self._model.predict_actions(self._processor, images, instruction, state)


def measure(
    policy: str,
    jobs: Sequence[Job],
    make: Callable[[tuple[str, ...], int], MakeEnvironment],
    robot: Mapping[str, Any],
    header: Mapping[str, Any],
    output: Path,
    processes: int,
    device: str | None,
    on_progress: Callable[[int], None],
) -> dict[str, Any]:
    """The result of a baseline or of a model.

    Args:
        make: gives the environments that show these views, every so many steps: between two queries a policy of one
            frame sees nothing.
        robot: `views` that it has, and `sizes` of its state and action.
        header: `benchmark`, and `settings` with `most_steps` and `execute`.
    """
    is_baseline = policy in BASELINES
    loaded = None if is_baseline else ModelPolicy(policy, device, **robot)
    views = () if loaded is None else loaded.views
    settings = header["settings"]
    plan = Plan(
        make(views, (settings["execute"] or loaded.chunk) if loaded is not None and loaded.frames == 1 else 1),
        policy if is_baseline else None,
        settings["most_steps"],
        settings["execute"],
        1 if loaded is None else loaded.frames,
    )
    values = {
        "benchmark": header["benchmark"],
        "policy": policy if loaded is None else loaded.description,
        "settings": settings if loaded is not None else {name: settings[name] for name in ("most_steps", "execute")},
        "versions": versions("metaworld", "mujoco", "numpy", "torch", "transformers"),
    }
    return evaluate_policy(plan, jobs, values, output, loaded, processes, on_progress)
