"""Each VLM: labels, equality of batch and rows, and what moves."""

import pytest
import torch
from training_data import RATES
from transformers import TrainingArguments

from tiny_checkpoints import VLM_PROCESSORS, save_checkpoint
from vega3d.hub.load import load_vega
from vega3d.training import DataSource, VegaCollator, VegaTrainer, choose_parts, load_examples
from vega3d.training.parts import parameter_part


@pytest.fixture(scope="module", params=VLM_PROCESSORS)
def folder(request, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


def test_labels_and_batches(folder, talk):
    """Qwen3-VL writes a time before the tokens of each pair of frames, which moves the answers further."""
    model, processor = load_vega(folder, device="cpu")
    rows = load_examples([DataSource(str(talk))]).examples[:2]
    collator = VegaCollator(processor, num_frames=4)
    batch = collator(rows)

    told = [processor.tokenizer.decode(labels[labels != -100]).replace(" ", "") for labels in batch["labels"]]

    assert [text.replace("<|im_end|>", ";") for text in told] == ["0chairs;noneatall;", "1chairs;"]

    for number, row in enumerate(rows):
        single = collator([row])
        length = single["input_ids"].shape[1]
        with torch.no_grad():
            alone, together = model(**single).logits[0], model(**batch).logits[number, :length]
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("tune", ["gate,projector,llm-lora", "llm,vision"])
def test_what_is_named_moves(folder, talk, tmp_path, tune):
    model, processor = load_vega(folder, device="cpu")
    parts = tune.split(",")
    wrapped = choose_parts(model, parts, lora_rank=4)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, save_strategy="no", report_to="none", remove_unused_columns=False, use_cpu=True
    )
    trainer = VegaTrainer(
        wrapped,
        arguments,
        rates={part: RATES[part] for part in parts},
        data_collator=VegaCollator(processor, num_frames=4),
        train_dataset=load_examples([DataSource(str(talk))]),
    )
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters()}

    trainer.train()

    for name, parameter in wrapped.named_parameters():
        assert torch.equal(before[name], parameter) != parameter.requires_grad, name
        assert parameter.requires_grad == (parameter_part(name) in parts and "original_module" not in name), name
