import json
import logging
import shutil

import pytest
import torch
from training_data import losses_of, run_config, run_training, trained_parameters, trainer_for, write_jsonl
from transformers import TrainingArguments

from tiny_checkpoints import FROZEN
from vega3d import VegaForSpatialReasoning
from vega3d.files import write_json
from vega3d.training import DataSource, VegaTrainer, stream_examples
from vega3d.training.checkpoints import damage, last_whole_checkpoint, mark_whole

LOGGED = ("loss", "grad_norm", "residual_scale", "gate_mean", "gate_std")


def test_the_log_says_what_the_gate_does(talk, tmp_path):
    trainer = trainer_for(talk, tmp_path, "gate,projector", steps=3)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]

    assert len(entries) == 3
    for entry in entries:
        assert 0 < entry["gate_mean"] < 1 and 0 < entry["gate_std"] < 0.5
        assert entry["clips_per_second"] > 0 and entry["tokens_per_second"] > 0
    assert entries[-1]["residual_scale"] == trainer.vega().model.fusion.residual_scale.item()
    assert entries[0]["residual_scale"] != entries[-1]["residual_scale"]
    assert trainer.trained == trained_parameters()
    assert [entry.get("trainable_parameters") for entry in entries] == [sum(trainer.trained.values()), None, None]


@pytest.mark.parametrize(("scale", "warned"), [(0.005, True), (0.2, False)])
def test_a_residual_scale_near_zero_is_warned_of(talk, tmp_path, caplog, scale, warned):
    trainer = trainer_for(talk, tmp_path, "gate", steps=1, rates={"gate": 1e-5})
    trainer.residual_scale_rate = 1e-5
    torch.nn.init.constant_(trainer.vega().model.fusion.residual_scale, scale)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert ("residual scale ended at" in caplog.text) == warned


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(talk, tmp_path):
    trainer = trainer_for(talk, tmp_path, "gate", steps=4, lr_scheduler_type="constant")
    original = trainer._prepare_inputs
    rows: list[list[str]] = []

    def spoil(inputs):
        rows.append(list(inputs["ids"]))
        if len(rows) == 3:
            with torch.no_grad():
                trainer.vega().model.fusion.residual_scale.fill_(float("inf"))
        return original(inputs)

    trainer._prepare_inputs = spoil
    with pytest.raises(ValueError, match=r"The loss is (nan|inf) in step 3, on the rows row\d+, row\d+\.") as stopped:
        trainer.train()
    assert f"on the rows {', '.join(rows[2])}." in str(stopped.value)


def test_rows_without_a_visual_do_not_train_the_gate(talk, tmp_path):
    messages = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "2"}]
    data = write_jsonl(tmp_path / "text.jsonl", [{"id": f"text{n}", "messages": messages} for n in range(2)])
    with pytest.raises(ValueError, match=r"rows text\d, text\d: they have neither image nor video, and only gate is"):
        trainer_for(data, tmp_path, "gate", steps=1).train()
    trainer_for(data, tmp_path, "llm", steps=1).train()


def test_a_gradient_that_is_not_finite_stops(talk, tmp_path):
    trainer = trainer_for(talk, tmp_path, "gate", steps=2)
    trainer.vega().model.fusion.residual_scale.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(ValueError, match=r"norm of the gradient is (nan|inf) in step 1, on the rows row\d+, row\d+"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"remove_unused_columns": True}, "remove_unused_columns=False"),
        ({"save_total_limit": 1}, "at least 2"),
    ],
)
def test_arguments_that_would_spoil_a_run(talk, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_for(talk, tmp_path, "gate", 1, **arguments)


def test_streams_must_not_be_dispatched(talk, tmp_path):
    stream = stream_examples([DataSource(str(talk))], 0, 1)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, remove_unused_columns=False, use_cpu=True)
    with pytest.raises(ValueError, match="dispatch_batches"):
        VegaTrainer(torch.nn.Linear(1, 1), arguments, train_dataset=stream)


def test_a_cached_run_computes_each_clip_once_and_trains_the_same(talk, tmp_path):
    settings = {"tune": "gate,projector", "learning_rates": {"gate": 1e-2, "projector": 3e-3}, "steps": 4}
    online = run_training(run_config(talk, tmp_path / "online", **settings))
    first = run_training(run_config(talk, tmp_path / "first", cache=str(tmp_path / "cache"), **settings))
    entries = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(entries) == 3
    again = run_training(run_config(talk, tmp_path / "again", cache=str(tmp_path / "cache"), **settings))
    assert sorted((tmp_path / "cache").rglob("*.safetensors")) == entries
    assert losses_of(first["log"]) == losses_of(again["log"])
    assert losses_of(first["log"]) == pytest.approx(losses_of(online["log"]), abs=2e-3)  # bf16


@pytest.fixture(scope="module")
def whole_run(talk, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "whole"
    result = run_training(run_config(talk, output, save_total_limit=9))
    return output, result


def copy_run(whole, output, last_step: int):
    """What a run that was killed leaves: its settings and checkpoints up to a step."""
    (output / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "training_config.json", output)
    for step in range(2, last_step + 1, 2):
        shutil.copytree(whole / "checkpoints" / f"checkpoint-{step}", output / "checkpoints" / f"checkpoint-{step}")


def assert_same_run(first_output, first, second_output, second):
    for name in LOGGED:
        assert [entry[name] for entry in first["log"]] == [entry[name] for entry in second["log"]], name
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (first_output / file).read_bytes() == (second_output / file).read_bytes()


@pytest.mark.parametrize("last_step", [2, 6, 8])
def test_a_continued_run_equals_an_uninterrupted_one(whole_run, talk, tmp_path, last_step):
    """8 steps of 2 x 2 rows of 12 cross an epoch after step 3 and 6; dropout and a schedule are on."""
    output, result = whole_run
    copy_run(output, tmp_path / "run", last_step)
    continued = run_training(run_config(talk, tmp_path / "run"))
    assert continued["continued_from"] == f"checkpoint-{last_step}"
    assert_same_run(output, result, tmp_path / "run", continued)


def test_a_half_checkpoint_is_not_used(whole_run, talk, tmp_path):
    output, result = whole_run
    copy_run(output, tmp_path / "run", 6)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "checkpoint-6" / "whole.json").unlink()
    half = (checkpoints / "checkpoint-4" / "trained.safetensors").read_bytes()
    (checkpoints / "checkpoint-4" / "trained.safetensors").write_bytes(half[:-10])
    continued = run_training(run_config(talk, tmp_path / "run"))
    assert continued["continued_from"] == "checkpoint-2"
    assert_same_run(output, result, tmp_path / "run", continued)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"tune": "gate,projector", "learning_rates": {}}, "tune was .*; learning_rates.projector was"),
        ({"steps": 9}, "steps was 8 and is 9"),
        ({"lora_rank": 8}, "lora_rank was 4 and is 8"),
    ],
)
def test_a_run_of_other_settings_is_not_continued(whole_run, talk, change, message):
    with pytest.raises(ValueError, match=f"holds a run with other settings: {message}"):
        run_training(run_config(talk, whole_run[0], **change))


def test_a_run_on_other_rows_or_another_model_is_not_continued(whole_run, talk, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(whole_run[0], output)
    rows = talk.read_text()
    try:
        talk.write_text(rows.replace("5 chairs", "6 chairs"))
        with pytest.raises(ValueError, match="data_sha256 was"):
            run_training(run_config(talk, output))
    finally:
        talk.write_text(rows)
    settings = json.loads((output / "training_config.json").read_text())

    write_json(output / "training_config.json", {**settings, "model_sha256": "other"})

    with pytest.raises(ValueError, match="model_sha256 was 'other'"):
        run_training(run_config(talk, output))


def test_logging_and_saving_may_change(whole_run, talk, tmp_path):
    copy_run(whole_run[0], tmp_path / "run", 4)
    run_training(run_config(talk, tmp_path / "run", save_steps=3, save_total_limit=3, workers=0))


def test_checkpoints_hold_only_what_is_trained(whole_run):
    checkpoint = last_whole_checkpoint(whole_run[0] / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "checkpoint-8"
    assert not (checkpoint / "model.safetensors").exists() and not (checkpoint / "generator").exists()


def test_trainer_refuses_a_half_checkpoint(talk, tmp_path):
    trainer = trainer_for(talk, tmp_path, "gate", steps=1, save_strategy="steps", save_steps=1)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    trainer.train()
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="not a whole one"):
        trainer.train(resume_from_checkpoint=tmp_path / "checkpoint-1")


def test_whole_means_every_file_at_its_length(tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "a").write_text("12345")
    assert damage(folder) is not None
    mark_whole(folder)
    assert damage(folder) is None
    (folder / "a").write_text("1234")
    assert damage(folder) is not None
    assert last_whole_checkpoint(tmp_path) is None and not folder.exists()


def test_the_model_of_a_run_loads_with_the_adapters_merged(whole_run, talk):
    from peft import PeftModel
    from transformers import AutoModel, AutoProcessor

    from vega3d.hub.load import load_vega
    from vega3d.training import VegaCollator, load_examples

    output, _ = whole_run
    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert type(model) is VegaForSpatialReasoning
    assert not any("lora" in name for name, _ in model.named_parameters())
    base, base_processor = load_vega(FROZEN, device="cpu", dtype="float32")
    rows = load_examples([DataSource(str(talk))]).examples[:2]
    batch = VegaCollator(processor, num_frames=2)(rows)
    assert torch.equal(batch["labels"], VegaCollator(base_processor, num_frames=2)(rows)["labels"])
    with torch.no_grad():
        ours, before = model(**batch).logits, base(**batch).logits
        adapted = PeftModel.from_pretrained(base, output / "adapter").eval()(**batch).logits
    torch.testing.assert_close(ours, adapted, atol=1e-4, rtol=0)
    assert (ours - before).abs().max() > 1e-2
