import sys

import pytest
import torch
from training_data import RATES, TUNES, losses_of, snapshot, trainer_for

from tiny_checkpoints import FROZEN
from vega3d.extras import MissingExtraError
from vega3d.training import choose_parts
from vega3d.training.parts import LEARNING_RATES, learning_rates, parameter_part


@pytest.mark.parametrize("tune", TUNES)
def test_every_trained_parameter_moves_and_every_frozen_one_stays(talk, tmp_path, tune):
    trainer = trainer_for(talk, tmp_path, tune, steps=4, weight_decay=0.01)
    before = snapshot(trainer.model)
    parameters = trainer.model.named_parameters(remove_duplicate=False)  # a head tied to the embeddings has two names
    trainable = {name for name, parameter in parameters if parameter.requires_grad}
    trainer.train()

    after = snapshot(trainer.model)

    assert {parameter_part(name) for name in trainable} == set(tune.split(","))
    assert before.keys() == after.keys() and trainable
    for name, value in before.items():
        assert torch.equal(value, after[name]) != (name in trainable), name

    frozen = list(trainer.vega().model.generator.parameters())
    assert frozen and not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen)
    assert losses_of(trainer.state.log_history)[0] > 0


def test_generator_stays_frozen_in_training_mode(talk, tmp_path):
    trainer = trainer_for(talk, tmp_path, "gate,projector,llm,vision", steps=3)
    trainer.model.train()
    generator = trainer.vega().model.generator
    assert not generator.training and not any(parameter.requires_grad for parameter in generator.parameters())


def test_rates_of_the_parts_and_of_the_residual_scale(talk, tmp_path):
    trainer = trainer_for(talk, tmp_path, "gate,projector,llm-lora", steps=3, weight_decay=0.1)
    trainer.create_optimizer()
    groups = {group["name"]: group for group in trainer.optimizer.param_groups}

    assert groups["residual_scale"]["lr"] == 1e-2 and groups["residual_scale"]["weight_decay"] == 0
    assert [tuple(parameter.shape) for parameter in groups["residual_scale"]["params"]] == [()]
    for part in ("gate", "projector", "llm-lora"):
        assert groups[part]["lr"] == RATES[part] and groups[part]["weight_decay"] == 0.1
        assert all(parameter.ndim > 1 for parameter in groups[part]["params"])
    for part in ("gate", "projector"):
        assert groups[f"{part}, no decay"]["weight_decay"] == 0

    grouped = [id(parameter) for group in groups.values() for parameter in group["params"]]
    trained = [id(parameter) for parameter in trainer.model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained)


def test_residual_scale_is_float32_and_moves_in_bfloat16(talk, tmp_path):
    from vega3d.hub.load import load_vega

    model, _ = load_vega(FROZEN, device="cpu", dtype="bfloat16")
    assert choose_parts(model, ["gate"]).model.fusion.residual_scale.dtype == torch.float32


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (["gates"], r"There is no part 'gates' to tune. Parts are gate \(the fusion\); projector .*; vision"),
        (["llm", "llm-lora"], "llm and llm-lora"),
        (["gate", "gate"], "each once"),
        ([], "at least one part"),
    ],
)
def test_words_that_name_no_choice_of_parts(model, tune, message):
    with pytest.raises(ValueError, match=message):
        choose_parts(model, tune)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (r".*\.(to_q|q_proj)", r"an adapter on model\.generator\.\S+to_q, which is the frozen generator"),
        (r".*\.attn\.proj", r"model\.vlm\.model\.visual\.\S+, which is a part outside the language model"),
        (r".*\.to_nothing", "matches no layer"),
        (r"(", "no regular expression"),
    ],
)
def test_adapters_outside_the_language_model_are_refused(assemble, targets, message):
    model = assemble()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        choose_parts(model, ["llm-lora"], lora_targets=targets)
    assert [name for name, _ in model.named_modules()] == before


def test_a_part_without_parameters_is_refused(assemble):
    with pytest.raises(ValueError, match=r"The part 'gate' has no parameters in this model \(fusion='none'"):
        choose_parts(assemble(fusion="none"), ["gate"])


def test_adapters_need_peft(assemble, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)

    with pytest.raises(MissingExtraError, match=r"needs the package peft.* pip install 'vega3d\[train\]'"):
        choose_parts(assemble(), ["llm-lora"])


def test_adapters_follow_their_seed_and_leave_the_global_one(assemble):
    models = [assemble() for _ in range(3)]
    before = torch.random.get_rng_state()
    chosen = [choose_parts(model, ["llm-lora"], seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, same, other = (next(p for name, p in model.named_parameters() if "lora_A" in name) for model in chosen)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_learning_rates_are_the_given_or_the_default_ones():
    assert learning_rates(("gate", "llm"), {"llm": 2e-5}) == {"gate": LEARNING_RATES["gate"], "llm": 2e-5}
    with pytest.raises(ValueError, match="names 'vision', which is not among"):
        learning_rates(("gate",), {"vision": 1e-5})
    with pytest.raises(ValueError, match="must be above 0"):
        learning_rates(("gate",), {"gate": 0.0})
