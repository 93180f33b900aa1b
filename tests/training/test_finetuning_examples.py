"""The example scripts, as they stand."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from training_data import RATES, write_jsonl
from transformers import AutoModel

from tiny_checkpoints import FROZEN
from vega3d.training import DataSource, load_examples

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch, script: str, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def fall(losses: list[float]) -> float:
    """From the mean of the first five to that of the last five, as a share of the former."""
    return 1 - sum(losses[-5:]) / sum(losses[:5])


def finetune(monkeypatch, data, output: Path, tune: str, batch_size: int, steps: int = 30) -> list[float]:
    rates = [word for part in tune.split(",") for word in ("--lr", f"{part}={RATES[part]}")]
    where = ["--data", data, "--output", output, "--num-frames", 2, "--batch-size", batch_size]
    run(monkeypatch, "finetune.py", *where, "--tune", tune, "--steps", steps, *rates)
    losses = json.loads((output / "losses.json").read_text())
    assert len(losses) == steps
    AutoModel.from_pretrained(output)
    return losses


@pytest.fixture
def few_rows(rooms, tmp_path) -> tuple[Path, int]:
    """A file of rows and their number: each step sees all of them, so that their choice is no noise."""
    examples = load_examples([DataSource(str(rooms))]).examples
    rows = [
        {"messages": example.messages, "videos": [str(path) for path in example.media_files()]}
        for example in examples[::24]
    ]
    return write_jsonl(tmp_path / "rows.jsonl", rows), len(rows)


@pytest.mark.parametrize(
    ("tune", "least"),
    [("gate", 0.03), ("gate,projector", 0.6), ("gate,projector,llm-lora", 0.9), ("gate,projector,llm,vision", 0.9)],
)
def test_loss_falls_on_a_few_rows_in_30_steps(few_rows, tmp_path, monkeypatch, tune, least):
    data, number = few_rows
    assert fall(finetune(monkeypatch, data, tmp_path / "out", tune, number)) > least


def test_rooms_are_taken_as_they_are(rooms, tmp_path, monkeypatch):
    finetune(monkeypatch, rooms, tmp_path / "out", "gate", 1, steps=3)


def test_trl(rooms, tmp_path, monkeypatch, capsys):
    where = ["--model", FROZEN, "--data", rooms, "--output", tmp_path / "out"]
    run(monkeypatch, "finetune_trl.py", *where, "--num-frames", 2, "--steps", 3)
    first, last = (float(word) for word in capsys.readouterr().out.split("loss: ")[-1].split(" -> "))
    assert 0 < first < 10 and 0 < last < 10
    AutoModel.from_pretrained(tmp_path / "out")
