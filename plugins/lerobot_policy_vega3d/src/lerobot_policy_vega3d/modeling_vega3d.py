"""`VegaForActionPrediction` as a policy of LeRobot: its batches, its checkpoints, a queue of actions."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE

from vega3d import VegaForActionPrediction, VegaForSpatialReasoning, VegaProcessor
from vega3d.hub.load import load_task, task_class
from vega3d.modeling.action_head_vega3d import outside
from vega3d.modeling.actions_vega3d import action_inputs
from vega3d.modeling.checkpoint_vega3d import upload
from vega3d.shipped import model_folder
from vega3d.training.parts import choose_parts, learning_rates, parameter_groups

from .configuration_vega3d import Vega3dConfig

CHECKPOINT = "vega3d"  # folder in a checkpoint of LeRobot: one of vega3d, with its processor
NAMED = {"state": OBS_STATE, "action": ACTION}  # in vega3d's statistics, and in LeRobot's
KEYS = ("mean", "std", "min", "max", "q01", "q99")
Stats = Mapping[str, Mapping[str, Any]]


class Vega3dPolicy(PreTrainedPolicy):
    """A policy: images of the cameras, the state and the task of a batch -> the next K actions.

    States and actions are normalised by the model, which has the statistics of the data in its config.

    Args:
        config: its features are known.
        dataset_stats: LeRobot's statistics of the data, needed where `base_model` is no policy yet.
        dataset_meta: of the same data.
        trained: model and processor of a checkpoint, in place of `base_model`.

    Raises:
        ValueError: if the model is a policy of other cameras, sizes or chunks, or the data lies beyond its statistics.
    """

    config_class = Vega3dConfig
    name = "vega3d"

    def __init__(
        self,
        config: Vega3dConfig,
        dataset_stats: Stats | None = None,
        dataset_meta: Any = None,
        trained: tuple[VegaForActionPrediction, VegaProcessor] | None = None,
    ):
        super().__init__(config)
        config.validate_features()
        self.model, self.processor = trained or policy_of(config, dataset_stats, dataset_meta)
        check_same_robot(self.model.config, config)
        if dataset_stats is not None:
            check_within(self.model.config, dataset_stats)
        choose_parts(self.model, config.tune)
        self.reset()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: Vega3dConfig | None = None,
        revision: str | None = None,
        dataset_stats: Stats | None = None,
        dataset_meta: Any = None,
    ) -> Self:
        """The policy of a checkpoint of LeRobot, a folder or a Hub id, in eval mode on `config.device`."""
        name = f"{pretrained_name_or_path}@{revision}" if revision else pretrained_name_or_path
        folder = model_folder(name, within=CHECKPOINT)
        config = config or Vega3dConfig.from_pretrained(folder)
        trained = load_task(VegaForActionPrediction, folder / CHECKPOINT, device=config.device, dtype="float32")
        return cls(config, dataset_stats, dataset_meta, trained).eval()

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if state_dict is not None:
            raise ValueError("The weights are spread over processes (FSDP), which is not supported. Use DDP.")
        self.config._save_pretrained(save_directory)
        self.model.save_pretrained(save_directory / CHECKPOINT)
        self.processor.save_pretrained(save_directory / CHECKPOINT)

    def push_model_to_hub(self, cfg: Any, **kwargs) -> None:
        """As in LeRobot, whose upload leaves out templates and code: the files of vega3d go first, all of them."""
        with TemporaryDirectory() as folder:
            self._save_pretrained(Path(folder), kwargs.get("state_dict"))
            upload(Path(folder), self.config.repo_id, private=self.config.private)
        super().push_model_to_hub(cfg, **kwargs)

    def wrap_with_peft(self, *args, **kwargs):
        raise ValueError(
            "--peft adapters are not supported. `vega3d train` trains adapters, and its result can be the base_model."
        )

    def get_optim_params(self) -> list[dict]:
        """Groups of the parameters that are trained, each with the rate of its part."""
        rates = learning_rates(self.config.tune, self.config.learning_rates)
        return parameter_groups(self.model, rates, self.config.residual_scale_rate, 0.0, ())

    def reset(self) -> None:
        self._queue: deque[torch.Tensor] = deque()

    def forward(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict]:
        """The mean L1 of normalised actions; those with `action_is_pad` are left out."""
        inputs = action_inputs(self.processor, self.model.config, *self._shown(batch))
        inputs = {
            name: value.to(self.model.device) if torch.is_tensor(value) else value for name, value in inputs.items()
        }
        pad = batch.get("action_is_pad")
        outputs = self.model(**inputs, state=batch[OBS_STATE], labels=batch[ACTION], action_is_pad=pad)
        return outputs.loss, {}

    def predict_action_chunk(self, batch: Mapping[str, Any], **kwargs) -> torch.Tensor:
        """float32[B, K, A], in the units of the data."""
        actions = self.model.predict_actions(self.processor, *self._shown(batch), batch[OBS_STATE])
        return torch.from_numpy(actions).to(self.model.device)

    def select_action(self, batch: Mapping[str, Any], **kwargs) -> torch.Tensor:
        """float32[B, A]: the next action of a chunk; after `n_action_steps` of them another one is predicted."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch)[:, : self.config.n_action_steps]
            self._queue.extend(chunk.transpose(0, 1))
        return self._queue.popleft()

    def _shown(self, batch: Mapping[str, Any]) -> tuple[list[dict[str, np.ndarray]], list[str]]:
        """The images of each robot by camera, and the tasks."""
        missing = [key for key in ("task", OBS_STATE, *self.config.cameras.values()) if key not in batch]
        if missing:
            raise ValueError(f"The batch has no {missing}; it has {sorted(batch)}. --rename_map gives other names.")
        clips = {name: as_bytes(batch[key], key) for name, key in self.config.cameras.items()}
        return [{name: clip[row] for name, clip in clips.items()} for row in range(len(batch["task"]))], batch["task"]


def as_bytes(images: torch.Tensor, key: str) -> np.ndarray:
    """float[B, 3, H, W] in [0, 1] -> uint8[B, H, W, 3]; raises ValueError for other images."""
    if images.ndim != 4 or not images.is_floating_point() or not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"{key} is {images.dtype}{list(images.shape)} in [{images.min():.4g}, {images.max():.4g}], but must be "
            "float[B, 3, H, W] in [0, 1]."
        )
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def policy_of(config: Vega3dConfig, stats: Stats | None, meta: Any) -> tuple[VegaForActionPrediction, VegaProcessor]:
    """`base_model` if it is a policy, else a new one around it, with the statistics of the data."""
    folder = model_folder(config.base_model)
    if task_class(folder) is VegaForActionPrediction:
        return load_task(VegaForActionPrediction, folder, device=config.device, dtype="float32")
    if stats is None:
        raise ValueError(
            f"base_model {config.base_model!r} is no policy, and there is no data of which it could have statistics. "
            "Train it by lerobot-train first, and give --policy.path."
        )
    model, processor = load_task(VegaForSpatialReasoning, folder, device=config.device, dtype="float32")
    statistics = {"dataset": meta.repo_id, **{name: listed(stats, key) for name, key in NAMED.items()}}
    made = VegaForActionPrediction.from_reasoning(
        model,
        processor.tokenizer,
        statistics,
        list(config.cameras),
        config.seed,
        action_chunk=config.chunk_size,
        action_fps=float(meta.fps),
        action_normalisation=config.normalisation,
    )
    return made, processor


def listed(stats: Stats, key: str) -> dict[str, list[float]]:
    """LeRobot's statistics of one feature as `VegaConfig` has them; raises ValueError for data without quantiles."""
    missing = [name for name in KEYS if name not in stats.get(key, {})]
    if missing:
        raise ValueError(
            f"The statistics of {key!r} in the data have no {', '.join(missing)}. LeRobot's "
            "`augment_dataset_quantile_stats` adds quantiles."
        )
    return {name: np.asarray(stats[key][name], np.float64).tolist() for name in KEYS}


def check_same_robot(model: Any, config: Vega3dConfig) -> None:
    """Raises ValueError if the model was made for other cameras, sizes or chunks than the config says."""
    [state], [action] = config.robot_state_feature.shape, config.action_feature.shape
    wanted = {"cameras": list(model.action_cameras), "chunk_size": model.action_chunk, "frames": model.action_frames}
    wanted |= {"numbers of a state": model.state_size, "numbers of an action": model.action_size}
    given = dict(zip(wanted, (list(config.cameras), config.chunk_size, 1, state, action), strict=True))
    different = [f"{name} were {wanted[name]} and are {given[name]}" for name in wanted if wanted[name] != given[name]]
    if different:
        raise ValueError(
            f"The policy was made for something else: {'; '.join(different)}. "
            "--policy.cameras='{front: FEATURE}' says which feature a camera is."
        )


def check_within(model: Any, stats: Stats) -> None:
    """Raises ValueError if states or actions of the data lie beyond the statistics of the model."""
    found = []
    for name, key in NAMED.items():
        extremes = np.stack([np.asarray(stats[key][bound], np.float64) for bound in ("min", "max")])
        found += outside(torch.from_numpy(extremes), model, name)
    if found:
        dataset = model.action_statistics["dataset"]
        raise ValueError(
            f"The policy normalises by the statistics of {dataset!r}, and the data lies beyond them: "
            f"{'; '.join(found)}. Check the units, or begin with a base_model that is no policy."
        )
