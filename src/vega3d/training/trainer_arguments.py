"""What `VegaTrainer` refuses of `TrainingArguments` and of Trainer's own arguments, each with reason and remedy."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import is_datasets_available

from vega3d.extras import optional_module
from vega3d.modeling.actions_vega3d import VegaForActionPrediction
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.modeling.modeling_vega3d import VegaTaskModel
from vega3d.training.parts import RESIDUAL_SCALE_RATE

LABELS: dict[type, str] = {  # of models that do not answer in words
    VegaForVisualGrounding: "a model for grounding are boxes",
    VegaForActionPrediction: "a policy are actions",
}
DEFAULT_RATE = TrainingArguments.__dataclass_fields__["learning_rate"].default
OWN_GROUPS = ("galore", "apollo", "lomo", "adalomo")  # optimizers that group the parameters themselves
READ_OPTIM_ARGS = (  # parts of the names of optimizers that read `optim_args`
    *("sgd", "adagrad", "rmsprop", "ademamix", "anyprecision", "grokadamw", "4bit", "torch_8bit"),
    *("schedule_free", "stable_adamw"),
)
BY_LENGTH = ("group_by_length", "batch_rebalance")
BY_LAUNCH = "`accelerate launch --config_file` brings it, with a file of recipes/accelerate."
WRONG_HERE = {  # values that are refused whatever the others are, by name: (is it one, what to do)
    "remove_unused_columns": (bool, "Set remove_unused_columns=False: the collator needs all columns."),
    "fsdp": (bool, f"Start without FSDP here: {BY_LAUNCH}"),
    "deepspeed": (bool, f"Start without DeepSpeed here: {BY_LAUNCH}"),
    "parallelism_config": (
        lambda value: value is not None,
        "Packed batches cannot be cut along their length: start without it, one whole model on each process.",
    ),
    "use_liger_kernel": (bool, "Liger has no kernels for this model. Leave it out."),
    "fp16_full_eval": (bool, "It would round weights for good, and those that must stay float32. Set fp16 or bf16."),
    "bf16_full_eval": (bool, "It would round weights for good, and those that must stay float32. Set bf16=True."),
    "enable_jit_checkpoint": (
        bool,
        "Its checkpoint is made within a step, from which a run does not go on as before. Lower save_steps instead.",
    ),
    "label_names": (
        lambda value: value not in (None, ["labels"]),
        "The labels are called `labels`; with other names evaluation would have no loss. Leave it out.",
    ),
    "optim_target_modules": (
        lambda value: value is not None,
        "Which parameters are trained is chosen by choose_parts. Leave it out.",
    ),
}


def check_arguments(args: TrainingArguments, train_dataset, eval_dataset=None) -> None:
    """Raises ValueError for settings of the Trainer that would cut batches or have no effect, with the remedy."""
    for name, (is_wrong, remedy) in WRONG_HERE.items():
        value = getattr(args, name)
        if is_wrong(value):
            raise ValueError(f"TrainingArguments has {name}={value!r}. {remedy}")
    check_batches(args, train_dataset, eval_dataset)
    if args.fp16 and args.device.type == "cpu":
        raise ValueError(
            "TrainingArguments has fp16=True, which has no effect on a CPU. Leave it out, or set bf16=True."
        )
    if args.n_gpu > 1:
        raise ValueError(f"One process sees {args.n_gpu} GPUs; packed batches cannot be split. Start with torchrun.")
    if args.save_total_limit is not None and args.save_total_limit < 2:
        raise ValueError(
            f"save_total_limit is {args.save_total_limit}, but must be at least 2: the last whole checkpoint is kept "
            "until the next one is."
        )


def check_batches(args: TrainingArguments, train_dataset, eval_dataset) -> None:
    """Raises ValueError if packed batches would be cut, or rows cannot be sorted by length."""
    evaluated = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
    streams = any(isinstance(one, torch.utils.data.IterableDataset) for one in (train_dataset, *evaluated))
    dispatched = args.accelerator_config.dispatch_batches
    if dispatched or (streams and dispatched is None):
        raise ValueError(
            "Set TrainingArguments(accelerator_config={'dispatch_batches': False}): accelerate would cut packed "
            "batches in the wrong places."
        )
    if args.train_sampling_strategy in BY_LENGTH:
        is_table = is_datasets_available() and isinstance(train_dataset, optional_module("datasets").Dataset)
        if not is_table or args.length_column_name not in train_dataset.column_names:
            raise ValueError(
                f"train_sampling_strategy is {args.train_sampling_strategy!r}, but the rows have no column "
                f"{args.length_column_name!r} to go by. Add it to a datasets.Dataset, or use 'random' or 'sequential'."
            )


def check_optimizer(args: TrainingArguments, rates: Mapping | None, residual_rate: float, options: Mapping) -> None:
    """Raises ValueError where rates of parts do not go with the optimizer or schedule in Trainer's `options`."""
    if args.learning_rate != DEFAULT_RATE:
        raise ValueError(
            f"TrainingArguments has learning_rate={args.learning_rate}, which no part would be trained with. Leave it "
            f"out and give VegaTrainer a rate for each part, such as rates={{'gate': {args.learning_rate}}}."
        )
    optimizer = (options.get("optimizers") or (None, None))[0]
    if optimizer is not None:
        if rates or residual_rate != RESIDUAL_SCALE_RATE:
            raise ValueError(
                "VegaTrainer has an optimizer, which brings its own rates, and rates beside it. Give one of them; "
                "parts.parameter_groups makes groups for an optimizer."
            )
        return
    if options.get("optimizer_cls_and_kwargs") is not None:
        check_optimizer_class(*options["optimizer_cls_and_kwargs"])
    else:
        check_optimizer_name(args)
    check_schedule(args)


def check_optimizer_class(optimizer_class: Any, settings: Mapping) -> None:
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise ValueError(
            f"{optimizer_class} groups the parameters itself, so the rates of parts would be lost. Give a class of "
            "torch.optim.Optimizer, or a made one as `optimizers`."
        )
    for name, remedy in (("lr", "rates={...} of VegaTrainer"), ("weight_decay", "weight_decay of TrainingArguments")):
        if name in settings:
            raise ValueError(
                f"optimizer_cls_and_kwargs has {name}={settings[name]}, which the groups of parts replace. Leave it "
                f"out and use {remedy}."
            )


def check_optimizer_name(args: TrainingArguments) -> None:
    name = OptimizerNames(args.optim).value
    if name.startswith(OWN_GROUPS):
        raise ValueError(
            f"optim={name!r} groups the parameters itself, so the rates of parts would be lost. Use another optim."
        )
    if not args.optim_args:
        return
    if not any(read in name for read in READ_OPTIM_ARGS):
        raise ValueError(f"optim_args is {args.optim_args!r}, which optim={name!r} does not read. Leave it out.")
    if "weight_decay" in args.optim_args:
        raise ValueError(
            f"optim_args is {args.optim_args!r}, but the groups of parts replace its weight_decay. Use weight_decay "
            "of TrainingArguments."
        )


def check_schedule(args: TrainingArguments) -> None:
    """Raises ValueError for a schedule that ends at one rate for all parts, which transformers takes as a share."""
    options = args.lr_scheduler_kwargs or {}
    kind = args.lr_scheduler_type.value
    if kind.endswith("with_min_lr") and "min_lr" in options:
        raise ValueError(
            f"lr_scheduler_kwargs has min_lr={options['min_lr']}, one rate for parts of different rates. Give "
            "min_lr_rate, the share of each part's own."
        )
    if kind == "polynomial" and options.get("lr_end") != 0:
        raise ValueError(
            "lr_scheduler_type is 'polynomial', which ends at lr_end, one rate for parts of different rates. Give "
            "lr_scheduler_kwargs={'lr_end': 0.0}, or another schedule."
        )


def check_options(args: TrainingArguments, model: Any, options: Mapping) -> None:
    """Raises ValueError for arguments of Trainer that have no effect here, or would show the model the answer."""
    if model is None or options.get("model_init") is not None:
        raise ValueError(
            "VegaTrainer trains the model of choose_parts and makes none: give model, and leave model_init out."
        )
    labels = next(
        (words for module in model.modules() for kind, words in LABELS.items() if type(module) is kind), None
    )
    if labels is not None and args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, but the labels of {labels}, which have no next "
            "token to smooth. Leave it out."
        )
    if options.get("compute_loss_func") is None:
        return
    if args.label_smoothing_factor:
        raise ValueError(
            f"compute_loss_func takes the place of the loss that label_smoothing_factor={args.label_smoothing_factor} "
            "would smooth. Leave one of them out."
        )
    fusions = {module.config.fusion for module in model.modules() if isinstance(module, VegaTaskModel)}
    if "instruction_gated" in fusions:
        raise ValueError(
            "compute_loss_func takes the labels from the model, and the fusion 'instruction_gated' would read the "
            "answer as a part of the question. Leave it out, or override compute_loss."
        )
