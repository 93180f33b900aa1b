"""Every option of transformers' Trainer under VegaTrainer: used, or refused with the reason; none passed over."""

import dataclasses
import inspect
import math

import pytest
import torch
from training_data import trainer_for
from transformers import Trainer, TrainingArguments

from vega3d.training import DataSource, VegaTrainer, stream_examples
from vega3d.training.data import ExampleDataset
from vega3d.training.parts import parameter_groups


class Halved(torch.optim.SGD):
    """An optimizer class of the user."""


REFUSED = {  # by name: values that are refused, and words of the reason
    "remove_unused_columns": [(True, "collator needs all columns")],
    "learning_rate": [(0.0, "rates={'gate'"), (1e-3, "rates={'gate': 0.001}")],
    "lr_scheduler_type": [("polynomial", "lr_end")],
    "lr_scheduler_kwargs": [({"min_lr": 1e-6}, "min_lr_rate")],
    "optim": [(name, "groups the parameters itself") for name in ("galore_adamw", "lomo", "apollo_adamw_layerwise")],
    "optim_args": [("momentum=0.9", "does not read")],
    "optim_target_modules": [("all-linear", "choose_parts")],
    "fp16": [(True, "no effect on a CPU")],
    "fp16_full_eval": [(True, "round weights for good")],
    "bf16_full_eval": [(True, "round weights for good")],
    "use_liger_kernel": [(True, "no kernels for this model")],
    "enable_jit_checkpoint": [(True, "within a step")],
    "label_names": [(["answer"], "no loss")],
    "accelerator_config": [({"dispatch_batches": True}, "cut packed batches")],
    "train_sampling_strategy": [(name, "no column 'length'") for name in ("group_by_length", "batch_rebalance")],
    "save_total_limit": [(1, "at least 2"), (0, "at least 2")],
    "parallelism_config": [("any", "cut along their length")],
    "fsdp": [(True, "without FSDP")],
    "deepspeed": [("any.json", "without DeepSpeed")],
}
TOGETHER = {  # one step is taken with all of them
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": True},
    "include_num_input_tokens_seen": "non_padding",
    "auto_find_batch_size": True,
    "ddp_find_unused_parameters": False,
    "ddp_static_graph": True,
    "optim": "adafactor",
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "train_sampling_strategy": "sequential",
    "accelerator_config": {"dispatch_batches": False, "split_batches": True},
}
BY_THEMSELVES = {  # each has a test of its own below
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "weight_decay",
    "max_grad_norm",
    "use_cache",
    "torch_compile",
    "torch_compile_backend",
    "logging_first_step",
    "logging_strategy",
    "save_only_model",
    "save_strategy",
    "load_best_model_at_end",
    "prediction_loss_only",
}
ON_THE_HUB = {  # tests/hub/test_hub.py pushes while it trains
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
}
ELSEWHERE = {  # what test_trainer.py, test_killed_training.py and test_train_command.py hold
    "output_dir",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "logging_steps",
    "save_steps",
    "eval_strategy",
    "eval_steps",
    "metric_for_best_model",
    "greater_is_better",
    "num_train_epochs",
    "warmup_steps",
    "report_to",
    "disable_tqdm",
    "logging_nan_inf_filter",
    "seed",
    "data_seed",
    "use_cpu",
    "dataloader_num_workers",
    "per_device_eval_batch_size",
}
SAME_AS = {"gradient_checkpointing": "activation_checkpointing", "gradient_checkpointing_kwargs": "the same"}
FOR_SCRIPTS = {"do_train", "do_eval", "do_predict", "resume_from_checkpoint"}  # Trainer reads them nowhere
WITHOUT_A_SHARE = {  # the loss is a mean over the batch of each process, so there are no tokens to count
    "average_tokens_across_devices",
}
TRAINERS_OWN = {  # nothing that VegaTrainer overrides reads them, or changes what they act on
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "tf32",
    "torch_compile_mode",
    "liger_kernel_config",
    "torch_empty_cache_steps",
    "log_on_each_node",
    "log_level",
    "log_level_replica",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "eval_delay",
    "eval_on_start",
    "eval_do_concat_batches",
    "eval_use_gather_object",
    "eval_accumulation_steps",
    "include_for_metrics",
    "batch_eval_metrics",
    "save_on_each_node",
    "ignore_data_skip",
    "restore_callback_states_from_checkpoint",
    "full_determinism",
    "dataloader_drop_last",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    "dataloader_in_order",
    "length_column_name",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_backend",
    "ddp_timeout",
    "fsdp_config",
    "debug",
    "skip_memory_metrics",
    "local_rank",
}
KNOWN = (REFUSED, TOGETHER, BY_THEMSELVES, ON_THE_HUB, ELSEWHERE, SAME_AS, FOR_SCRIPTS, WITHOUT_A_SHARE, TRAINERS_OWN)
ARGUMENTS_OF_TRAINER = {
    "model": "trained",
    "args": "the tables above",
    "data_collator": "used, with the ids of rows if it is a VegaCollator",
    "train_dataset": "used",
    "eval_dataset": "used",
    "processing_class": "saved with the model",
    "model_init": "refused",
    "compute_loss_func": "used; refused with label smoothing or instruction_gated",
    "compute_metrics": "Trainer's own",
    "callbacks": "Trainer's own",
    "optimizers": "used; refused beside rates",
    "optimizer_cls_and_kwargs": "used over the groups of parts; refused with lr or weight_decay",
    "preprocess_logits_for_metrics": "Trainer's own",
}


def test_every_field_of_training_arguments_is_in_a_table():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}

    assert fields - set().union(*KNOWN) == set()


def test_every_argument_of_trainer_is_in_a_table():
    assert set(inspect.signature(Trainer).parameters) == set(ARGUMENTS_OF_TRAINER)


@pytest.fixture(scope="module")
def trained(talk, tmp_path_factory):
    """Makes a trainer; the options go to TrainingArguments."""

    def make(tune="gate,projector", steps=1, rates=None, **options):
        return trainer_for(talk, tmp_path_factory.mktemp("run"), tune, steps, rates, **options)

    return make


@pytest.fixture(scope="module")
def shared(trained):
    """One that is not run."""
    return trained()


def made_again(trainer, rates=None, residual_scale_rate=1e-2, args=None, **options) -> VegaTrainer:
    """Another trainer of the same model, with arguments of Trainer."""
    return VegaTrainer(
        trainer.model,
        trainer.args if args is None else args,
        rates,
        residual_scale_rate,
        data_collator=trainer.data_collator,
        train_dataset=trainer.train_dataset,
        **options,
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [(name, value, words) for name, cases in REFUSED.items() for value, words in cases],
)
def test_what_has_no_effect_or_spoils_a_run_is_refused(shared, tmp_path, name, value, words):
    options = {"remove_unused_columns": False, "use_cpu": True, name: value}
    if name == "lr_scheduler_kwargs":
        options["lr_scheduler_type"] = "cosine_with_min_lr"
    needing = ("fsdp", "deepspeed", "parallelism_config")  # what they name would have to be there
    args = TrainingArguments(str(tmp_path), **{key: one for key, one in options.items() if key not in needing})
    if name in needing:
        setattr(args, name, value)

    with pytest.raises(ValueError) as refused:
        made_again(shared, args=args)

    assert words in str(refused.value)
    assert name in str(refused.value)


def test_streams_to_evaluate_on_must_not_be_dispatched(shared, talk, tmp_path):
    stream = stream_examples([DataSource(str(talk))], 0, 1)
    args = TrainingArguments(str(tmp_path), remove_unused_columns=False, use_cpu=True)

    for dataset in (stream, {"first": stream}):
        with pytest.raises(ValueError, match="dispatch_batches"):
            made_again(shared, args=args, eval_dataset=dataset)


def test_a_step_is_taken_with_what_changes_nothing(trained):
    trainer = trained(**TOGETHER)

    trainer.train()

    (loss,) = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert math.isfinite(loss)
    assert trainer.state.num_input_tokens_seen == int(batch_of(trainer)["attention_mask"].sum())
    assert type(trainer.optimizer.optimizer).__name__ == "Adafactor"


@pytest.mark.stress
def test_a_step_is_taken_compiled(trained):
    plain, compiled = trained(), trained(torch_compile=True, torch_compile_backend="eager")

    for trainer in (plain, compiled):
        trainer.train()

    first, second = (trainer.state.log_history[0]["loss"] for trainer in (plain, compiled))
    assert first == pytest.approx(second, rel=1e-5)


def batch_of(trainer, rows: int = 2) -> dict:
    batch = trainer.data_collator(trainer.train_dataset.examples[:rows])
    batch.pop("ids")
    return batch


@pytest.mark.parametrize("tune", ["gate,projector", "gate,llm-lora"])
def test_label_smoothing_tends_to_the_plain_loss(trained, tune):
    plain = trained(tune)
    hardly, much = (
        made_again(plain, args=dataclasses.replace(plain.args, label_smoothing_factor=factor))
        for factor in (1e-6, 0.3)
    )
    batch = batch_of(plain)

    losses = [trainer.compute_loss(trainer.model.eval(), dict(batch)).item() for trainer in (plain, hardly, much)]

    logits = plain.model(**batch).logits[:, :-1].log_softmax(-1)
    answers = batch["labels"][:, 1:] != -100
    spread = -logits[answers].mean().item()
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[2] == pytest.approx(0.7 * losses[0] + 0.3 * spread, rel=1e-4)


def test_noise_on_the_embeddings_changes_the_loss(trained):
    losses = []
    for alpha in (None, 20.0):
        trainer = trained(neftune_noise_alpha=alpha)
        trainer.train()
        losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))

    assert abs(losses[0] - losses[1]) > 1e-3


def test_weight_decay_is_of_matrices_alone(shared):
    trainer = made_again(shared, args=dataclasses.replace(shared.args, weight_decay=0.1))

    groups = {group["name"]: group["weight_decay"] for group in trainer.create_optimizer().param_groups}

    assert groups == {
        "gate": 0.1,
        "gate, no decay": 0.0,
        "projector": 0.1,
        "projector, no decay": 0.0,
        "residual_scale": 0.0,
    }


@pytest.mark.parametrize("use_cache", [False, True])
def test_use_cache_reaches_the_language_model(shared, use_cache):
    trainer = made_again(shared, args=dataclasses.replace(shared.args, use_cache=use_cache))

    _, outputs = trainer.compute_loss(trainer.model, batch_of(trainer), return_outputs=True)

    assert (outputs.past_key_values is not None) == use_cache


@pytest.mark.parametrize("options", [{"logging_strategy": "epoch"}, {"logging_steps": 5, "logging_first_step": True}])
def test_each_entry_of_the_log_has_the_gate(trained, options):
    trainer = trained(**options)

    trainer.train()

    (entry,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert 0 < entry["gate_mean"] < 1


def test_a_gradient_that_is_not_finite_stops_without_clipping_too(trained):
    trainer = trained("gate", max_grad_norm=0.0)
    trainer.vega().model.fusion.residual_scale.register_hook(lambda gradient: gradient * float("nan"))

    with pytest.raises(ValueError, match=r"norm of the gradient is nan in step 1, on the rows row\d+, row\d+\."):
        trainer.train()


def test_the_best_weights_are_loaded_at_the_end(trained, talk):
    """At such rates each step makes the model worse, so that the first checkpoint is the best."""
    trainer = trained(
        "gate,projector,llm",
        steps=3,
        rates={"llm": 1.0},
        max_grad_norm=1e9,
        lr_scheduler_type="constant",
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        eval_dataset=True,
        load_best_model_at_end=True,
        save_total_limit=2,
    )

    trainer.train()

    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert min(losses) < losses[-1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_predictions_are_gathered(shared):
    predicted = shared.predict(ExampleDataset(shared.train_dataset.examples[:3]))

    assert predicted.predictions.shape[:2] == predicted.label_ids.shape


def test_a_run_is_not_continued_from_weights_alone(trained):
    trainer = trained(save_strategy="steps", save_steps=1, save_only_model=True)
    trainer.train()

    with pytest.raises(ValueError, match=r"checkpoint-1 cannot be continued from: it has no optimizer\.pt"):
        trainer.train(resume_from_checkpoint=True)


def test_an_optimizer_class_takes_the_rates_of_parts(trained):
    trainer = made_again(trained(), {"gate": 0.5}, optimizer_cls_and_kwargs=(Halved, {"momentum": 0.5}))

    trainer.train()

    optimizer = trainer.optimizer.optimizer
    assert type(optimizer) is Halved
    assert {group["name"]: group["initial_lr"] for group in optimizer.param_groups}["gate"] == 0.5
    assert {group["momentum"] for group in optimizer.param_groups} == {0.5}


def test_an_optimizer_of_the_user_is_used(trained):
    trainer = trained("gate")
    groups = parameter_groups(trainer.model, {"gate": 0.1}, 0.2, 0.0, [])
    optimizer = torch.optim.SGD(groups)

    again = made_again(trainer, optimizers=(optimizer, None))
    again.train()

    assert again.optimizer.optimizer is optimizer


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer_cls_and_kwargs": (Halved, {"lr": 0.1})}, "use rates"),
        ({"optimizer_cls_and_kwargs": (Halved, {"weight_decay": 0.1})}, "weight_decay of TrainingArguments"),
        ({"optimizer_cls_and_kwargs": (lambda: Halved, {})}, "groups the parameters itself"),
        ({"optimizers": "sgd", "rates": {"gate": 0.1}}, "brings its own rates"),
        ({"optimizers": "sgd", "residual_scale_rate": 0.1}, "brings its own rates"),
        ({"model_init": lambda: None}, "leave model_init out"),
    ],
)
def test_arguments_that_exclude_each_other(shared, options, words):
    if options.get("optimizers") == "sgd":
        optimizer = torch.optim.SGD(shared.vega().model.fusion.parameters(), lr=0.1)
        options = {**options, "optimizers": (optimizer, None)}

    with pytest.raises(ValueError, match=words):
        made_again(shared, **options)


def test_a_loss_of_the_user_is_used_but_not_smoothed(shared):
    def loss(outputs, labels, num_items_in_batch=None):
        return outputs.logits.float().square().mean()

    trainer = made_again(shared, compute_loss_func=loss)
    batch = batch_of(trainer)

    found, outputs = trainer.compute_loss(trainer.model.eval(), dict(batch), return_outputs=True)

    assert found.item() == pytest.approx(outputs.logits.square().mean().item())
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0\.1"):
        args = dataclasses.replace(shared.args, label_smoothing_factor=0.1)
        made_again(shared, args=args, compute_loss_func=loss)


def test_a_loss_of_the_user_does_not_hide_the_labels_from_the_fusion(shared, monkeypatch):
    monkeypatch.setattr(shared.vega().config, "fusion", "instruction_gated")

    with pytest.raises(ValueError, match="read the answer"):
        made_again(shared, compute_loss_func=lambda outputs, labels, **_: outputs.logits.mean())


def test_a_search_needs_trainers_of_its_own(shared):
    with pytest.raises(ValueError, match="for each trial"):
        shared.hyperparameter_search()
