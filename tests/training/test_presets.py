"""What each preset trains, and what may be said beside it."""

from functools import partial
from pathlib import Path

import pytest
import torch
from training_data import snapshot

from tiny_checkpoints import FROZEN
from vega3d.hub.load import load_vega
from vega3d.training import make_config, read_config
from vega3d.training.config import TrainingConfig
from vega3d.training.parts import parameter_part
from vega3d.training.presets import PRESETS
from vega3d.training.run import load_data, make_trainer, training_arguments

TRAINED = {
    "gate-only": {"gate", "projector"},
    "lora": {"gate", "projector", "llm-lora"},
    "qlora": {"gate", "projector", "llm-lora"},
    "full": {"gate", "projector", "llm", "vision"},
}


@pytest.fixture
def config(talk, tmp_path):
    values = {
        "model": str(FROZEN),
        "data": str(talk),
        "output": str(tmp_path / "out"),
        "num_frames": 2,
        "batch_size": 2,
    }
    return partial(make, {**values, "steps": 2, "warmup": 0.0, "device": "cpu"})


def make(values: dict, **changes) -> TrainingConfig:
    return make_config({**values, **changes})


@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps_move_what_a_preset_trains_and_nothing_else(config, preset):
    settings = config(preset=preset)
    model, processor = load_vega(FROZEN, settings.four_bit, "cpu")
    data, _ = load_data(settings)
    trainer = make_trainer(settings, model, processor, training_arguments(settings, is_bfloat16=True), data, None)
    before = snapshot(trainer.model)
    named = trainer.model.named_parameters(remove_duplicate=False)  # a head tied to the embeddings has two names
    trainable = {name for name, parameter in named if parameter.requires_grad}

    trainer.train()

    after = snapshot(trainer.model)
    assert {parameter_part(name) for name in trainable} == TRAINED[preset]
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) != (name in trainable), name
    packed = [name for name, value in before.items() if value.dtype == torch.uint8 and name.endswith(".weight")]
    assert bool(packed) == (preset == "qlora")


def test_what_is_said_beside_a_preset_counts(config, tmp_path):
    chosen = config(preset="lora", tune="gate,llm-lora,vision", gradient_checkpointing=False, lora_rank=4)
    assert (chosen.tune, chosen.gradient_checkpointing, chosen.lora_rank) == (("gate", "llm-lora", "vision"), False, 4)

    file = tmp_path / "run.yaml"
    file.write_text(
        "model: vega3d-tiny\ndata: rows.jsonl\noutput: out\npreset: gate-only\nlearning_rates: {llm-lora: 1e-5}\n"
    )
    read = read_config(file, {"preset": "qlora"})
    assert (read.preset, read.four_bit, read.learning_rates) == ("qlora", True, {"llm-lora": 1e-5})


def test_a_run_without_a_preset_is_known_by_the_same_settings(config):
    plain, named = config(tune="gate,projector", gradient_checkpointing=True), config(preset="gate-only")

    assert "preset" not in plain.to_dict() and named.to_dict()["preset"] == "gate-only"
    assert plain.binding() == named.binding()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "qlore"}, r"There is no preset 'qlore'\. Presets are gate-only \(the new parts alone"),
        ({"preset": "lora", "tune": "gate"}, r"preset is 'lora' .* tune is \['gate'\], which leaves out 'llm-lora'"),
        ({"preset": "gate-only", "tune": "gate,llm"}, "which names 'llm'"),
        ({"preset": "full", "tune": "gate,llm-lora"}, "leaves out 'llm'"),
        ({"preset": "lora", "four_bit": True}, r"four_bit is True\. Take the preset 'qlora'"),
        ({"preset": "qlora", "four_bit": False}, r"four_bit is False\. Take the preset 'lora'"),
        ({"preset": "full", "four_bit": True}, r"four_bit is True\. Leave four_bit out"),
        ({"preset": "gate-only", "learning_rates": {"llm": 1e-5}}, "learning_rates names 'llm'"),
    ],
)
def test_contradictions_and_unknown_presets_are_refused(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_a_preset_is_checked_in_python_too():
    with pytest.raises(ValueError, match="preset is 'qlora'"):
        TrainingConfig("vega3d-tiny", ("rows",), Path("out"), preset="qlora")  # type: ignore[arg-type]
