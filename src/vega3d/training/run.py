"""One run from its config: train, go on where a killed run stopped, and leave a model that loads, with its curves."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import AutoModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from vega3d.extras import optional_module
from vega3d.features.cache import FeatureCache, feature_identity
from vega3d.files import only_run, read_json, whole_file, write_json
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.modeling_vega3d import VegaTaskModel
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.runs import check_same_settings, hash_folder, versions
from vega3d.training.actions import ActionCollator, PolicyData, policy_of
from vega3d.training.checkpoints import (
    batches_of_arguments,
    last_checkpoint,
    load_trained,
    put_trained,
    read_state,
    trained_parameters,
    writing_into,
)
from vega3d.training.collator import VegaCollator
from vega3d.training.config import TrainingConfig
from vega3d.training.data import fingerprint, load_examples, stream_examples
from vega3d.training.parts import choose_parts
from vega3d.training.several import one_error
from vega3d.training.shards import ShardStream, shards_fingerprint
from vega3d.training.trainer import VegaTrainer, small_scale_warning

SETTINGS_FILE = "training_config.json"
RESULT_FILE = "training.json"
CURVES_FILE = "training.png"
CHECKPOINTS, ADAPTER = "checkpoints", "adapter"  # folders
SAME_ARGUMENTS = (  # settings that transformers' TrainingArguments has under the same names
    *("seed", "weight_decay", "max_grad_norm"),
    *("logging_steps", "save_steps", "save_total_limit", "eval_steps", "report_to"),
)
SHARES = ("processes", "batch_size", "gradient_accumulation")  # whose product is the rows of a step
LENGTHEN = (
    "The rates of a run are made for its length: to train longer, start from its result, with model={output} and "
    "another output."
)


class ProgressCallback(TrainerCallback):
    """Reports steps and entries of the log from the first process to the callbacks of `train`."""

    def __init__(self, on_progress: Callable[[int, int], None] | None, on_log: Callable[[dict], None] | None):
        self.report_progress, self.report_log, self.known = on_progress, on_log, 0

    def on_step_end(self, args, state, control, **kwargs):
        if self.report_progress is not None and state.is_world_process_zero:
            self.report_progress(state.global_step - self.known, state.max_steps)
        self.known = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.report_log is not None and state.is_world_process_zero:
            self.report_log({"step": state.global_step, "steps": state.max_steps, **(logs or {})})


def train(
    config: TrainingConfig,
    load_model: Callable[[torch.device], tuple[VegaTaskModel, VegaProcessor]],
    model_folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
    on_log: Callable[[dict], None] | None = None,
) -> dict[str, Any] | None:
    """Trains, or continues the run that was killed in `config.output`, and writes model, `training.json` and curves.

    Args:
        config: all settings; `config.output` is made.
        load_model: gives model and processor to start from, on a device, as `config.dtype` and `four_bit` say.
        model_folder: where the files of that model lie; a run is continued only with the same files.
        on_progress: called with the steps newly done and those of the whole run.
        on_log: called with each entry of the log.

    Returns:
        What is in `training.json`: settings, versions, trained parameters, losses, r, gates, speed, warnings; None on
        all processes but the first.

    Raises:
        ValueError: for bad data, or an output with a run of other settings, or one that another process writes; for a
            loss that is not finite.
        OSError: if the output cannot be written.
        MissingExtraError: if matplotlib is not installed, before the first step.
    """
    optional_module("matplotlib.figure")  # of the curves, which are drawn at the end
    check_task(model_folder, config)
    data, settings = load_data(config)
    eval_data = load_eval_data(config, data)
    dtype = VegaConfig.from_pretrained(model_folder).dtype if config.dtype == "auto" else config.dtype
    arguments = training_arguments(config, is_bfloat16=str(dtype).endswith("bfloat16"))
    settings |= {"device": arguments.device.type, "processes": arguments.world_size}
    settings["model_sha256"] = hash_folder(model_folder)
    is_first = arguments.process_index == 0
    in_output = output_folder(config.output) if is_first else contextlib.nullcontext()
    with one_error(arguments.process_index, arguments.world_size), in_output:
        checkpoint = earlier_checkpoint(config, settings, arguments)
        model, processor = load_model(arguments.device)
        model = start(config, model, processor, data)
        trainer = make_trainer(config, model, processor, arguments, data, eval_data)
        trainer.add_callback(ProgressCallback(on_progress, on_log))
        if trainer.is_world_process_zero():
            write_json(config.output / SETTINGS_FILE, settings)
        run(trainer, checkpoint)
        result = {
            **summary(trainer, config),
            "settings": settings,
            "versions": versions("torch", "transformers", "accelerate"),
            "continued_from": checkpoint.name if checkpoint else None,
        }
        tensors = trainer.trained_tensors() if trainer.is_sharded else None
        if trainer.is_world_process_zero():
            base = partial(unquantised, config, model_folder, processor, data) if config.four_bit else None
            wrapped = trainer.accelerator.unwrap_model(trainer.model)
            if tensors is not None:
                wrapped = with_weights(tensors, config, load_model, data)
            save_whole(wrapped, processor, config.output, base)
            unit = "nats per token" if config.actions is None else "L1, normalised"
            save_curves(config.output / CURVES_FILE, result["log"], unit)
            write_json(config.output / RESULT_FILE, result)
        trainer.accelerator.wait_for_everyone()
        return result if trainer.is_world_process_zero() else None


def check_task(model_folder: Path, config: TrainingConfig) -> None:
    """Raises ValueError for a model of another task than the run trains, whose heads would be lost."""
    [task] = VegaConfig.from_pretrained(model_folder).architectures or [None]
    if task == "VegaForActionPrediction" and config.actions is None:
        raise ValueError(
            f"{model_folder} is a policy, but the run trains answers in words. Give `actions` (docs/manipulation.md)."
        )
    if config.actions is not None and task != "VegaForActionPrediction" and "act" not in config.tune:
        raise ValueError(
            f"{model_folder} is no policy yet, and tune is {list(config.tune)}: its new head would not learn. Name "
            "'act' in tune."
        )
    if task == "VegaForVisualGrounding":
        raise ValueError(
            f"{model_folder} is a model for grounding, but a run trains answers in words. Train it by VegaTrainer "
            "with a GroundingCollator (docs/grounding.md)."
        )


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Makes the output of a run and locks it; a new one in which nothing was written is removed again."""
    is_new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with only_run(folder):
            yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def earlier_checkpoint(config: TrainingConfig, settings: dict[str, Any], arguments: TrainingArguments) -> Path | None:
    """The last whole checkpoint in the output, if there is one; raises ValueError if its settings were others."""
    is_deepspeed = arguments.distributed_state.distributed_type == DistributedType.DEEPSPEED
    now = batches_of_arguments(arguments, config.streaming, is_deepspeed)
    with arguments.main_process_first():
        checkpoint = last_checkpoint(config.output / CHECKPOINTS, now)
        if checkpoint is not None:
            longer = LENGTHEN.format(output=config.output)
            path = config.output / SETTINGS_FILE
            check_same_settings(path, with_shares_of(path, settings), {"steps": longer, "epochs": longer})
    return checkpoint


def with_shares_of(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the shares of a run of another number of processes, whose steps have the same rows."""
    try:
        before = read_json(path)
    except ValueError:
        return settings  # which the comparison tells of
    if before.get("processes") == settings["processes"]:
        return settings
    return {**settings, **{name: before.get(name) for name in SHARES}}


def load_data(config: TrainingConfig) -> tuple[Any, dict[str, Any]]:
    """The rows, and the settings that must be the same for a run to be continued."""
    if config.actions is not None:
        windows = PolicyData(config.data[0], config.actions, config.actions.skip_episodes)
        return windows, {**config.binding(), **windows.settings()}
    if config.streaming:
        stream = stream_examples(config.data, config.seed, config.shuffle_buffer)
        shards = stream.shards if isinstance(stream, ShardStream) else []
        return stream, {**config.binding(), **({"shards_sha256": shards_fingerprint(shards)} if shards else {})}
    data = load_examples(config.data)
    return data, {**config.binding(), "data_sha256": fingerprint(data)}


def load_eval_data(config: TrainingConfig, data: Any) -> Any:
    """The rows of `eval_data`, or None; those of a policy are of the robot that `data` is of."""
    if not config.eval_data:
        return None
    if config.actions is not None:
        return data.like(config.eval_data[0], config.actions)
    return load_examples(config.eval_data)


def start(config: TrainingConfig, model: VegaTaskModel, processor: VegaProcessor, data: Any) -> VegaTaskModel:
    """The model of the task that the run trains, of the one that it starts from."""
    if config.actions is None:
        return model
    return policy_of(model, processor.tokenizer, data, config.actions, config.seed)


def unquantised(config: TrainingConfig, folder: Path, processor: VegaProcessor, data: Any) -> VegaTaskModel:
    """The same with the weights in the folder as they are, for a run in 4 bits."""
    return start(config, AutoModel.from_pretrained(folder, dtype="auto"), processor, data)


def make_trainer(config: TrainingConfig, model, processor, arguments, data, eval_data) -> VegaTrainer:
    cache = FeatureCache(config.cache) if config.cache is not None else None
    identity = feature_identity(model.model.generator) if cache is not None else None
    wrapped = trained_model(config, model)
    collator = VegaCollator(processor, config.num_frames, cache=cache, identity=identity)
    if config.actions is not None:
        collator = ActionCollator(processor, cache=cache, identity=identity, config=model.config)
    trainer = VegaTrainer(
        wrapped,
        arguments,
        rates=config.learning_rates,
        residual_scale_rate=config.residual_scale_rate,
        data_collator=collator,
        train_dataset=data,
        eval_dataset=eval_data,
    )
    trainer.remove_callback(PrinterCallback)
    if config.four_bit and trainer.is_sharded:
        raise ValueError(
            "four_bit is true, but FSDP and DeepSpeed cannot cut weights of 4 bits into pieces. Train with DDP "
            "(recipes/accelerate/ddp.yaml), or set four_bit: false."
        )
    return trainer


def trained_model(config: TrainingConfig, model: VegaTaskModel) -> Any:
    """The model with the parts of a config to be trained, in the type that they are trained in; all else frozen."""
    adapters = {name: value for name, value in vars(config).items() if name.startswith("lora_")}
    wrapped = choose_parts(model, config.tune, **adapters, seed=config.seed)
    if config.float32_trained:
        for parameter in trained_parameters(wrapped).values():
            parameter.data = parameter.data.float()
    if config.gradient_checkpointing:
        model.config.use_cache = False
    return wrapped


def training_arguments(config: TrainingConfig, is_bfloat16: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(config.output / CHECKPOINTS),
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs or 1.0,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        warmup_steps=config.warmup,
        lr_scheduler_type=config.schedule,
        data_seed=config.seed,
        bf16=is_bfloat16 and config.float32_trained,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        dataloader_num_workers=config.workers,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if config.eval_data else "no",
        prediction_loss_only=True,
        remove_unused_columns=False,
        accelerator_config={"dispatch_batches": False},
        use_cpu=config.device == "cpu" or not torch.cuda.is_available(),
        disable_tqdm=True,
        **{name: getattr(config, name) for name in SAME_ARGUMENTS},
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
    """What a run came to. The first and last loss are means over up to five entries: a single one is noise."""
    log = trainer.state.log_history
    losses = [entry["loss"] for entry in log if "loss" in entry]
    few = max(1, min(5, len(losses) // 2))
    warning = small_scale_warning(trainer.residual_scale())
    speeds = sorted(entry["clips_per_second"] for entry in log if "clips_per_second" in entry)
    return {
        "output": str(config.output),
        "steps": trainer.state.global_step,
        "trainable_parameters": trainer.trained,
        "loss_first": sum(losses[:few]) / few,
        "loss_last": sum(losses[-few:]) / few,
        "loss_averaged_over": few,
        "residual_scale": trainer.residual_scale(),
        "clips_per_second": speeds[len(speeds) // 2] if speeds else None,
        "warnings": [] if warning is None else [warning],
        "log": [entry for entry in log if "loss" in entry or "eval_loss" in entry],
    }


def with_weights(tensors: dict[str, torch.Tensor], config: TrainingConfig, load_model, data) -> Any:
    """A model on the CPU, with adapters if the run has them, that holds trained weights which processes shared out."""
    model, processor = load_model(torch.device("cpu"))
    wrapped = trained_model(config, start(config, model, processor, data))
    put_trained(wrapped, tensors, config.output)
    return wrapped


def save_result(trainer: Trainer, processor: VegaProcessor, output: Path) -> None:
    """`save_whole` of the model of a trainer."""
    save_whole(trainer.accelerator.unwrap_model(trainer.model), processor, output)


def save_whole(
    wrapped: Any, processor: VegaProcessor, output: Path, base: Callable[[], VegaTaskModel] | None = None
) -> None:
    """Writes the whole model, with adapters merged into its weights, in the dtype that it was loaded in.

    `AutoModel.from_pretrained(output)` loads it. With adapters, `output/adapter` holds them (with the projector and
    the fusion, if they were trained) as PEFT loads them onto the model that the run started from.

    `base` gives the model that the run started from, if it was trained in 4 bits: adapters are merged into these
    weights, not into the rounded ones.
    """
    with writing_into(output):
        if not isinstance(wrapped, VegaTaskModel):
            wrapped.save_pretrained(output / ADAPTER)
        model = plain_model(wrapped, output, base)
        model.save_pretrained(output)
        processor.save_pretrained(output)


def plain_model(wrapped: Any, output: Path, base: Callable[[], VegaTaskModel] | None) -> VegaTaskModel:
    if base is not None:
        return optional_module("peft").PeftModel.from_pretrained(base(), output / ADAPTER).merge_and_unload()
    model = wrapped if isinstance(wrapped, VegaTaskModel) else wrapped.merge_and_unload()
    model.cast_weights(model.config.dtype)  # they are float32 while they are trained
    return model


def save_curves(path: Path, log: Sequence[dict], unit: str = "nats per token") -> None:
    """Writes a PNG of the Trainer's log: loss (also of the evaluation data), r, and the gate's mean and spread."""
    figure = optional_module("matplotlib.figure").Figure(figsize=(10, 3.2), layout="constrained")
    loss, scale, gate = figure.subplots(1, 3)
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        plot(loss, log, name, label)
    plot(scale, log, "residual_scale")
    plot(gate, log, "gate_mean")
    points = [entry for entry in log if "gate_mean" in entry]
    steps = [entry["step"] for entry in points]
    low, high = ([entry["gate_mean"] + sign * entry["gate_std"] for entry in points] for sign in (-1, 1))
    gate.fill_between(steps, low, high, alpha=0.25)
    titles = {loss: f"loss [{unit}]", scale: "residual scale r", gate: "gate, mean ± spread"}
    for axes, title in titles.items():
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("step")
    if any("eval_loss" in entry for entry in log):
        loss.legend()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def plot(axes, log: Sequence[dict], name: str, label: str | None = None) -> None:
    points = [(entry["step"], entry[name]) for entry in log if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=label)
