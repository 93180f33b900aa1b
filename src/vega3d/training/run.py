"""One run from its config: train, go on where a killed run stopped, and leave a model that loads."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

import vega3d
from vega3d.features.cache import FeatureCache, feature_identity
from vega3d.files import only_run, write_json
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.run_files import check_same_settings, hash_folder, versions
from vega3d.training.checkpoints import last_checkpoint, load_trained, read_state, trained_parameters
from vega3d.training.collator import VegaCollator
from vega3d.training.config import TrainingConfig
from vega3d.training.curves import save_curves
from vega3d.training.data import fingerprint, load_examples, stream_examples
from vega3d.training.export import save_result
from vega3d.training.parts import choose_parts
from vega3d.training.trainer import SMALL_RESIDUAL_SCALE, VegaTrainer, small_scale_warning

SETTINGS_FILE, RESULT_FILE, CURVES_FILE, CHECKPOINTS = (
    "training_config.json",
    "training.json",
    "training.png",
    "checkpoints",
)
LENGTHEN = (
    "The rates of a run are made for its length: to train longer, start from its result, with model={output} and "
    "another output."
)
logger = logging.getLogger(__name__)


class Watcher(TrainerCallback):
    """Tells how many steps are newly done and how many there are, and what is logged."""

    def __init__(self, on_step: Callable[[int, int], None] | None, on_log: Callable[[dict], None] | None):
        self.step_seen, self.log_seen, self.known = on_step, on_log, 0

    def on_step_end(self, args, state, control, **kwargs):
        if self.step_seen is not None and state.is_world_process_zero:
            self.step_seen(state.global_step - self.known, state.max_steps)
        self.known = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.log_seen is not None and state.is_world_process_zero:
            self.log_seen({"step": state.global_step, "steps": state.max_steps, **(logs or {})})


def train(
    config: TrainingConfig,
    load_model: Callable[[torch.device], tuple[VegaForSpatialReasoning, VegaProcessor]],
    model_folder: Path,
    on_step: Callable[[int, int], None] | None = None,
    on_log: Callable[[dict], None] | None = None,
) -> dict[str, Any] | None:
    """Trains, or continues the run that was killed in `config.output`, and writes model, `training.json` and curves.

    Args:
        config: of the run.
        load_model: gives model and processor to start from, on a device, as `config.dtype` and `four_bit` say.
        model_folder: where they lie.
        on_step: called with the steps newly done and those of the whole run.
        on_log: called with each entry of the log.

    Returns:
        What is in `training.json`: settings, versions, trained parameters, losses, r, gates, speed, warnings; None on
        all processes but the first.

    Raises:
        ValueError: for bad data, or an output with a run of other settings, or one that another process writes; for a
            loss that is not finite.
        OSError: if the output cannot be written.
    """
    data, settings = load_data(config)
    eval_data = load_examples(config.eval_data) if config.eval_data else None
    dtype = VegaConfig.from_pretrained(model_folder).dtype if config.dtype == "auto" else config.dtype
    arguments = training_arguments(config, is_bfloat16=str(dtype).endswith("bfloat16"))
    settings |= {"device": arguments.device.type, "processes": arguments.world_size}
    settings["model_sha256"] = hash_folder(model_folder)
    with contextlib.ExitStack() as held:
        if arguments.process_index == 0:
            held.enter_context(folder_of_run(config.output))
        checkpoint = checkpoint_of(config, settings, arguments)
        model, processor = load_model(arguments.device)
        trainer = make_trainer(config, model, processor, arguments, data, eval_data)
        trainer.add_callback(Watcher(on_step, on_log))
        if trainer.is_world_process_zero():
            write_json(config.output / SETTINGS_FILE, settings)
        run(trainer, checkpoint)
        result = {
            **summary(trainer, config),
            "settings": settings,
            "versions": versions(vega3d, torch, transformers, accelerate),
            "continued_from": checkpoint.name if checkpoint else None,
        }
        if trainer.is_world_process_zero():
            save_result(trainer, processor, config.output, model_folder if config.four_bit else None)
            save_curves(config.output / CURVES_FILE, result["log"])
            write_json(config.output / RESULT_FILE, result)
        trainer.accelerator.wait_for_everyone()
        return result if trainer.is_world_process_zero() else None


@contextlib.contextmanager
def folder_of_run(folder: Path) -> Iterator[None]:
    """Makes and holds the output of a run; a new one in which nothing was written is removed again."""
    is_new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with only_run(folder):
            yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def checkpoint_of(config: TrainingConfig, settings: dict[str, Any], arguments: TrainingArguments) -> Path | None:
    """The checkpoint that a run with these settings continues from."""
    with arguments.main_process_first():
        checkpoint = last_checkpoint(config.output / CHECKPOINTS, arguments.world_size)
        if checkpoint is not None:
            longer = LENGTHEN.format(output=config.output)
            check_same_settings(config.output / SETTINGS_FILE, settings, {"steps": longer, "epochs": longer})
    return checkpoint


def load_data(config: TrainingConfig) -> tuple[Any, dict[str, Any]]:
    """The rows, and the settings by which a run is known again."""
    if config.streaming:
        return stream_examples(config.data, config.seed, config.shuffle_buffer), config.binding()
    data = load_examples(config.data)
    return data, {**config.binding(), "data_sha256": fingerprint(data)}


def make_trainer(config: TrainingConfig, model, processor, arguments, data, eval_data) -> VegaTrainer:
    cache = FeatureCache(config.cache) if config.cache is not None else None
    identity = feature_identity(model.model.generator) if cache is not None else None
    wrapped = choose_parts(
        model,
        config.tune,
        config.lora_rank,
        config.lora_alpha,
        config.lora_dropout,
        config.lora_targets,
        config.seed,
    )
    if config.float32_trained:
        for parameter in trained_parameters(wrapped).values():
            parameter.data = parameter.data.float()
    if config.gradient_checkpointing:
        model.config.use_cache = False
    trainer = VegaTrainer(
        wrapped,
        arguments,
        rates=config.learning_rates,
        residual_scale_rate=config.residual_scale_rate,
        data_collator=VegaCollator(processor, config.num_frames, cache=cache, identity=identity),
        train_dataset=data,
        eval_dataset=eval_data,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_arguments(config: TrainingConfig, is_bfloat16: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(config.output / CHECKPOINTS),
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs or 1.0,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        lr_scheduler_type=config.schedule,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=is_bfloat16 and config.float32_trained,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        dataloader_num_workers=config.workers,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        eval_strategy="steps" if config.eval_data else "no",
        eval_steps=config.eval_steps,
        prediction_loss_only=True,
        report_to=config.report_to,
        remove_unused_columns=False,
        accelerator_config={"dispatch_batches": False},
        use_cpu=config.device == "cpu" or not torch.cuda.is_available(),
        disable_tqdm=True,
    )


def run(trainer: VegaTrainer, checkpoint: Path | None) -> None:
    """Trains to the end; a run that was killed after its last checkpoint only takes the weights from it."""
    if checkpoint is not None:
        state = read_state(checkpoint)
        if state.global_step >= state.max_steps:
            load_trained(trainer.model, checkpoint)
            trainer.state = state
            return
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except ValueError as error:
        last = str(error).strip().splitlines()[-1]
        if "in DataLoader worker process" in str(error):
            raise ValueError(last.removeprefix("ValueError: ")) from error
        raise


def summary(trainer: VegaTrainer, config: TrainingConfig) -> dict[str, Any]:
    log = trainer.state.log_history
    losses = [entry["loss"] for entry in log if "loss" in entry]
    few = max(1, min(5, len(losses) // 2))
    scale = trainer.residual_scale()
    small = scale is not None and abs(scale) < SMALL_RESIDUAL_SCALE
    speeds = sorted(entry["clips_per_second"] for entry in log if "clips_per_second" in entry)
    return {
        "output": str(config.output),
        "steps": trainer.state.global_step,
        "trainable_parameters": trainer.trained,
        "loss_first": sum(losses[:few]) / few,
        "loss_last": sum(losses[-few:]) / few,
        "loss_averaged_over": few,
        "residual_scale": scale,
        "clips_per_second": speeds[len(speeds) // 2] if speeds else None,
        "warnings": [small_scale_warning(scale)] if small and scale is not None else [],
        "log": [entry for entry in log if "loss" in entry or "eval_loss" in entry],
    }
