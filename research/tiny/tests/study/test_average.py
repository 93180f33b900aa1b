"""The mean of a run and the run that it began with: its weights, what it refuses, and that stages take it."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from toy_grounding import grounding_recipe

from research.tiny.study.average import main, mean_weights
from research.tiny.study.experiment import Experiment
from research.tiny.study.loop import TRAINED
from vega3d.files import read_json

EMBEDDINGS = "model.vlm.model.language_model.embed_tokens.weight"


def average(monkeypatch, *words) -> None:
    monkeypatch.setattr("sys.argv", ["average", *map(str, words)])
    main()


@pytest.fixture(scope="module")
def runs(toy_recipe, toy_output):
    """A run of the toy study, and one with boxes that went on with it."""
    start = Experiment(replace(toy_recipe, seeds=[0]), toy_output)
    start.train_arm("trained")
    run = Experiment(grounding_recipe(toy_recipe, name="after", start=toy_recipe.name), toy_output)
    run.train_arm("trained")
    return start, run


def test_a_mean_lies_between_and_keeps_what_is_new(runs, tmp_path, monkeypatch):
    start, run = (experiment.run_folder("trained", 0) for experiment in runs)
    average(monkeypatch, run, "--start", start, "--share", 0.25, "--output", tmp_path / "mean")
    before, after, mean = (load_file(folder / TRAINED) for folder in (start, run, tmp_path / "mean"))
    assert set(mean) == set(after) > set(before)
    for name, value in before.items():
        rows = len(value) if value.ndim else None
        told, new = mean[name][:rows] if rows else mean[name], after[name][:rows] if rows else after[name]
        torch.testing.assert_close(told, 0.75 * value + 0.25 * new)
    assert not torch.equal(before[EMBEDDINGS], after[EMBEDDINGS][: len(before[EMBEDDINGS])])  # trained at all
    for name in set(after) - set(before):
        assert torch.equal(mean[name], after[name])
    assert read_json(tmp_path / "mean" / "training.json")["mean_of"]["share"] == 0.25


def test_stages_take_a_mean_as_a_run(runs, tmp_path, monkeypatch):
    start, run = runs
    mean = Experiment(replace(run.recipe, name="mean"), run.output)
    words = ["--start", start.run_folder("trained", 0), "--share", 1.0, "--output", mean.run_folder("trained", 0)]
    average(monkeypatch, run.run_folder("trained", 0), *words)
    for experiment in (run, mean):
        experiment.ground_arm("trained", "validation")
    files = [experiment.result_file("validation", "trained", 0, "scanrefer true") for experiment in (run, mean)]
    one, other = (read_json(file)["questions"] for file in files)
    assert [question["answer"] for question in one] == [question["answer"] for question in other]


def test_shares_and_runs_that_do_not_fit_are_refused(runs, tmp_path, monkeypatch, capsys):
    start, run = (experiment.run_folder("trained", 0) for experiment in runs)
    cut = shutil.copytree(start, tmp_path / "cut")
    (cut / TRAINED).write_bytes((start / TRAINED).read_bytes()[:100])
    for words, message in (
        ((run, "--start", cut, "--share", 0.5), "trained.safetensors cannot be read"),
        ((run, "--start", start, "--share", 1.5), "--share is 1.5"),
        ((run, "--start", tmp_path, "--share", 0.5), "holds no finished training"),
        ((start, "--start", run, "--share", 0.5), "is a weight of the start alone"),
    ):
        with pytest.raises(SystemExit) as stopped:
            average(monkeypatch, *words, "--output", tmp_path / "out")
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="has shape"):
        mean_weights({"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 2)}, 0.5)
    with pytest.raises(ValueError, match="has shape"):
        mean_weights({"a": torch.zeros(3, 2)}, {"a": torch.zeros(3, 1)}, 0.5)


def test_weights_in_16_bits_are_widened():
    before, after = {"a": torch.tensor([[1.0]])}, {"a": torch.tensor([[1.0078125], [3.0]], dtype=torch.bfloat16)}
    mean = mean_weights(before, after, 0.25)["a"]
    assert mean.dtype == torch.float32
    assert mean.tolist() == [[1.001953125], [3.0]]  # exact, and no number of bfloat16
