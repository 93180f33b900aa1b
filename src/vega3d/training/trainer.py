"""`VegaTrainer`: transformers' Trainer with a rate for each part, the gate in its log, and exact resuming."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.modeling.outputs_vega3d import Gates
from vega3d.run_files import is_whole, last_whole_checkpoint, mark_whole
from vega3d.training.checkpoints import load_trained, save_trained
from vega3d.training.collator import VegaCollator
from vega3d.training.parts import RESIDUAL_SCALE_RATE, learning_rates, parameter_groups, trained_counts

SMALL_RESIDUAL_SCALE = 0.01
GENERATOR_PIXELS = ("generator_pixel_values", "generator_pixel_values_videos")
logger = logging.getLogger(__name__)


def check_arguments(args: TrainingArguments, train_dataset) -> None:
    """Raises ValueError for settings of the Trainer under which a packed batch would be cut, or columns be lost."""
    if args.remove_unused_columns:
        raise ValueError("Set TrainingArguments(remove_unused_columns=False): the collator needs all columns.")
    streams = isinstance(train_dataset, torch.utils.data.IterableDataset)
    if streams and args.accelerator_config.dispatch_batches is not False:
        raise ValueError(
            "Set TrainingArguments(accelerator_config={'dispatch_batches': False}) for streams: accelerate would cut "
            "packed batches in the wrong places."
        )
    if args.n_gpu > 1:
        raise ValueError(f"One process sees {args.n_gpu} GPUs; packed batches cannot be split. Start with torchrun.")
    if args.save_total_limit is not None and args.save_total_limit < 2:
        raise ValueError(
            f"save_total_limit is {args.save_total_limit}, but must be at least 2: the last whole checkpoint is kept "
            "until the next one is."
        )


class VegaTrainer(Trainer):
    """
    Checkpoints hold the trained weights alone (`checkpoints.py`); `save_model` writes the whole model as usual. A run
    that was killed is continued with `train(resume_from_checkpoint=True)`, and gives the same losses and weights, bit
    for bit, on the same machine.

    The log has, beside Trainer's own: `gate_mean` and `gate_std` (over all visual tokens of the last batch; 1 keeps
    the semantic token), `residual_scale` (r), `clips_per_second`, `tokens_per_second`; the first entry also
    `trainable_parameters`.

    Args:
        model: of `choose_parts`.
        args: `remove_unused_columns=False`, and for streams `accelerator_config={"dispatch_batches": False}`.
        rates: learning rate of each part; by default those of `parts.LEARNING_RATES`.
        residual_scale_rate: of r.
        kwargs: of `transformers.Trainer`; `data_collator` is a `VegaCollator`.

    Raises:
        ValueError: for arguments that would spoil batches; in `train`, for a loss or gradient that is not finite,
            naming the step and the rows.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        rates: Mapping[str, float] | None = None,
        residual_scale_rate: float = RESIDUAL_SCALE_RATE,
        **kwargs,
    ):
        check_arguments(args, kwargs.get("train_dataset"))
        collator = kwargs.get("data_collator")
        if isinstance(collator, VegaCollator):
            kwargs["data_collator"] = replace(collator, return_ids=True)
        self.cache = collator.cache if isinstance(collator, VegaCollator) else None
        self.trained = trained_counts(model)
        self.rates = learning_rates(self.trained, rates or {})
        self.residual_scale_rate = residual_scale_rate
        super().__init__(model, args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "VegaTrainer keeps trained weights whole on each process: start it without FSDP, DeepSpeed."
            )
        self.model_accepts_loss_kwargs = False  # PEFT's wrapper hides that the model's loss is a mean over the batch
        self._ids: list[str] = []
        self._gates: Gates | None = None
        self._passed = {"clips": 0, "tokens": 0, "since": time.perf_counter()}

    def vega(self) -> VegaForSpatialReasoning:
        """The model inside the wrappers of PEFT and of several processes."""
        return next(m for m in self.model.modules() if isinstance(m, VegaForSpatialReasoning))

    def residual_scale(self) -> float | None:
        trained = [p.detach() for name, p in self.model.named_parameters() if name.endswith(".residual_scale")]
        return float(trained[-1]) if trained else None  # of PEFT's two, the trained one comes last

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            decayed = self.get_decay_parameter_names(model)
            groups = parameter_groups(model, self.rates, self.residual_scale_rate, self.args.weight_decay, decayed)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer: torch.optim.Optimizer | None = optimizer_class(groups, **options)
        return self.optimizer

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs.pop("ids", [])
        if self.model.training:
            self._ids += ids
        inputs = super()._prepare_inputs(inputs)
        if self.model.training:
            grids = [inputs[name] for name in ("image_grid_thw", "video_grid_thw") if name in inputs]
            self._passed["clips"] += sum(len(grid) for grid in grids)
            self._passed["tokens"] += int(inputs["attention_mask"].sum())
        if self.cache is not None and any(name in inputs for name in GENERATOR_PIXELS):
            inputs = dict(self.cache.fill(self.vega(), inputs))
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logs_now = model.training and (self.state.global_step + 1) % self.state.logging_steps == 0
        if logs_now:
            inputs = {**inputs, "output_gates": True}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if logs_now:
            self._gates = outputs.get("gates")
        if model.training and not torch.isfinite(loss):
            self._stop_at("loss", loss)
        if model.training and not loss.requires_grad:
            raise ValueError(
                f"No trained part takes part in the rows {', '.join(self._ids)}: they have neither image nor video, "
                f"and only {', '.join(self.trained)} is trained. Leave them out, or train the language model too."
            )
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model) -> torch.Tensor:
        norm = super()._clip_grad_norm(model)
        if not torch.isfinite(norm):
            self._stop_at("norm of the gradient", norm)
        self._ids = []
        return norm

    def _stop_at(self, what: str, value: torch.Tensor) -> None:
        raise ValueError(
            f"The {what} is {value.item()} in step {self.state.global_step + 1}, on the rows {', '.join(self._ids)}. "
            "Training stops; look at these rows, or lower the learning rates."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            if not any("loss" in entry for entry in self.state.log_history):
                logs["trainable_parameters"] = sum(self.trained.values())
            logs.update(self._gate_logs(), **self._throughput())
        super().log(logs, start_time)

    def _gate_logs(self) -> dict[str, float]:
        logs: dict[str, float] = {}
        scale = self.residual_scale()
        if scale is not None:
            logs["residual_scale"] = scale
        if self._gates:
            gates = torch.cat([gate.detach().float().flatten() for items in self._gates.values() for gate in items])
            logs.update(gate_mean=gates.mean().item(), gate_std=gates.std(correction=0).item())
        self._gates = None
        return logs

    def _throughput(self) -> dict[str, float]:
        """Of all processes since the last log."""
        now, passed = time.perf_counter(), self._passed
        counts = torch.tensor([passed["clips"], passed["tokens"]], dtype=torch.float64, device=self.args.device)
        clips, tokens = self.accelerator.reduce(counts).tolist()
        seconds = max(now - passed["since"], 1e-9)
        self._passed = {"clips": 0, "tokens": 0, "since": now}
        return {"clips_per_second": clips / seconds, "tokens_per_second": tokens / seconds}

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs):
        """As in transformers; `True` continues from the last whole checkpoint; one that is not whole is refused."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(Path(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no whole checkpoint in {self.args.output_dir} to continue from.")
        if resume_from_checkpoint:
            if not is_whole(Path(resume_from_checkpoint)):
                raise ValueError(f"{resume_from_checkpoint} is no checkpoint of VegaTrainer, or not a whole one.")
            resume_from_checkpoint = str(resume_from_checkpoint)
        total = sum(self.trained.values())
        told = ", ".join(f"{part} {count:,}" for part, count in self.trained.items())
        logger.info("Trainable parameters: %s (%s)", f"{total:,}", told)
        self._passed["since"] = time.perf_counter()
        output = super().train(resume_from_checkpoint, **kwargs)
        scale = self.residual_scale()
        if scale is not None and abs(scale) < SMALL_RESIDUAL_SCALE:
            logger.warning(small_scale_warning(scale))
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The whole model as usual; within a checkpoint the trained weights alone."""
        if not _internal_call or output_dir is None:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_trained(self.model, Path(output_dir))

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            mark_whole(Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model if model is None else model, Path(resume_from_checkpoint))


def small_scale_warning(scale: float) -> str:
    return (
        f"The residual scale ended at {scale:.4g}: the generator's features change the model by almost nothing. Train "
        "longer, or raise residual_scale_rate."
    )
