"""Trainings that are killed, refused, stopped; results in the evaluation's own format; the exported checkpoint."""

import json
import shutil
import tarfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from research.tiny.study import export as export_module
from research.tiny.study import kept as kept_module
from research.tiny.study.arms import tune
from research.tiny.study.export import check_sizes, export, untrained
from research.tiny.study.kept import KeptRows
from research.tiny.study.loop import HEAD, STATE, TRAINED, Deadline, Loop, OutOfTimeError, rate_at
from research.tiny.study.map_rows import MAP_KINDS
from research.tiny.study.packs import IGNORED
from research.tiny.study.recipe import ArmRecipe
from research.tiny.study.runner import Experiment, load_arm
from research.tiny.study.stages import PackMaker, make_heads, train_stage1
from research.tiny.study.table import archive, experiment_values, markdown, read_results, write_tables
from vega3d.evaluation.report import compare_files, read_result
from vega3d.hub.load import load_vega


class KilledError(Exception):
    """Stands for a kill: nothing after it is run."""


def copied(toy: Experiment, folder, **changes) -> Experiment:
    """The same experiment in a folder of its own."""
    shutil.copytree(toy.output, folder)
    return Experiment(replace(toy.recipe, **changes), folder, deadline=toy.deadline)


def killed_after(monkeypatch, steps: int):
    run = Loop.run

    def killed_run(self, compute):
        def compute_or_die(step):
            if step == steps:
                raise KilledError
            return compute(step)

        return run(self, compute_or_die)

    monkeypatch.setattr(Loop, "run", killed_run)


@pytest.mark.parametrize("stage", ["stage0", "base", "stage1"])
def test_killed_training_continues_bit_for_bit(toy, tmp_path, monkeypatch, stage):
    def train(experiment: Experiment):
        if stage == "stage0":
            experiment.stage0()
            return experiment.output / "stage0"
        if stage == "base":
            experiment.base()
            return experiment.own / "base"
        experiment.train_arm("trained")
        return experiment.run_folder("trained", 1)

    whole, killed = copied(toy, tmp_path / "whole", seeds=[1]), copied(toy, tmp_path / "killed", seeds=[1])
    if stage != "stage1":
        for experiment in (whole, killed):
            shutil.rmtree(experiment.output / "stage0" if stage == "stage0" else experiment.own / "base")
    wanted = train(whole)
    with monkeypatch.context() as patch:
        killed_after(patch, 5)
        with pytest.raises(KilledError):
            train(killed)
    found = train(Experiment(killed.recipe, killed.output))
    assert not (found / STATE).exists()
    for file in (TRAINED, HEAD):
        ours, theirs = load_file(found / file), load_file(wanted / file)
        assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for file in ("training.json", *(["points.json"] if stage != "stage0" else [])):
        assert json.loads((found / file).read_text()) == json.loads((wanted / file).read_text())


def test_out_of_time_keeps_what_was_done(toy, tmp_path):
    experiment = copied(toy, tmp_path / "late", seeds=[0])
    experiment.fill_streams("train", None)
    experiment.fill_streams("train", "trained")
    experiment.deadline = Deadline(1e9)
    tools = experiment.tools()
    tools.deadline.end = 0.0  # while it trains
    experiment.deadline = Deadline()

    with pytest.raises(OutOfTimeError, match="seed0 after 1 of 6 steps"):
        experiment.train_arm("trained")

    again = Experiment(experiment.recipe, experiment.output)
    again.train_arm("trained")
    load_arm(again.model_of("trained", 0), again.run_folder("trained", 0))


def test_checkpoint_of_another_recipe_is_refused(toy, tmp_path, monkeypatch):
    experiment = copied(toy, tmp_path / "other", seeds=[0])
    killed_after(monkeypatch, 3)
    with pytest.raises(KilledError):
        experiment.train_arm("trained")
    changed = replace(experiment.recipe, stage1=replace(experiment.recipe.stage1, weight_decay=0.3))
    with pytest.raises(ValueError, match=r"state\.safetensors is of another recipe: recipe was"):
        Experiment(changed, experiment.output).train_arm("trained")
    arms = {"trained": ArmRecipe("tiny", {"block": 0, "clip_mode": "clip"})}
    with pytest.raises(ValueError, match=r"identity\.json is of another recipe: options\.\w+ was"):
        Experiment(replace(experiment.recipe, arms=arms), experiment.output).train_arm("trained")


def test_what_is_not_finite_stops_with_its_step_and_rows(toy, tmp_path):
    experiment = copied(toy, tmp_path / "nan", seeds=[0])
    kept = experiment.fill_streams("train", None)
    (path, _), *_ = kept.parts()
    from safetensors.torch import save_file

    save_file({"tokens": torch.full_like(load_file(path)["tokens"], torch.nan)}, path)
    with pytest.raises(ValueError, match=r"The loss is nan .* in step 1, on the rows train_\d+_00_1\d+"):
        experiment.train_arm("semantic")
    assert not (experiment.run_folder("semantic", 0) / STATE).exists()


def test_arms_share_weights_and_order_and_only_their_parts_move(toy):
    before = {}
    for arm in ("trained", "random"):
        model = toy.model_of(arm, 1)
        before[arm] = {name: value for name, value in model.state_dict().items() if ".tower." not in name}
    assert all(torch.equal(before["random"][name], value) for name, value in before["trained"].items())
    toy.train_arm("trained")
    moved = load_file(toy.run_folder("trained", 1) / TRAINED)
    assert not any(".visual." in name or ".generator." in name for name in moved)
    unmoved = [name for name, value in moved.items() if torch.equal(before["trained"][name], value)]
    assert unmoved == []


def test_muon_takes_matrices_but_no_embeddings_and_leaves_r_its_rate(toy):
    model = toy.model_of("trained", 0)
    stage = replace(toy.recipe.stage1, optimizer="muon", learning_rates={"llm": 0.02, "gate": 0.02, "projector": 0.02})
    names = {id(value): name for name, value in model.named_parameters()}
    of_muon, others = set(), {}

    for group in tune(model, 1, stage):
        for value in group["params"]:
            if group.get("muon"):
                assert value.ndim > 1 and group["lr"] == 0.02
                of_muon.add(names[id(value)])
            else:
                others[names[id(value)]] = group["lr"]

    assert sum("q_proj.weight" in name for name in of_muon) == 2  # layers

    (scale,) = (name for name in others if name.endswith("residual_scale"))
    assert others.pop(scale) == stage.residual_scale_rate
    assert any("embed_tokens" in name for name in others) and set(others.values()) == {0.02 * 0.1}


def test_rows_are_found_in_their_files(monkeypatch):
    monkeypatch.setattr(kept_module, "PART", 3)
    rows = torch.arange(8.0).view(8, 1)
    assert torch.equal(KeptRows(list(rows.split(3)))[[7, 0, 3, 3, 5]], rows[[7, 0, 3, 3, 5]])


def test_rates_rise_then_fall():
    rates = [rate_at(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1) and rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)


@pytest.fixture(scope="module")
def finished(toy_recipe, toy_output) -> Experiment:
    experiment = Experiment(toy_recipe, toy_output)
    for arm in toy_recipe.arms:
        experiment.train_arm(arm)
        experiment.evaluate_arm(arm, "validation")
    return experiment


def test_tables_of_all_arms(finished, tmp_path):
    recipe, folder = finished.recipe, finished.own / "results" / "validation"
    results = read_results(folder, list(recipe.arms), recipe.seeds)

    assert {question["id"] for question in results["random"][1]["questions"]} == {
        row.id for row in finished.data("validation", 1).rows
    }

    values = experiment_values("toy", {"validation": results}, recipe.seeds, ["semantic", "random"], resamples=50)
    pairs = values["splits"]["validation"]["official"]["differences"]
    assert sorted(pairs) == ["random - semantic", "trained - random", "trained - semantic"]

    write_tables(tmp_path, values)
    text = markdown(values)
    assert (tmp_path / "results.md").read_text() == text and "| macro |" in text

    compare_files([folder / "semantic-seed0.json"], [folder / "trained-seed0.json"], resamples=10)
    shutil.copytree(finished.own / "results", tmp_path / "results")
    first = archive(tmp_path).read_bytes()
    with tarfile.open(tmp_path / "results.tar.xz") as tar:
        assert len(tar.getnames()) == len(recipe.arms) * len(recipe.seeds)

    for file in (tmp_path / "results").rglob("*.json"):
        file.chmod(0o600)

    assert archive(tmp_path).read_bytes() == first


def test_a_finished_experiment_is_not_done_again(finished, monkeypatch):
    killed_after(monkeypatch, 0)
    again = Experiment(finished.recipe, finished.output)
    again.stage0()
    again.train_arm("trained")
    again.evaluate_arm("trained", "validation")


def test_another_recipe_shares_rooms_and_stage0_in_one_folder(finished, monkeypatch):
    recipe = finished.recipe
    rooms, kinds = replace(recipe.rooms, test=5), ["room_size_estimation", "object_rel_distance"]
    other = Experiment(replace(recipe, name="gate", rooms=rooms, categories=kinds, seeds=[0]), finished.output)
    with monkeypatch.context() as patch:
        killed_after(patch, 0)
        other.stage0()
    other.train_arm("trained")
    assert not (finished.own / "arms" / "trained" / "seed2").exists()
    assert {row.kind for row in other.data("train", 1).rows} <= {*kinds, *MAP_KINDS}
    assert (other.own / "arms" / "trained" / "seed0" / TRAINED).is_file() and other.own != finished.own


def test_exported_checkpoint_loads_and_answers_as_measured(finished, tmp_path):
    told = export(finished, "trained", tmp_path / "tiny", "vega3d-tiny", torch.float32)
    model, processor = load_vega(tmp_path / "tiny", device="cpu")
    trained = load_file(finished.run_folder("trained", told["seed"]) / TRAINED)
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in trained.items())
    assert processor.num_frames == finished.recipe.rooms.num_frames
    assert "Apache-2.0" in (tmp_path / "tiny" / "README.md").read_text()
    assert not list((tmp_path / "tiny").glob("*.py"))
    result = read_result(finished.result_file("validation", "trained", told["seed"]))
    assert result["settings"]["seed"] == told["seed"]


def test_stage_1_begins_with_even_gates_and_logs_them(toy, tmp_path):
    model, tools = toy.model_of("trained", 0), toy.tools()
    with torch.no_grad():
        model.model.fusion.gate.bias.fill_(9.0)
    make = PackMaker(tools, toy.data("train", 1), replace(toy.recipe.stage1, steps=1), 0)
    streams = toy.streams("train", "trained")
    (entry,) = train_stage1(model, make_heads(model, tools, 0), make, streams, tools, tmp_path / "run", {})
    assert entry["gate"] == 0.5
    assert entry["generative_rms"] == pytest.approx(entry["semantic_rms"], rel=1e-3)
    assert not model.model.fusion._forward_hooks


def test_the_card_names_what_was_not_trained(finished):
    assert untrained(finished.recipe) == ""
    left_out = [name for name in finished.recipe.categories if name not in ("route_planning", "object_counting")]
    told = untrained(replace(finished.recipe, categories=left_out))
    assert "`object_counting`" in told and "`route_planning`" in told and "`object_rel_distance`" not in told


def test_export_in_bfloat16_halves_the_weights(finished, tmp_path):
    sizes = [
        export(finished, "trained", tmp_path / str(dtype), "x", dtype)["files"]["model.safetensors"]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert sizes[1] < 0.6 * sizes[0]
    load_vega(tmp_path / "torch.bfloat16", device="cpu")


def test_too_large_a_checkpoint_is_refused(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(bytes(100))
    monkeypatch.setattr(export_module, "LARGEST_FILE", 101)
    assert check_sizes(tmp_path) == {"weights": 100}
    monkeypatch.setattr(export_module, "LARGEST_FILE", 100)
    with pytest.raises(ValueError, match="weights has 100 bytes, but must be below 100"):
        check_sizes(tmp_path)


def test_labels_are_the_answers(toy):
    from research.tiny.study.stages import PackMaker

    data = toy.data("train", 1)
    make = PackMaker(toy.tools(), data, toy.recipe.stage1, 0)
    _, batch, ids = make(0)
    answers = {row.id: row.answer for row in data.rows}
    text = toy.tools().words.tokenizer.decode(batch.labels[batch.labels != IGNORED])
    assert text == "".join(f"{answers[name]}<|im_end|>" for name in ids)


def test_arms_begin_with_the_base_or_without_one_after_stage_0(toy):
    base = load_file(toy.own / "base" / "model" / "model.safetensors")
    stage0 = load_file(toy.output / "stage0" / "model" / "model.safetensors")

    moved = {name for name, value in base.items() if not torch.equal(stage0[name], value)}

    assert moved and not any("visual" in name for name in moved)
    assert set(json.loads((toy.own / "base" / "validation.json").read_text())) == set(MAP_KINDS)

    without = Experiment(replace(toy.recipe, base=None), toy.output)
    for experiment, wanted in ((toy, base), (without, stage0)):
        weights = dict(experiment.model_of("semantic", 0).model.vlm.named_parameters())
        name = next(name for name in wanted if name.endswith("layers.0.mlp.up_proj.weight"))
        (found,) = (
            value for key, value in weights.items() if key.endswith("language_model.layers.0.mlp.up_proj.weight")
        )
        assert torch.equal(found, wanted[name])
