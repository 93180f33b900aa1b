"""`VegaTrainer`: transformers' Trainer with a rate for each part, the gate in its log, and exact resuming."""

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer_utils import HubStrategy

from vega3d.modeling.modeling_vega3d import Gates, VegaTaskModel
from vega3d.training import checkpoints, several
from vega3d.training.collator import IGNORED, VegaCollator
from vega3d.training.parts import RESIDUAL_SCALE_RATE, learning_rates, parameter_groups, trained_counts
from vega3d.training.trainer_arguments import check_arguments, check_optimizer, check_options

SMALL_RESIDUAL_SCALE = 0.01
GENERATOR_PIXELS = ("generator_pixel_values", "generator_pixel_values_videos")
GRIDS = ("image_grid_thw", "video_grid_thw")
logger = logging.getLogger(__name__)


class VegaTrainer(Trainer):
    """transformers' Trainer for the parts that `choose_parts` left trainable.

    Checkpoints hold the trained weights alone (`checkpoints.py`); `save_model` writes the whole model as usual. A run
    that was killed is continued with `train(resume_from_checkpoint=True)`, and gives the same losses and weights, bit
    for bit, on the same machine.

    The log has, beside Trainer's own: `gate_mean` and `gate_std` (over all visual tokens of the last batch; 1 keeps
    the semantic token), `residual_scale` (r), `clips_per_second`, `tokens_per_second`; the first entry also
    `trainable_parameters`.

    Args:
        model: as `choose_parts` gives it.
        args: `remove_unused_columns=False`, and for streams `accelerator_config={"dispatch_batches": False}`. Its
            `learning_rate` stays at its default, since each part has its own.
        rates: learning rate of each part; by default those of `parts.LEARNING_RATES`.
        residual_scale_rate: learning rate of r, the residual scale, which would hardly move at the rate of the gate.
        kwargs: any of `transformers.Trainer`; `data_collator` is a `VegaCollator`. An optimizer of your own brings its
            rates with it.

    Raises:
        ValueError: for arguments that would spoil batches or have no effect (`trainer_arguments.py`); in `train`, for
            a loss or gradient that is not finite, naming the step and the rows.
    """

    optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        rates: Mapping[str, float] | None = None,
        residual_scale_rate: float = RESIDUAL_SCALE_RATE,
        **kwargs,
    ):
        check_arguments(args, kwargs.get("train_dataset"), kwargs.get("eval_dataset"))
        check_options(args, model, kwargs)
        check_optimizer(args, rates, residual_scale_rate, kwargs)
        if args.ddp_find_unused_parameters is None:
            # Rows without a visual or a target use fewer parameters, on some of several processes. Checkpointing that
            # runs the backward pass within the backward pass (`use_reentrant`) does not allow for it.
            args.ddp_find_unused_parameters = not (args.activation_checkpointing_kwargs or {}).get("use_reentrant")
        collator = kwargs.get("data_collator")
        if isinstance(collator, VegaCollator):
            kwargs["data_collator"] = replace(collator, return_ids=True)
        self.cache = collator.cache if isinstance(collator, VegaCollator) else None
        self.trained = trained_counts(model)
        self.rates = learning_rates(self.trained, rates or {})
        self.residual_scale_rate = residual_scale_rate
        super().__init__(model, args, **kwargs)
        several.check_launch(self.accelerator)
        self.is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self._scalars = several.give_scalars_a_dimension(model) if self.is_sharded else []
        if self.is_fsdp_enabled:
            several.prepare_plugin(model, self.accelerator.state.fsdp_plugin)
        self.model_accepts_loss_kwargs = False  # PEFT's wrapper hides that the model's loss is a mean over the batch
        self._loss_shifts_labels = True  # Trainer knows this of the classes that it has by name
        self.label_smoother = None  # it would take labels for those of models that it has by name, and not shift them
        self._ids: list[str] = []
        self._gates: Gates | None = None
        self._passed = {"clips": 0, "tokens": 0, "since": time.perf_counter()}

    def vega(self) -> VegaTaskModel:
        """The model inside the wrappers of PEFT and of several processes."""
        return next(m for m in self.model.modules() if isinstance(m, VegaTaskModel))

    def residual_scale(self) -> float | None:
        scales = {name: p for name, p in self.model.named_parameters() if name.endswith(".residual_scale")}
        trained = list(self._whole(scales, keep=True).values())
        return float(trained[-1]) if trained else None  # of PEFT's two, the trained one comes last

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """The trained weights, whole, on the CPU of the process that writes; all processes must ask."""
        return self._whole(checkpoints.trained_parameters(self.model), keep=self.args.should_save)

    def _whole_model(self) -> dict[str, torch.Tensor]:
        """All that `model.safetensors` holds, in the same way: weights but the generator's, and stored buffers."""
        named = {name: p for name, p in self.model.named_parameters() if not several.is_of_generator(name)}
        stored = self.model.state_dict().keys()
        buffers = {name: b.detach().cpu() for name, b in self.model.named_buffers() if name in stored}
        return {**self._whole(named, keep=self.args.should_save), **buffers}

    def _whole(self, parameters: dict[str, nn.Parameter], keep: bool) -> dict[str, torch.Tensor]:
        is_prepared = self.is_deepspeed_enabled and self.deepspeed is not None
        return several.whole_weights(parameters, self._scalars, keep, is_prepared)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's own, over the groups of parts."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        decayed = self.get_decay_parameter_names(model)
        groups = parameter_groups(model, self.rates, self.residual_scale_rate, self.args.weight_decay, decayed)
        given = self.optimizer_cls_and_kwargs
        optimizer_class, options = given or self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer_cls_and_kwargs = (optimizer_class, {**options, "params": groups})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = given

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        """As in transformers, but for the generator, which each process keeps whole and as it is."""
        is_own = self.is_deepspeed_enabled  # transformers would look for the frozen weights in its checkpoint, too
        waiting, given = (resume_from_checkpoint, None) if is_own else (None, resume_from_checkpoint)
        with several.generator_apart(self.model, self.args.device if self.is_sharded else None):
            prepared = super()._prepare_for_training(max_steps, train_dataloader, given)
        if waiting is not None:
            deepspeed_load_checkpoint(self.model_wrapped, waiting, load_module_strict=False)
            self._load_optimizer_and_scheduler(waiting)
        return prepared

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        """Autocast for FSDP, too, where accelerate leaves it to FSDP's own mixed precision (`prepare_plugin`)."""
        return self.accelerator.autocast() if self.is_fsdp_enabled else super().autocast_smart_context_manager()

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs.pop("ids", [])
        if self.model.training:
            self._ids += ids
        inputs = super()._prepare_inputs(inputs)
        if self.model.training:
            grids = [inputs[name] for name in GRIDS if name in inputs]
            self._passed["clips"] += sum(len(grid) for grid in grids)
            self._passed["tokens"] += int(inputs["attention_mask"].sum())
        if self.cache is not None and any(name in inputs for name in GENERATOR_PIXELS):
            inputs = dict(self.cache.fill(self.vega(), inputs))
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.get("labels")
        inputs = {**inputs, "use_cache": self.args.use_cache}  # Trainer sets it in the outer config alone
        if model.training:
            self._check_used(inputs)
            inputs["output_gates"] = True
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.args.label_smoothing_factor and self.compute_loss_func is None and labels is not None:
            loss = smoothed_loss(outputs["logits"], labels, self.args.label_smoothing_factor)
        if model.training:
            gates = outputs.get("gates") or {}
            self._gates = {name: tuple(gate.detach() for gate in items) for name, items in gates.items()}
            if not torch.isfinite(loss):
                self._stop_at("loss", loss)
            if not loss.requires_grad:
                raise ValueError(
                    f"No trained part takes part in the rows {', '.join(self._ids)}: they have neither image nor "
                    f"video, and only {', '.join(self.trained)} is trained. Leave them out, or train the language "
                    "model too."
                )
        return (loss, outputs) if return_outputs else loss

    def _check_used(self, inputs: Mapping) -> None:
        """Raises ValueError for rows without a visual or a target where processes must use the same parameters."""
        if self.is_sharded:
            several.check_same_kinds(self.accelerator, inputs, self._ids)
        fixed = self.args.ddp_static_graph or not self.args.ddp_find_unused_parameters
        lacking = lacking_of(inputs) if fixed and self.args.world_size > 1 else None
        if lacking is not None:
            raise ValueError(
                f"The rows {', '.join(self._ids)} have {lacking}, so their process uses fewer parameters than the "
                "others. Set ddp_find_unused_parameters=True, without ddp_static_graph and use_reentrant, or leave "
                "them out."
            )

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        norm = several.whole(norm) if isinstance(norm, torch.Tensor) else norm
        scaler = self.accelerator.scaler  # of fp16: it leaves such steps out and lowers its scale
        if scaler is None and not torch.isfinite(torch.as_tensor(norm)):
            self._stop_at("norm of the gradient", torch.as_tensor(norm))
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
        """Clips and tokens a second of all processes since the last log."""
        now, passed = time.perf_counter(), self._passed
        counts = torch.tensor([passed["clips"], passed["tokens"]], dtype=torch.float64, device=self.args.device)
        clips, tokens = self.accelerator.reduce(counts).tolist()
        seconds = max(now - passed["since"], 1e-9)
        self._passed = {"clips": 0, "tokens": 0, "since": now}
        return {"clips_per_second": clips / seconds, "tokens_per_second": tokens / seconds}

    def batches(self) -> checkpoints.Batches:
        """How the rows of a step are shared out here."""
        is_stream = isinstance(self.train_dataset, torch.utils.data.IterableDataset)
        return checkpoints.batches_of_arguments(self.args, is_stream, self.is_deepspeed_enabled)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs):
        """As in transformers; `True` continues from the last whole checkpoint; one that is not whole is refused."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = checkpoints.last_checkpoint(Path(self.args.output_dir), self.batches())
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no whole checkpoint in {self.args.output_dir} to continue from.")
        if resume_from_checkpoint:
            checkpoints.check_checkpoint(Path(resume_from_checkpoint), self.batches())
            resume_from_checkpoint = str(resume_from_checkpoint)
        total = sum(self.trained.values())
        counts = ", ".join(f"{part} {count:,}" for part, count in self.trained.items())
        logger.info("Trainable parameters: %s (%s)", f"{total:,}", counts)
        self._passed["since"] = time.perf_counter()
        output = super().train(resume_from_checkpoint, **kwargs)
        warning = small_scale_warning(self.residual_scale())
        if warning is not None:
            logger.warning(warning)
        return output

    def hyperparameter_search(self, *args, **kwargs):
        raise ValueError(
            "VegaTrainer makes no models, so it cannot search. Start a VegaTrainer of its own for each trial."
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The whole model as usual; within a checkpoint the trained weights alone."""
        with checkpoints.writing_into(Path(output_dir or self.args.output_dir)):
            if _internal_call and output_dir is not None:
                tensors = self.trained_tensors()
                if self.args.should_save:
                    Path(output_dir).mkdir(parents=True, exist_ok=True)
                    checkpoints.save_tensors(tensors, Path(output_dir))
            elif self.is_sharded:
                tensors = self._whole_model()
                if self.args.should_save:
                    with several.of_own_class(self.model):
                        self._save(output_dir or self.args.output_dir, state_dict=tensors)
            else:
                super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As in transformers, of FSDP in the same files with whole tensors, of DeepSpeed without frozen weights."""
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.is_deepspeed_enabled:
            with several.generator_apart(self.model):
                self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        else:
            named = dict(self.model.named_parameters())
            scalars = [named[name] for name in self._scalars]
            state = several.whole_optimizer_state(self.optimizer, scalars, self.args.should_save)
            if self.args.should_save:
                torch.save(state, Path(output_dir) / checkpoints.OPTIMIZER_FILES[0])
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / checkpoints.OPTIMIZER_FILES[1])

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        with checkpoints.writing_into(folder):
            super()._save_checkpoint(model, trial)
            if not self.args.push_to_hub:
                self._finish_checkpoint(folder)

    def _finish_checkpoint(self, folder: Path) -> None:
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            self.batches().save(folder)
            checkpoints.mark_whole(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads a model that loads: the checkpoint holds the trained weights alone."""
        self._finish_checkpoint(Path(checkpoint_folder))
        waits = self.args.hub_strategy != HubStrategy.END and self.is_world_process_zero()
        if waits and (self.args.hub_always_push or self.push_in_progress is None or self.push_in_progress.is_done()):
            self._finish_current_push()  # it reads the files that are written now
            super().save_model(self.args.output_dir, _internal_call=True)
        super()._push_from_checkpoint(checkpoint_folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoints.load_trained(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        folder = Path(str(self.state.best_model_checkpoint))
        logger.info("The weights of %s are the best (%s).", folder, self.state.best_metric)
        wrong = checkpoints.damage(folder, [checkpoints.TRAINED_FILE])
        if wrong is not None:
            raise ValueError(f"The best checkpoint, {folder}, cannot be loaded: {wrong}. Load another one by hand.")
        checkpoints.load_trained(self.model, folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with checkpoints.reading(Path(checkpoint), *checkpoints.OPTIMIZER_FILES):
            if self.is_fsdp_enabled:
                optimizer, scheduler = (Path(checkpoint) / name for name in checkpoints.OPTIMIZER_FILES)
                state = torch.load(optimizer, map_location="cpu", weights_only=True, mmap=True)
                several.load_whole_optimizer_state(self.optimizer, state)
                self.lr_scheduler.load_state_dict(torch.load(scheduler, weights_only=True))
            else:
                super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with checkpoints.reading(Path(checkpoint), "scaler.pt"):
                super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            name = checkpoints.random_file(self.args.process_index, self.args.world_size)
            with checkpoints.reading(Path(checkpoint), name):
                super()._load_rng_state(checkpoint)


def lacking_of(inputs: Mapping) -> str | None:
    """What no row of a batch has, without which some trained parameters have no gradient; None where nothing lacks."""
    if not any(name in inputs for name in GRIDS):
        return "neither image nor video"
    labels = inputs.get("labels")
    if isinstance(labels, list) and not any(len(boxes) for boxes in labels):  # of grounding: boxes for each row
        return "no target"
    return None


def smoothed_loss(logits: torch.Tensor, labels: torch.Tensor, factor: float) -> torch.Tensor:
    """Cross-entropy of each next token, a share `factor` of it spread evenly over all tokens.

    Logits are float[B, L, V]; labels int[B, L], -100 where no loss is wanted.
    """
    wanted = labels[:, 1:].flatten().to(logits.device)
    given = logits[:, :-1].float().flatten(0, 1)
    return nn.functional.cross_entropy(given, wanted, ignore_index=IGNORED, label_smoothing=factor)


def small_scale_warning(scale: float | None) -> str | None:
    """What to say of a residual scale that is next to 0; None of another one, or where there is none."""
    if scale is None or abs(scale) >= SMALL_RESIDUAL_SCALE:
        return None
    return (
        f"The residual scale ended at {scale:.4g}: the generator's features change the model by almost nothing. Train "
        "longer, or raise residual_scale_rate."
    )
