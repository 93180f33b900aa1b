"""Demonstrations to a policy: its rows, their batches, and the model that is trained on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vega3d.modeling.action_head_vega3d import outside
from vega3d.modeling.actions_vega3d import VegaForActionPrediction, action_inputs
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning, VegaTaskModel
from vega3d.robotics.episode_folder import open_demonstrations
from vega3d.robotics.statistics import dataset_statistics
from vega3d.robotics.windows import ActionWindows
from vega3d.training.collator import VegaCollator
from vega3d.training.config import ActionOptions, DataSource
from vega3d.training.grounding import named_row

COLUMNS = ("images", "task", "state", "actions")
SHOWN = 4  # numbers that an error names


@dataclass
class ActionCollator(VegaCollator):
    """Makes a batch for `VegaForActionPrediction` of the rows of `ActionWindows`.

    It returns the processor's output, padded on the right, `state` float32[B, P], `labels` float32[B, K, A] and
    `action_is_pad` bool[B, K]. Other arguments are those of `VegaCollator`.

    Args:
        config: of the policy, which knows its cameras.

    Raises:
        ValueError: naming the row whose images or task cannot be used, or which lacks something.
    """

    config: VegaConfig | None = None

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Any]:  # type: ignore[override]
        if self.config is None:
            raise ValueError("An ActionCollator needs the config of the policy: config=model.config.")
        ids = [str(row.get("id", f"number {number} of the batch")) for number, row in enumerate(rows)]
        for id, row in zip(ids, rows, strict=True):
            missing = [name for name in COLUMNS if row.get(name) is None]
            if missing:
                raise ValueError(f"Row {id} has no {', '.join(missing)}; its columns are {sorted(row)}.")
        with named_row(", ".join(ids)):
            images, tasks = [row["images"] for row in rows], [row["task"] for row in rows]
            inputs = action_inputs(self.processor, self.config, images, tasks)
        if self.cache is not None:
            inputs = dict(self.cache.attach(inputs, self.identity, self.processor.generator_patch_size))
        pad = [row.get("action_is_pad", np.zeros(len(row["actions"]), bool)) for row in rows]
        inputs |= {
            "state": torch.from_numpy(np.stack([row["state"] for row in rows])),
            "labels": torch.from_numpy(np.stack([row["actions"] for row in rows])),
            "action_is_pad": torch.from_numpy(np.stack(pad)),
        }
        return {**inputs, "ids": ids} if self.return_ids else inputs


class PolicyData(ActionWindows):
    """The windows of one data set as a run takes them, with its statistics."""

    def __init__(self, source: DataSource, options: ActionOptions, skip: Sequence[int] = ()):
        cameras = options.cameras or None
        data = open_demonstrations(source.path)
        super().__init__(data, options.chunk, options.frames, cameras, skip, options.in_memory)
        self.statistics = dataset_statistics(self.data, self.episodes)

    def like(self, source: DataSource, options: ActionOptions) -> "PolicyData":
        """Other demonstrations of the same robot; raises ValueError if they are of another one."""
        other = PolicyData(source, replace(options, cameras=self.cameras))
        ours, theirs = ((one.data.state_size, one.data.action_size) for one in (self, other))
        if ours != theirs:
            raise ValueError(
                f"States and actions of {source.path} have {theirs} numbers, but those of {self.data.folder} {ours}. "
                "Give demonstrations of the same robot."
            )
        return other

    def settings(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {"data_sha256": self.statistics["content"], "cameras": list(self.cameras)}


def policy_of(
    model: VegaTaskModel, tokenizer: Any, data: PolicyData, options: ActionOptions, seed: int
) -> VegaForActionPrediction:
    """The policy to train: the model if it is one, else a new one around it, with the statistics of the data.

    Raises:
        ValueError: if the model is a policy of other cameras, sizes or chunks; if states or actions of the data lie
            beyond its statistics, which are of another data set.
    """
    if isinstance(model, VegaForSpatialReasoning):
        return VegaForActionPrediction.from_reasoning(
            model,
            tokenizer,
            data.statistics,
            data.cameras,
            seed,
            action_chunk=options.chunk,
            action_frames=options.frames,
            action_fps=data.data.fps,
            action_normalisation=options.normalisation,
        )
    assert isinstance(model, VegaForActionPrediction)
    check_same_robot(model.config, data, options)
    theirs = model.config.action_statistics or {}
    if options.statistics == "data":
        model.config.action_statistics = data.statistics
    elif theirs.get("content") != data.statistics["content"]:
        check_within(model.config, data)
    return model


def check_same_robot(config: VegaConfig, data: PolicyData, options: ActionOptions) -> None:
    """Raises ValueError if a policy was made for something else than the data and options of a run."""
    wanted = {
        "cameras": list(config.action_cameras),
        "frames": config.action_frames,
        "chunk": config.action_chunk,
        "normalisation": config.action_normalisation,
        "numbers of a state": config.state_size,
        "numbers of an action": config.action_size,
    }
    given = {
        "cameras": list(data.cameras),
        "frames": options.frames,
        "chunk": options.chunk,
        "normalisation": options.normalisation,
        "numbers of a state": data.data.state_size,
        "numbers of an action": data.data.action_size,
    }
    different = [f"{name} were {wanted[name]} and are {given[name]}" for name in wanted if wanted[name] != given[name]]
    if different:
        raise ValueError(
            f"The model is a policy made for something else than {data.data.folder}: {'; '.join(different)}. Give "
            "`actions` as it was made, or start from a model that is no policy."
        )


def check_within(config: VegaConfig, data: PolicyData) -> None:
    """Raises ValueError if the data lies beyond the statistics of the model, which are of another data set."""
    found = [
        words
        for name in ("state", "action")
        for words in outside(
            torch.tensor([data.statistics[name]["min"], data.statistics[name]["max"]], dtype=torch.float64),
            config,
            name,
        )
    ]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        theirs = (config.action_statistics or {}).get("dataset")
        raise ValueError(
            f"The model normalises by the statistics of {theirs!r}, and {data.data.folder} lies beyond them: "
            f"{'; '.join(found[:SHOWN])}{more}. Check the units; `actions: {{statistics: data}}` takes those of the "
            "data in their place, and what the model has learned moves with them."
        )
