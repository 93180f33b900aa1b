"""Rows of grounding: batches, training with VegaTrainer and with Trainer, `ground`, and rows that are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from analysis.posed_clips import room_clip
from tiny_checkpoints import FROZEN, save_checkpoint
from vega3d import VegaForVisualGrounding
from vega3d.features.cache import FeatureCache, feature_identity
from vega3d.hub.assemble import add_grounding, assemble, describe
from vega3d.hub.load import load_task, load_vega
from vega3d.training import GroundingCollator, GroundingExample, VegaTrainer, choose_parts, train
from vega3d.training.trainer import lacking_of

CLIP = room_clip(4, 64, 64)
PLACE = CLIP.video().geometry
BOXES = np.array(
    [
        [0.0, 0, 0, 2, 2, 2],
        [
            1.0,
            1,
            0,
            1,
            1,
            1,
        ],
        [-1, 0, 0.5, 1, 2, 1],
    ]
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return add_grounding(FROZEN, tmp_path_factory.mktemp("grounding") / "model", position_code="sin3d")


@pytest.fixture
def loaded(checkpoint):
    return load_task(VegaForVisualGrounding, checkpoint, device="cpu", dtype="float32")


def rows(boxes=BOXES) -> list[GroundingExample]:
    words = {"the lamp on the desk": BOXES[:1], "a chair": BOXES[1:], "the whale": BOXES[:0]}
    return [
        GroundingExample(id=f"row{number}", expression=expression, video=CLIP.video(), boxes=boxes, targets=targets)
        for number, (expression, targets) in enumerate(words.items())
    ]


def settings(output, **arguments) -> TrainingArguments:
    options = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "prediction_loss_only": True,
    }
    return TrainingArguments(str(output), **{**options, **arguments})


# --- Batches -----------------------------------------------------------------------------------------------------


def test_a_batch_ends_each_prompt_with_ground_and_has_a_position_for_each_token(loaded):
    model, processor = loaded
    batch = GroundingCollator(processor, num_frames=4)(rows())

    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids[torch.arange(3), mask.sum(1) - 1].tolist() == [model.config.ground_token_id] * 3
    assert len(batch["visual_positions"]) == int(batch["video_grid_thw"].prod(-1).sum()) // 4
    assert [len(label) for label in batch["labels"]] == [1, 2, 0]
    assert all(torch.equal(boxes, torch.tensor(BOXES, dtype=torch.float32)) for boxes in batch["boxes"])
    assert model(**batch).loss.isfinite()


def test_anchors_are_in_a_batch_if_a_row_has_some(loaded):
    collator, with_anchors = GroundingCollator(loaded[1], num_frames=2), rows()
    assert "anchors" not in collator(with_anchors)
    with_anchors[1] = replace(with_anchors[1], anchors=BOXES[:1])
    none, some, neither = collator(with_anchors)["anchors"]
    assert none is None and neither is None and torch.equal(some, torch.tensor(BOXES[:1], dtype=torch.float32))
    with_anchors[1] = replace(with_anchors[1], anchors=[[0, 0, 0, -1, 1, 1]])
    with pytest.raises(ValueError, match=r"Row row1 cannot be trained on: its anchors"):
        collator(with_anchors)


@pytest.mark.parametrize(("of", "lacking"), [(slice(0, 3), None), (slice(1, 3), None), (slice(2, 3), "no target")])
def test_a_batch_without_any_target_uses_fewer_parameters(loaded, of, lacking):
    """The box that is found without proposals is learnt from targets alone."""
    model, processor = loaded
    batch = GroundingCollator(processor, num_frames=4)(rows()[of])
    model.requires_grad_(False)
    model.grounding_head.requires_grad_(True)

    model(**batch).loss.backward()

    assert lacking_of(batch) == lacking
    unused = [name for name, weight in model.grounding_head.named_parameters() if weight.grad is None]
    assert bool(unused) == (lacking is not None), unused


def test_a_mapping_with_arrays_is_the_same_row(loaded):
    arrays = {"depth": CLIP.depth, "intrinsics": CLIP.intrinsics, "world_from_camera": CLIP.world_from_camera}
    row = {"id": "row0", "scene": "a", "kind": "unique", "expression": "the lamp on the desk", "boxes": BOXES}
    row |= {"video": CLIP.frames, "targets": BOXES[:1], **arrays}
    collator = GroundingCollator(loaded[1], num_frames=2)

    ours, theirs = collator([row]), collator(rows()[:1])

    assert torch.equal(ours["visual_positions"], theirs["visual_positions"])
    assert torch.equal(ours["input_ids"], theirs["input_ids"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[0, 0, 0, 1, 1, -1]]}, "its boxes: box 0.*negative size"),
        ({"targets": [[0, 0, 0]]}, "its targets have the shape"),
        ({"targets": None}, "has no targets"),
        ({"expression": " "}, "must be a sentence"),
        ({"expression": "the <ground> lamp"}, "holds the special token <ground>"),
        ({"expression": "the <|video_pad|>"}, r"holds the special token <\|video_pad\|>"),
        ({"video": CLIP.frames}, "its video has no depth and cameras"),
        ({"video": [CLIP.video(), CLIP.video()]}, "its video is 2 videos, but a sentence is about one"),
        (
            {"video": CLIP.frames, "depth": CLIP.depth},
            "it has depth. Give all of depth, intrinsics, world_from_camera",
        ),
    ],
)
def test_rows_that_are_refused(loaded, changes, message):
    row = {"id": "row7", "expression": "a lamp", "video": CLIP.video(), "boxes": BOXES, "targets": BOXES[:1]}
    with pytest.raises(ValueError, match=f"^Row row7.*{message}"):
        GroundingCollator(loaded[1])([{**row, **changes}])


# --- Training ----------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_changes_no_loss(checkpoint, tmp_path):
    losses = []
    for checkpointing in (False, True):
        model, processor = load_task(VegaForVisualGrounding, checkpoint, device="cpu", dtype="float32")
        trainer = VegaTrainer(
            choose_parts(model, ["gate", "projector", "llm", "ground"]),
            settings(
                tmp_path / str(checkpointing),
                activation_checkpointing=checkpointing,
                activation_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
                eval_strategy="steps",
                eval_steps=2,
            ),
            rates={"gate": 1e-2, "projector": 1e-3, "llm": 1e-3, "ground": 1e-2},
            data_collator=GroundingCollator(processor, num_frames=4),
            train_dataset=rows() + rows(None),
            eval_dataset=rows() + rows(None),
        )
        trainer.train()
        log = trainer.state.log_history
        losses.append([entry[name] for entry in log for name in ("loss", "eval_loss") if name in entry])
        assert set(trainer.trained) == {"gate", "projector", "llm", "ground"}
        assert any("gate_mean" in entry for entry in log)

    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_adapters_and_heads_are_trained_with_cached_features_and_load_again(checkpoint, tmp_path):
    model, processor = load_task(VegaForVisualGrounding, checkpoint, device="cpu", dtype="float32")
    cache = FeatureCache(tmp_path / "cache")
    identity = feature_identity(model.model.generator)
    before = model.grounding_head.ranking.no_target.clone()
    wrapped = choose_parts(model, ["llm-lora", "ground"], lora_rank=4)

    trainer = VegaTrainer(
        wrapped,
        settings(tmp_path / "run", save_strategy="steps", save_steps=1),
        rates={"llm-lora": 1e-3, "ground": 1e-2},
        data_collator=GroundingCollator(processor, num_frames=4, cache=cache, identity=identity),
        train_dataset=rows(),
    )
    trainer.train()

    assert cache.stats()["entries"] == 1
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "model")
    loaded = VegaForVisualGrounding.from_pretrained(tmp_path / "model")
    assert not torch.equal(loaded.grounding_head.ranking.no_target, before)
    batch = GroundingCollator(processor, num_frames=4)(rows())
    for ours, theirs in zip(loaded(**batch).scores, merged.eval()(**batch).scores, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_plain_trainer_trains_it(loaded, tmp_path):
    model, processor = loaded
    collator = GroundingCollator(processor, num_frames=2)
    trainer = Trainer(
        model,
        settings(tmp_path, learning_rate=1e-3),
        data_collator=collator,
        train_dataset=rows(),
        eval_dataset=rows(),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != before


def test_settings_without_a_meaning_for_boxes(loaded, checkpoint, tmp_path):
    model, processor = loaded
    with pytest.raises(ValueError, match="labels of a model for grounding are boxes"):
        VegaTrainer(
            choose_parts(model, ["ground"]),
            settings(tmp_path, label_smoothing_factor=0.1),
            data_collator=GroundingCollator(processor),
            train_dataset=rows(),
        )


# --- Looking for one thing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxes", [BOXES, None, BOXES[:1], BOXES[:0]])
def test_ground_is_forward_for_a_sentence(loaded, boxes):
    model, processor = loaded
    arrays = {"depth": CLIP.depth, "intrinsics": CLIP.intrinsics, "world_from_camera": CLIP.world_from_camera}
    sentences = ["the lamp on the desk", "a chair"]

    found = model.ground(processor, CLIP.frames, sentences, boxes, num_frames=4, **arrays)

    output = model(**GroundingCollator(processor, num_frames=4)(rows(boxes)[:2]))
    assert model.ground(processor, CLIP.video(), sentences[0], boxes, num_frames=4) == found[0]
    for one, scores, best in zip(found, output.scores, output.boxes, strict=True):
        assert one.no_target_score == pytest.approx(scores[-1].item(), abs=1e-5)
        if boxes is not None and len(boxes) == 0:
            assert one.box is None and one.score is None and not one.is_found and one.boxes == []
            continue
        assert one.boxes == [one.box] and one.scores == [one.score]
        assert one.box == pytest.approx(best[0].tolist(), abs=1e-4)
        assert one.is_found == (one.score > one.no_target_score)
        if boxes is None:
            assert one.number is None and one.runner_up != one.box
        else:
            order = scores[: len(boxes)].argsort(descending=True)
            assert one.number == order[0]
            assert one.runner_up == (boxes[order[1]].tolist() if len(boxes) > 1 else None)


@pytest.mark.parametrize("boxes", [BOXES, None])
def test_ground_by_the_rule_of_several_boxes(loaded, boxes):
    model, processor = loaded
    sentences = ["the lamp on the desk", "a chair", "the whale"]

    found = model.ground(processor, CLIP.video(), sentences, boxes, "multi3drefer", num_frames=4)

    output = model(**GroundingCollator(processor, num_frames=4)(rows(boxes)), ranking="multi3drefer")
    for one, taken in zip(found, output.boxes, strict=True):
        assert one.boxes == [pytest.approx(box, abs=1e-4) for box in taken.tolist()]
        assert len(one.scores) == len(taken)


@pytest.mark.parametrize(
    ("sentence", "given", "message"),
    [
        ("", {}, "must be a sentence"),
        ([], {}, r"The expression is \[\], but must be a sentence, or a list"),
        (None, {}, "The expression is None"),
        (["a lamp", 3], {}, "The expression is 3"),
        ("a lamp", {"boxes": [[0, 0, 0, 1, 1, -1]]}, "negative size"),
        ("a lamp", {"boxes": [[0, 0, 99, 1, 1, 1]]}, "outside the scene"),
    ],
)
def test_ground_refuses(loaded, sentence, given, message):
    model, processor = loaded
    with pytest.raises(ValueError, match=message):
        model.ground(processor, CLIP.video(), sentence, **given)


def test_what_a_video_was_not_read_with_is_refused(loaded):
    model, processor = loaded
    seen = model.look(processor, CLIP.video(), num_frames=4)
    with pytest.raises(ValueError, match="num_frames, depth would have no effect on a video that `look` has read"):
        model.ground(processor, seen, "a lamp", num_frames=2, depth=CLIP.depth)
    assert model.ground(processor, seen, "a lamp", cache=None).box is not None


def test_ground_without_depth(loaded):
    model, processor = loaded
    with pytest.raises(ValueError, match=r"no visual_positions.*depth, intrinsics and world_from_camera"):
        model.ground(processor, CLIP.frames, "a lamp")


# --- Assembly ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vlm_type", ["qwen2_5_vl", "qwen3_vl"])
def test_an_assembled_model_knows_its_tokens_and_finds_boxes(tmp_path, vlm_type):
    folder = save_checkpoint(tmp_path, vlm_type, grounding=True, position_code="sin3d")
    model, processor = load_task(VegaForVisualGrounding, folder, device="cpu")

    tokens = processor.tokenizer.convert_tokens_to_ids(["<ground>", "<coord>"])
    found = model.ground(processor, CLIP.video(), ["a lamp", "the chair"], BOXES)

    assert tokens == [model.config.ground_token_id, model.config.coord_token_id]
    assert processor.tokenizer("a<ground>")["input_ids"][-1] == tokens[0]
    assert [one.number in range(3) for one in found] == [True, True]
    assert describe(folder)["parameters"]["grounding head"] > 0
    assert load_vega(folder, device="cpu")[0].config.coord_token_id == tokens[1]


@pytest.mark.parametrize(
    ("grounding", "settings", "message"),
    [
        (True, {"ground_token_id": 3}, "ground_token_id is the number of a token that grounding adds"),
        (True, {"coord_token_id": 3}, "coord_token_id is the number of a token that grounding adds"),
        (False, {"ground_token_id": 3}, "ground_token_id is the number of a token that grounding adds"),
        (False, {"grounding_head": "mlp"}, "grounding_head would have no effect on a model that finds no boxes"),
    ],
)
def test_settings_of_grounding_that_would_be_ignored(grounding, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        assemble("no/vlm", "no/generator", tmp_path / "out", grounding=grounding, **settings)


def test_a_run_of_answers_would_lose_the_heads(checkpoint, talk, tmp_path):
    from training_data import run_config

    with pytest.raises(ValueError, match="is a model for grounding"):
        train(run_config(talk, tmp_path / "run", model=str(checkpoint)), None, checkpoint)
