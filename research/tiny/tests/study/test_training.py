"""Packs equal to the model itself; trainings that are killed, stopped and refused; tables and the checkpoint."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from research.tiny.study import export as export_module
from research.tiny.study import streams as streams_module
from research.tiny.study.answering import PackedAnswerer
from research.tiny.study.arms import tune, write_shuffled
from research.tiny.study.experiment import Experiment, load_arm
from research.tiny.study.export import check_sizes, export, own_scores
from research.tiny.study.fusion_watch import FusionWatch
from research.tiny.study.held_out import CONDITIONS, wording_table
from research.tiny.study.held_out import TRAINED as TRAINED_WORDINGS
from research.tiny.study.loop import HEAD, STATE, TRAINED, Deadline, Loop, OutOfTimeError, rate_at
from research.tiny.study.network import answer_loss, fused_tokens, packed_outputs, projected_tokens
from research.tiny.study.packs import pack
from research.tiny.study.recipe import ArmRecipe
from research.tiny.study.streams import (
    StreamRows,
    clip_format,
    generator_states,
    oracle_states,
    pixel_states,
    semantic_tokens,
)
from research.tiny.study.table import experiment_values, markdown, paired_values, read_results
from research.tiny.study.train import Reader, even_gate, match_scale, rows_of, train_arm
from tiny_models import randomise
from vega3d.hub.assemble import make_processor
from vega3d.hub.load import load_vega
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.training.collator import VegaCollator

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
MODES = ("frame", "views", "clip")
EMPTY = np.empty(0, np.int64)


class KilledError(Exception):
    """Stands for a kill: nothing after it is run."""


@pytest.fixture(scope="module")
def parts(toy_recipe, toy_output):
    """For a clip mode and family: reader, processor, streams, and the first two clips, with random weights."""
    experiment = Experiment(replace(toy_recipe, arms=dict(toy_recipe.arms)), toy_output)
    data, tools = experiment.data("train"), experiment.tools

    def build(**options):
        experiment.recipe.arms["tested"] = ArmRecipe(stream="tiny", options={"block": 1, **options})
        reader = experiment.reader("tested", 0).eval()
        model = reader.model
        for number, part in enumerate((model.model.vlm, model.model.projector, model.model.fusion)):
            randomise(part, number)  # fresh weights are so small that a wrong place or mask would hardly show
        frames = torch.from_numpy(data.frames(range(2)))
        clips = [VideoClip(clip, np.arange(len(clip)) / 4, "a clip", True) for clip in frames.numpy()]
        processor = make_processor(experiment.vlm, model.config.generator_config, num_frames=5)
        with torch.no_grad():
            semantic = StreamRows([semantic_tokens(model, frames, tools.clip)])
            hidden = StreamRows([generator_states(model.model.generator, frames, tools.clip)])
        return reader, processor, (semantic, hidden), clips

    return build


def asked_about(clips) -> list[SpatialQuestion]:
    words = (("Where is the bed?", "A"), ("How many chairs?", "12"), ("Which box?", "B"), ("How far is it?", "3.4"))
    return [
        SpatialQuestion(clips[number // 2], text, ("left", "right") if answer in "AB" else (), answer=answer)
        for number, (text, answer) in enumerate(words)
    ]


def packed_loss(reader, streams, asked, length=640):
    words, prefix = reader.tools.words, reader.tools.clip.prefix
    rows = list(zip(words.prompts([q.prompt for q in asked]), words.answers([q.answer for q in asked]), strict=True))
    packed = pack(prefix, [rows[:2], rows[2:]], length)
    tokens, _ = fused_tokens(reader.model, *rows_of(streams, [0, 1]), prefix)
    states = packed_outputs(reader.model, tokens, packed, prefix).last_hidden_state
    return answer_loss(reader.model, states, packed, prefix)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["wan", "vae"])
def test_loss_of_a_pack_is_the_models(parts, mode, family):
    reader, processor, streams, clips = parts(clip_mode=mode, family=family)
    asked = asked_about(clips)
    torch.testing.assert_close(
        packed_loss(reader, streams, asked), reader.model(**VegaCollator(processor, 5)(asked)).loss, **CLOSE
    )


@torch.no_grad()
def test_questions_of_a_pack_do_not_see_each_other(parts):
    reader, _, streams, _ = parts(clip_mode="clip")
    prefix, words = reader.tools.clip.prefix, reader.tools.words
    tokens, _ = fused_tokens(reader.model, *rows_of(streams, [0]), prefix)
    first, second, other = words.prompts(["Where is the bed?", "How many chairs?", "Is there a lamp in this room?"])
    states = []
    for before in (first, other):
        packed = pack(prefix, [[(before, EMPTY), (second, EMPTY)]], 256)
        end = len(prefix.ids) + len(before) + len(second)
        outputs = packed_outputs(reader.model, tokens, packed, prefix)
        states.append(outputs.last_hidden_state[0, end - len(second) : end])
    torch.testing.assert_close(states[0], states[1], **CLOSE)


@torch.no_grad()
def test_answers_are_those_of_the_model(parts, monkeypatch):
    reader, processor, streams, clips = parts(clip_mode="clip")
    model, tools = reader.model, reader.tools
    for name, value in model.named_parameters():
        if "language_model.layers" in name and value.ndim > 1:
            value.mul_(8)  # as it is begun, it says one thing whatever is asked
    prompts = ["How many chair(s) are in this room?", "Where is the bed, from the first frame?"]
    monkeypatch.setattr("research.tiny.study.answering.NEW_TOKENS", 8)
    packed = PackedAnswerer(
        model,
        tools.words,
        tools.clip.prefix,
        lambda some: fused_tokens(model, *rows_of(streams, some), tools.clip.prefix)[0],
        {},
    )
    found = packed.answer_prompts([(clip, prompt) for clip in (0, 1) for prompt in prompts])

    wanted = []
    for clip in clips:
        for prompt in prompts:
            content = [{"type": "video", "video": clip}, {"type": "text", "text": prompt}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                num_frames=5,
            )
            ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            wanted.append(tools.words.tokenizer.decode(ids, skip_special_tokens=True))
    assert [text for text, _ in found] == wanted and len(set(wanted)) > 1


@torch.no_grad()
def test_gates_begin_at_one_half_and_tokens_as_large_as_the_towers(parts):
    reader, _, streams, _ = parts(clip_mode="clip")
    model, prefix, rows = reader.model, reader.tools.clip.prefix, rows_of(streams, [0, 1])
    assert fused_tokens(model, *rows, prefix)[1].std() > 0.01
    even_gate(model)
    match_scale(model, rows, reader.tools)
    assert (fused_tokens(model, *rows, prefix)[1] == 0.5).all()
    sizes = [float(values.pow(2).mean().sqrt()) for values in (projected_tokens(model, rows[1], prefix), rows[0])]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


@torch.no_grad()
def test_a_shut_gate_is_warned_of(parts, caplog):
    reader, _, streams, _ = parts(clip_mode="clip")
    fusion, rows = reader.model.model.fusion, rows_of(streams, [0, 1])
    with FusionWatch(fusion) as watch:
        assert watch.values() == {}
        tokens, gate = fused_tokens(reader.model, *rows, reader.tools.clip.prefix)
        found = watch.values()
        fusion.gate.bias.fill_(30.0)
        fused_tokens(reader.model, *rows, reader.tools.clip.prefix)
        assert watch.values()["change"] < 1e-5
    assert found["gate"] == pytest.approx(float(gate.mean()), rel=1e-4)
    assert found["change"] == pytest.approx(float((tokens - rows[0]).norm() / rows[0].norm()), rel=1e-4)
    assert caplog.text.count("The gate is shut") == 1 and not fusion._forward_hooks


def test_streams_of_pixels_and_geometry_are_means_over_the_frames_of_a_token(toy):
    data, clip = toy.data("train"), toy.tools.clip
    frames, points = torch.from_numpy(data.frames([0])), torch.from_numpy(data.all_points([0]))
    pixels, oracle = pixel_states(frames, clip), oracle_states(points, clip)
    own = frames[0, :2, 16:32, 32:48].float().div(127.5).sub(1).permute(0, 3, 1, 2).reshape(2, -1).mean(0)
    torch.testing.assert_close(pixels[0, 0, 1, 2], own, **CLOSE)
    assert pixels.shape[:4] == oracle.shape[:4] == (1, *clip.prefix.grid)


def test_frames_that_would_be_resized_are_refused(toy):
    model = toy.reader("trained", 0).model
    processor = make_processor(toy.output / "vlm", model.config.generator_config)
    with pytest.raises(ValueError, match="resizes frames of 72 x 72 px"):
        clip_format(model, processor, toy.tools.words, 5, 72)


def copied(toy: Experiment, folder, **changes) -> Experiment:
    """The same study in a folder of its own."""
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


@pytest.mark.parametrize("stage", ["tower", "arm"])
def test_killed_training_continues_bit_for_bit(toy, tmp_path, monkeypatch, stage):
    def train(experiment: Experiment):
        if stage == "tower":
            experiment.tower()
            return experiment.output / "tower"
        experiment.train_arm("trained")
        return experiment.run_folder("trained", 1)

    whole, killed = copied(toy, tmp_path / "whole", seeds=[1]), copied(toy, tmp_path / "killed", seeds=[1])
    if stage == "tower":
        for experiment in (whole, killed):
            shutil.rmtree(experiment.output / "tower")
    wanted = train(whole)
    with monkeypatch.context() as patch:
        killed_after(patch, 3)
        with pytest.raises(KilledError):
            train(killed)
    found = train(Experiment(killed.recipe, killed.output))
    assert not (found / STATE).exists()
    for file in (TRAINED, HEAD):
        ours, theirs = load_file(found / file), load_file(wanted / file)
        assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for file in ("training.json", *(["points.json"] if stage == "arm" else [])):
        assert json.loads((found / file).read_text()) == json.loads((wanted / file).read_text())


def test_out_of_time_keeps_what_was_done(toy, tmp_path):
    experiment = copied(toy, tmp_path / "late", seeds=[0])
    for arm in (None, "trained"):
        experiment.fill("train", arm)
    experiment.tools.deadline.end = 0.0  # while it trains
    experiment.deadline = Deadline()
    with pytest.raises(OutOfTimeError, match="seed0 after 1 of 4 steps"):
        experiment.train_arm("trained")
    again = Experiment(experiment.recipe, experiment.output)
    again.train_arm("trained")
    load_arm(again.reader("trained", 0).model, again.run_folder("trained", 0))


def test_checkpoint_and_stream_of_another_recipe_are_refused(toy, tmp_path, monkeypatch):
    experiment = copied(toy, tmp_path / "other", seeds=[0])
    with monkeypatch.context() as patch:
        killed_after(patch, 3)
        with pytest.raises(KilledError):
            experiment.train_arm("trained")
    changed = replace(experiment.recipe, training=replace(experiment.recipe.training, weight_decay=0.3))
    with pytest.raises(ValueError, match=r"state\.safetensors is of another recipe: recipe was"):
        Experiment(changed, experiment.output).train_arm("trained")
    arms = {"trained": ArmRecipe(stream="tiny", options={"block": 0, "clip_mode": "clip"})}
    with pytest.raises(ValueError, match=r"identity\.json is of another recipe: options\.\w+ was"):
        Experiment(replace(experiment.recipe, arms=arms), experiment.output).train_arm("trained")


def test_what_is_not_finite_stops_with_its_step_and_rows(toy, tmp_path):
    experiment = copied(toy, tmp_path / "nan", seeds=[0])
    (path, _), *_ = experiment.fill("train", None).parts()
    save_file({"tokens": torch.full_like(load_file(path)["tokens"], torch.nan)}, path)
    with pytest.raises(ValueError, match=r"The losses are loss nan, answers nan.* in step 1, on the rows train_\d+"):
        experiment.train_arm("semantic")
    assert not (experiment.run_folder("semantic", 0) / STATE).exists()


def test_arms_share_weights_and_order_and_only_their_parts_move(toy):
    before = {}
    for arm in ("trained", "random"):
        model = toy.reader(arm, 1).model
        before[arm] = {name: value for name, value in model.state_dict().items() if ".tower." not in name}
    assert all(torch.equal(before["random"][name], value) for name, value in before["trained"].items())
    toy.train_arm("trained")
    moved = load_file(toy.run_folder("trained", 1) / TRAINED)
    assert not any(".visual." in name or ".generator." in name for name in moved)
    assert [name for name, value in moved.items() if torch.equal(before["trained"][name], value)] == []


def test_muon_takes_matrices_but_no_embeddings_and_leaves_r_its_rate(toy):
    model, stage = toy.reader("trained", 0).model, toy.recipe.training
    names = {id(value): name for name, value in model.named_parameters()}
    of_muon, others = set(), {}
    for group in tune(model, stage):
        for value in group["params"]:
            if group.get("muon"):
                assert value.ndim > 1 and group["lr"] == 1e-2
                of_muon.add(names[id(value)])
            else:
                others[names[id(value)]] = group["lr"]
    assert sum("q_proj.weight" in name for name in of_muon) == 3  # layers
    (scale,) = (name for name in others if name.endswith("residual_scale"))
    assert others.pop(scale) == stage.residual_scale_rate
    assert any("embed_tokens" in name for name in others) and set(others.values()) == {1e-3}


def test_each_loss_is_logged_and_weighted(toy, tmp_path):
    training = replace(toy.recipe.training, steps=1, weights={"points": 0.5, "text": 0.0})
    experiment = Experiment(replace(toy.recipe, training=training), toy.output)
    reader = experiment.reader("trained", 0)
    train, validation = (experiment.batches(split, "trained") for split in ("train", "validation"))
    (entry,) = train_arm(reader, train, validation, tmp_path / "run", {})
    sums = entry["answers"] + entry["places"] + entry["names"] + 0.5 * entry["points"]
    assert entry["text"] > 1 and entry["loss"] == pytest.approx(sums, rel=1e-5)
    assert entry["validation_answers"] != entry["answers"] and entry["validation_names"] > 1
    assert entry["gate"] == 0.5 and entry["generative_rms"] == pytest.approx(entry["semantic_rms"], rel=1e-3)


def test_shuffled_weights_keep_their_statistics(toy, tmp_path):
    source = toy.generator_folder(toy.recipe.arms["trained"])
    assert write_shuffled(source, tmp_path / "shuffled") == tmp_path / "shuffled"
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(source / name), load_file(tmp_path / "shuffled" / name)
    for key, value in before.items():
        assert torch.equal(value.flatten().sort().values, after[key].flatten().sort().values)
        assert value.numel() < 100 or value.std() == 0 or not torch.equal(value, after[key])


def test_rows_of_streams_are_found_in_their_parts(monkeypatch):
    monkeypatch.setattr(streams_module, "PART", 3)
    rows = torch.arange(8.0).view(8, 1)
    assert torch.equal(StreamRows(list(rows.split(3)))[[7, 0, 3, 3, 5]], rows[[7, 0, 3, 3, 5]])


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


def test_tables_of_all_arms_and_nothing_is_done_again(finished, monkeypatch):
    recipe, folder = finished.recipe, finished.own / "results" / "validation"
    results = read_results(folder, list(recipe.arms), recipe.seeds)
    wanted = {record.id for record in finished.data("validation").records()}
    assert {question["id"] for question in results["oracle"][1]["questions"]} == wanted
    alone = {"validation": finished.name_alone("validation")}
    against = ["semantic", "oracle"]
    values = experiment_values("toy", {"validation": results}, alone, recipe.seeds, against, {}, resamples=50)
    pairs = values["splits"]["validation"]["official"]["differences"]
    assert {"trained - semantic", "trained - oracle", "oracle - semantic"} <= set(pairs)
    assert "| macro |" in markdown(values)
    killed_after(monkeypatch, 0)
    again = Experiment(recipe, finished.output)
    again.tower()
    again.train_arm("trained")
    again.evaluate_arm("trained", "validation")


def test_wordings_are_asked_of_a_finished_run(finished):
    for condition in CONDITIONS:
        finished.evaluate_arm("trained", "validation", condition)
    found = {
        condition: read_results(finished.results_folder("validation", condition), ["trained"], finished.recipe.seeds)
        for condition in CONDITIONS
    }
    questions = {name: results["trained"][0]["questions"] for name, results in found.items()}
    wanted = [record.id for record in finished.data("validation").records()]
    assert all([question["id"] for question in asked] == wanted for asked in questions.values())
    assert len({tuple(question["prompt"] for question in asked) for asked in questions.values()}) == len(CONDITIONS)
    columns = {condition: results["trained"] for condition, results in found.items()}
    table = wording_table("validation", {"trained": paired_values(columns, [TRAINED_WORDINGS], "official", 50)})
    assert "| category | held-out wordings - trained wordings |" in table


def test_each_finished_run_says_how_far_off_its_points_are(finished, tmp_path):
    scenes = {row.scene for row in finished.data("validation").rows}
    errors = finished.point_errors(["trained"])["trained"]
    assert errors.shape == (2, len(scenes), 4) and (errors >= 0).all()
    with pytest.raises(ValueError, match=r"trained/seed0/points\.json, .* Train these"):
        Experiment(finished.recipe, tmp_path).point_errors(["trained"])


def test_exported_checkpoint_loads_with_the_trained_weights(finished, tmp_path):
    report = export(finished, "trained", tmp_path / "tiny", "vega3d-tiny", torch.float32)
    model, processor = load_vega(tmp_path / "tiny", device="cpu")
    trained = load_file(finished.run_folder("trained", report["seed"]) / TRAINED)
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in trained.items())
    assert processor.num_frames == finished.recipe.rooms.num_frames
    assert "Apache-2.0" in (tmp_path / "tiny" / "README.md").read_text()
    assert not list((tmp_path / "tiny").glob("*.py"))
    text, study = "Wie breit? 0.4 m: 窓 <x>", finished.tools.words.tokenizer
    assert processor.tokenizer(text).input_ids == study(text).input_ids
    assert (tmp_path / "tiny" / "tokenizer.json").read_text(encoding="utf-8").count("\n") == 1
    with pytest.raises(ValueError, match="The arm 'oracle' has no generator"):
        export(finished, "oracle", tmp_path / "oracle", "x")


def test_a_checkpoint_is_stored_in_sixteen_bits_and_loaded_in_float32(finished, tmp_path):
    export(finished, "trained", tmp_path / "tiny", "vega3d-tiny")
    assert torch.bfloat16 in {value.dtype for value in load_file(tmp_path / "tiny" / "model.safetensors").values()}
    assert load_vega(tmp_path / "tiny", device="cpu")[0].dtype == torch.float32


def test_scores_of_a_checkpoint_are_those_of_test_rooms_if_it_answered_some(finished):
    assert own_scores(finished, "trained", 0)[0] == "validation"
    answered = finished.result_file("test", "trained", 0)
    answered.parent.mkdir()
    shutil.copy(finished.result_file("validation", "trained", 0), answered)
    found, _, _ = own_scores(finished, "trained", 0)
    shutil.rmtree(answered.parent)
    assert found == "test"


def test_too_large_a_checkpoint_is_refused(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(bytes(100))
    monkeypatch.setattr(export_module, "LARGEST_FILE", 101)
    assert check_sizes(tmp_path) == {"weights": 100}
    monkeypatch.setattr(export_module, "LARGEST_FILE", 100)
    with pytest.raises(ValueError, match="weights has 100 bytes, but must be below 100"):
        check_sizes(tmp_path)


def test_a_reader_is_of_the_arms_width(toy):
    widths = {arm: toy.reader(arm, 0).model.config.generator_config.hidden_size for arm in ("pixels", "oracle")}
    assert widths == {"pixels": 768, "oracle": 38}
    assert isinstance(toy.reader("semantic", 0), Reader)


def test_streams_stay_on_the_device_until_another_arm_is_read(toy):
    semantic, hidden = toy.streams("validation", "trained")
    again = toy.streams("validation", "trained")
    assert again[0] is semantic and again[1] is hidden
    assert toy.streams("validation", "semantic") == (semantic, None)
    assert toy.streams("validation", "trained")[1] is not hidden  # it made room for the other arm
