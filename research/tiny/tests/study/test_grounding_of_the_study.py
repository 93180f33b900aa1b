"""Expressions in packs: what they mean; losses and scores equal to the model's own; trainings, tables, checkpoints."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.profiler import ProfilerActivity, profile
from toy_grounding import grounding_recipe

from research.tiny.study.experiment import Experiment
from research.tiny.study.export import export
from research.tiny.study.found_boxes import BoxAnswerer, box_table, box_values, grounding_records
from research.tiny.study.grounding import Wanted, ground_losses, read_tokens
from research.tiny.study.loop import RESULT, TRAINED
from research.tiny.study.network import packed_outputs
from research.tiny.study.packs import pack
from research.tiny.study.rooms import rendered
from research.tiny.study.table import read_results
from vega3d.files import read_json
from vega3d.hub.load import load_task
from vega3d.modeling.grounding_head_vega3d import right_boxes
from vega3d.modeling.grounding_prompts_vega3d import ground_text
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.modeling.relation_head_vega3d import ANCHORS
from vega3d.processing.clip_geometry_vega3d import ClipGeometry
from vega3d.processing.video_vega3d import VideoClip
from vega3d.rooms.dataset.files import FPS
from vega3d.rooms.scene import scene_seed
from vega3d.rooms.scene.furniture import furniture_for
from vega3d.rooms.scene.scene import sample_scene
from vega3d.rooms.scene.trajectory import sample_trajectories

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def grounded(toy_recipe, toy_output) -> Experiment:
    """A finished study that grounds."""
    experiment = Experiment(grounding_recipe(toy_recipe), toy_output)
    for arm in experiment.recipe.arms:
        experiment.train_arm(arm)
        experiment.evaluate_arm(arm, "validation")
        experiment.ground_arm(arm, "validation")
    return experiment


@pytest.fixture(scope="module")
def clip(grounded) -> VideoClip:
    """The first room of validation, with its depth and poses."""
    shards = grounded.shards("validation")
    scene = sample_scene(scene_seed("validation", 0), furniture_for("validation", None))
    (found,) = rendered(scene, sample_trajectories(scene, 1, shards.num_frames), shards)
    assert np.array_equal(found.rgb, grounded.data("validation").frames([0])[0])
    geometry = ClipGeometry(found.depth, found.intrinsics, found.world_from_camera)
    return VideoClip(found.rgb, np.arange(len(found.rgb)) / FPS, "a clip", True, geometry)


def test_expressions_are_asked_first_and_end_with_ground(grounded):
    batches, expressions = grounded.batches("train", "semantic"), grounded.expressions("train")
    clips, seen, _, _ = batches.make(0)
    wanted = expressions.of_step(0, 0, clips)
    ((rows, source),) = expressions.chosen(0, 0, clips)
    count = len(rows)
    assert count and wanted.asked.shape == (1, 3) and wanted.asked[0].sum() == count
    ground = grounded.reader("semantic", 0).model.config.ground_token_id
    assert (seen.ids[0, wanted.places[0, :count]] == ground).all() and (seen.ids == ground).sum() == count
    assert seen.segments[0, wanted.places[0, :count]].tolist() == list(range(1, count + 1))
    assert (seen.labels[0] >= 0).any()  # questions are asked behind them

    boxes, *_ = expressions.known(clips[0], source)
    assert torch.equal(wanted.boxes[0, : len(boxes)], boxes) and wanted.is_box[0].sum() == len(boxes)
    for place, row in enumerate(rows):
        targets = torch.tensor(expressions.data.expressions[clips[0]][row]["targets"]).reshape(-1, 6)
        assert torch.equal(wanted.right[0, place, : len(boxes)], right_boxes(boxes, targets))
        anchors = torch.tensor(expressions.data.expressions[clips[0]][row]["anchors"]).reshape(-1, 6)
        for number in range(ANCHORS):
            is_anchor = right_boxes(boxes, anchors[number : number + 1])
            assert torch.equal(wanted.anchors[0, place, number, : len(boxes)], is_anchor)
        assert wanted.has_target[0, place] == bool(len(targets))
        if len(targets):
            assert torch.equal(wanted.targets[0, place].unique(dim=0), targets.unique(dim=0))
    assert all(map(torch.equal, wanted, expressions.of_step(0, 0, clips)))


def test_more_boxes_than_the_recipe_says_are_refused(grounded, toy_output):
    few = replace(grounded.recipe, grounding=replace(grounded.recipe.grounding, boxes=2))
    with pytest.raises(ValueError, match=r"grounding\.boxes is 2, but a clip has (\d+) boxes\. Set it to \1"):
        Experiment(few, toy_output).batches("train", "semantic")


@pytest.mark.parametrize("arm", ["trained", "unplaced"])
def test_an_exported_checkpoint_has_the_scores_and_losses_of_the_study(grounded, clip, tmp_path, arm):
    data, tools, expressions = grounded.data("validation"), grounded.tools, grounded.expressions("validation")
    model, tokens_of, settings = grounded.finished(arm, 0, "validation", grounded.streams("validation", arm))
    rows, (boxes, *_) = list(range(len(data.expressions[0]))), expressions.known(0, "detected")
    answerer = BoxAnswerer(model, expressions, tools, tokens_of, settings, "multi3drefer", "detected")
    (ours,) = answerer.scores([0], [rows])
    asked = pack(tools.clip.prefix, [expressions.asked(0, rows)], 1024)
    wanted, tokens = expressions.wanted([0], [(rows, "detected")], len(rows) + 2), tokens_of([0])
    with torch.no_grad():
        shown = read_tokens(model, tokens, wanted)
        states = packed_outputs(model, shown, asked, tools.clip.prefix).last_hidden_state
        losses = ground_losses(model, states, tokens, wanted)

    export(grounded, arm, tmp_path / "model", "tiny", torch.float32)
    exported, processor = load_task(VegaForVisualGrounding, tmp_path / "model", device="cpu")
    texts = [ground_text(processor, row["expression"]) for row in data.expressions[0]]
    inputs = processor(
        text=texts, videos=[clip] * len(texts), num_frames=len(clip.frames), padding=True, return_tensors="pt"
    )
    positions = torch.from_numpy(data.positions([0])[0]).repeat(len(texts), 1)
    torch.testing.assert_close(inputs["visual_positions"], positions, rtol=0, atol=6e-4)
    inputs["visual_positions"] = positions  # to the millimetre, as in the study: some voxels are others
    labels, anchors = (
        [torch.tensor(row[name]).reshape(-1, 6) for row in data.expressions[0]] for name in ("targets", "anchors")
    )
    with torch.no_grad():
        theirs = exported(**inputs, boxes=[boxes] * len(texts), labels=labels, anchors=anchors, ranking="multi3drefer")
    for mine, scores in zip(ours, theirs.scores, strict=True):
        assert scores.std() > 1e-3
        torch.testing.assert_close(torch.cat([mine[: len(boxes)], mine[-1:]]), scores, **CLOSE)
    torch.testing.assert_close(sum(losses.values()), theirs.loss, **CLOSE)
    assert all(loss > 0.01 for loss in losses.values())

    free = BoxAnswerer(model, expressions, tools, tokens_of, settings, "scanrefer", "none")
    with torch.no_grad():
        read_off = torch.cat(exported(**inputs).boxes)
    torch.testing.assert_close(free.free_boxes([0], [rows])[0], read_off, rtol=1e-3, atol=1e-3)
    first = next(one for one in grounding_records(data, "scanrefer", "none") if one.scene == data.rows[0].scene)
    (found,) = free.answer([first])
    assert len(first.boxes) == 0
    np.testing.assert_allclose(found.boxes[0], read_off[free.places[first.id][1]], atol=1e-3)

    records = [one for one in grounding_records(data, "multi3drefer", "detected") if one.scene == data.rows[0].scene]
    for record, chosen in zip(records, answerer.answer(records), strict=True):
        wanted_boxes = theirs.boxes[answerer.places[record.id][1]]
        np.testing.assert_allclose(chosen.boxes, wanted_boxes, atol=1e-5)


READING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}  # for which a program waits for a GPU


def test_a_step_waits_for_nothing(grounded):
    """On the device "meta" what comes from elsewhere is an error; on a CPU no value is looked at.

    Some gradients (that of `torch.prod`) look at values, but not on "meta" or under a dispatch mode.
    """
    batches, model = grounded.batches("train", "trained"), copy.deepcopy(grounded.reader("trained", 0).model)
    clips, seen, _, _ = batches.make(0)
    wanted, shown = batches.expressions.of_step(0, 0, clips), batches.streams[0][clips].float()

    def gradients(device: str) -> tuple[torch.Tensor, ...]:
        placed = Wanted(*(values.to(device) for values in wanted))
        tokens = shown.to(device).requires_grad_()
        states = torch.zeros(*seen.ids.shape, tokens.shape[-1], device=device, requires_grad=True)
        with profile(activities=[ProfilerActivity.CPU]) as run:
            losses = ground_losses(model.to(device), states, tokens, placed)
            total = sum(losses.values()) + read_tokens(model, tokens, placed).sum()
            found = torch.autograd.grad(total, [*model.grounding_head.parameters(), tokens, states])
        assert not READING & {event.name for event in run.events()}
        return found

    assert all(value.device.type == device for device in ("cpu", "meta") for value in gradients(device))


def test_heads_and_language_model_learn_and_answers_go_on(grounded):
    before = dict(grounded.reader("trained", 0).model.named_parameters())
    moved = load_file(grounded.run_folder("trained", 0) / TRAINED)
    assert {"grounding_head.ranking.no_target", "model.fusion.residual_scale"} <= set(moved)
    assert [name for name, value in moved.items() if torch.equal(before[name], value)] == []
    log = read_json(grounded.run_folder("trained", 0) / RESULT)["log"][-1]
    assert {"answers", "points", "ground", "ground_tokens", "ground_box", "validation_ground"} <= set(log)
    assert grounded.result_file("validation", "trained", 0).is_file()


def test_a_finished_study_is_gone_on_with(toy, grounded, tmp_path):
    recipe = grounding_recipe(toy.recipe, name="after", start="toy")
    missing = Experiment(recipe, tmp_path)
    with pytest.raises(ValueError, match=r"toy/arms/trained/seed0 holds no finished training\. Train this arm"):
        missing.train_arm("unplaced")
    Experiment(replace(toy.recipe, seeds=[0]), toy.output).train_arm("trained")
    start = Experiment(recipe, toy.output)
    folder = start.start_folder("unplaced", 0)
    assert folder == toy.run_folder("trained", 0)
    weights, known = dict(start.reader("unplaced", 0, folder).model.named_parameters()), load_file(folder / TRAINED)
    for name, value in known.items():
        rows = weights[name][: len(value)] if "embed_tokens" in name else weights[name]  # it has two more
        assert torch.equal(rows, value)
    begun = [study.identity("unplaced", 0)["grounding"]["start"] for study in (start, grounded)]
    assert begun[0] and begun[1] is None
    assert "grounding" not in toy.identity("trained", 0)


def test_tables_have_arms_ceiling_and_chance(grounded):
    arms = list(grounded.recipe.arms)
    values = {}
    for source in ("true", "detected"):
        results = read_results(grounded.results_folder("validation", f"scanrefer {source}"), arms, [0])
        baselines = grounded.grounding_baselines("validation", "scanrefer", source)
        values[f"scanrefer {source}"] = box_values(results, baselines, ["semantic"], "scanrefer", 50)
    exact = values["scanrefer true"]["acc@0.5"]
    overall = {column: scores["overall"]["score"] for column, scores in exact["scores"].items()}
    assert overall["oracle box"] == 1.0 > overall["chance box"]
    wanted = {"trained - semantic", "unplaced - semantic", *(f"{arm} - blind box" for arm in arms)}
    assert set(exact["differences"]) == wanted
    free = read_results(grounded.results_folder("validation", "scanrefer none"), arms, [0])
    assert grounded.grounding_baselines("validation", "scanrefer", "none") == {}
    values["scanrefer none"] = box_values(free, {}, ["semantic"], "scanrefer", 50)
    assert set(values["scanrefer none"]["acc@0.25"]["differences"]) == {"trained - semantic", "unplaced - semantic"}
    nothing = grounded.grounding_baselines("validation", "multi3drefer", "true")["no"]
    kinds = [question["question_type"] for question in nothing["questions"]]
    share = sum(kind.startswith("zt") for kind in kinds) / len(kinds)
    assert nothing["summary"]["f1@0.5"]["figures"]["overall"]["score"] == pytest.approx(share) and 0 < share < 1
    table = box_table("validation", values)
    assert "### scanrefer detected boxes, acc@0.25: 2 scenes" in table and "| overall |" in table
    assert "| category | semantic | trained | unplaced | chance box | blind box | oracle box |" in table
