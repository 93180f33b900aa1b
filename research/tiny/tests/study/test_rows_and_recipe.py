"""Rows of both stages, the order that they come in, and recipes that are refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml

from research.tiny.study.data import CLOSE_UP_FRAMES, Batches, SplitData, enlarged
from research.tiny.study.loop import Deadline, OutOfTimeError
from research.tiny.study.recipe import read_recipe
from research.tiny.study.rooms import RoomShards, make_rooms
from research.tiny.study.runner import Experiment
from research.tiny.study.stage0_rows import CLOSE_UPS, KINDS
from research.tiny.study.vlm import VLMRecipe, build_tokenizer, build_vlm
from vega3d.evaluation.report import compare, seed_intervals
from vega3d.rooms import furniture_for
from vega3d.rooms.scene.classes import CLASSES

SPATIAL = ("left", "right", "behind", "meters", "centimeters", "closest", "how many", "how far", "size", " m ", " cm")


def test_stage0_tells_nothing_of_space(toy):
    rows = [*toy.data("train", 0).rows, *toy.close_ups("train").rows]
    assert {row.kind for row in rows} <= set(KINDS) and len({row.kind for row in rows}) >= 4
    for row in rows:
        words = f"{row.question} {row.answer} ".lower()
        assert not any(word in words for word in SPATIAL), words
    yes = Counter(row.answer for row in rows if row.kind == "presence")
    assert yes["yes"] == yes["no"] > 0


def test_marks_change_their_frame_alone(toy):
    data = toy.data("train", 0)
    number = next(number for number, visual in enumerate(data.visuals) if visual.marks)
    plain = next(n for n, v in enumerate(data.visuals) if not v.marks and v.clip == data.visuals[number].clip)
    marked, clean = data.frames_of([number, plain])
    changed = [bool((a != b).any()) for a, b in zip(marked, clean, strict=True)]
    assert changed == [frame == data.visuals[number].frame for frame in range(len(changed))]


def test_a_close_up_is_one_object_and_nothing_else_is_asked_about_it(toy):
    assert not any(visual.close_up for visual in toy.data("train", 0).visuals)

    data = toy.close_ups("train")
    numbers = [number for number, visual in enumerate(data.visuals) if visual.close_up]

    assert 2 <= len(numbers) <= CLOSE_UPS * len(data.places)
    for number, frames in zip(numbers, data.frames_of(numbers), strict=True):
        visual = data.visuals[number]
        (row,) = (data.rows[row] for row in data.asked[number])
        assert row.kind == "close_up" and row.visual == number and row.answer in CLASSES
        assert len(frames) == CLOSE_UP_FRAMES and (frames == frames[0]).all()
        shard, place = data.places[visual.clip]
        assert np.array_equal(frames[0], enlarged(data.frames[shard][place][visual.frame], visual.close_up))


def test_what_is_enlarged_lies_around_the_box_and_inside_the_frame():
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[40:60, 30:70] = 255
    large = enlarged(frame, (30, 40, 70, 60))
    assert large.shape == frame.shape and large[48, 48].min() == 255 and large[2, 48].max() == 0
    share = (large > 127).mean()
    assert share == pytest.approx(40 * 20 / (1.2 * 40) ** 2, rel=0.1)
    corner = enlarged(frame, (0, 0, 4, 4))  # no smaller than 24 px, cut at the edge
    assert np.array_equal(corner, enlarged(frame, (0, 0, 20, 20)))


def test_marked_rows_are_asked_on_their_own_visual_alone(toy):
    data = toy.data("train", 0)
    for number, rows in enumerate(data.asked):
        clip = data.visuals[number].clip
        assert all(data.visuals[data.rows[row].visual].clip == clip for row in rows)
        assert all(data.rows[row].visual == number for row in rows if data.rows[row].is_marked)
    assert {row for rows in data.asked for row in rows} == set(range(len(data.rows)))


def test_every_visual_comes_once_an_epoch_and_kinds_in_turn(toy):
    data = toy.data("train", 1)
    usable = [number for number, rows in enumerate(data.asked) if rows]
    batches = Batches(data, 3, 1, 5)

    epochs = [[batches.visuals(step)[0] for step in range(e * len(usable), (e + 1) * len(usable))] for e in range(3)]

    assert all(sorted(epoch) == usable for epoch in epochs)

    chosen = [data.rows[row] for row in batches.rows(0)[0]]
    kinds = Counter(row.kind for row in chosen if not row.is_marked)
    assert len(chosen) <= 5 and max(kinds.values()) == 1
    assert Batches(data, 3, 1, 5).rows(2) == batches.rows(2)

    others = [Batches(data, seed, 2, 5).rows(0) for seed in range(4)]
    assert any(rows != others[0] for rows in others)


def test_rows_about_marks_come_first(toy):
    data = toy.data("train", 0)
    batches = Batches(data, 0, len(data.visuals), 3)
    for visual, rows in zip(batches.visuals(0), batches.rows(0), strict=True):
        about_marks = sum(data.rows[row].is_marked for row in data.asked[visual])
        found = [data.rows[row].is_marked for row in rows]
        assert found == [place < about_marks for place in range(len(found))]


def test_categories_leave_out_the_rest(toy):
    data = SplitData(toy.shards("train"), 1, ["room_size_estimation"])
    assert {row.kind for row in data.rows} == {"room_size_estimation"}
    with pytest.raises(ValueError, match="has no row of stage 1"):
        SplitData(toy.shards("train"), 1, ["nothing"])


def test_a_shard_of_other_settings_is_refused(toy):
    shards = toy.shards("train")
    other = RoomShards(**{**shards.__dict__, "questions_per_type": 3})
    with pytest.raises(ValueError, match=r"was made with other settings: questions_per_type was \d and is 3\. Choose"):
        SplitData(other, 1)
    frames = np.load(shards.files(0)[0], mmap_mode="r")
    assert frames.dtype == np.uint8 and frames.shape[1:] == (5, 64, 64, 3)


def test_words_are_tokens():
    tokenizer = build_tokenizer(1024)
    for word in {part for name in CLASSES for part in name.split()}:
        assert len(tokenizer.encode(f" {word}")) == 1, word
    assert [len(tokenizer.encode(letter)) for letter in "ABCD"] == [1] * 4
    assert tokenizer.decode(tokenizer.encode("12.3 naïve?\nA")) == "12.3 naïve?\nA"
    assert len(tokenizer.encode("12.3")) == 4


def test_the_vlm_is_small_and_follows_its_seed():
    tokenizer = build_tokenizer(1024)
    models = [build_vlm(VLMRecipe(seed=seed), tokenizer) for seed in (0, 0, 1)]
    weights = [model.model.language_model.layers[0].mlp.up_proj.weight for model in models]
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    assert 2.5e6 < sum(value.numel() for value in models[0].parameters()) < 3.5e6


BASE = {
    "name": "x",
    "rooms": {"train": 1, "validation": 1, "test": 1},
    "arms": {"semantic": {"fusion": "none"}},
    "stage0": {"steps": 1},
    "stage1": {"steps": 1},
}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"colour": 1}, r"recipe.yaml: There is no setting 'colour'. Settings are name"),
        (
            {"rooms": {"train": 1, "validation": 1, "test": 1, "wlaks": 2}},
            "There is no setting 'rooms.wlaks'. Did you mean 'rooms.walks'",
        ),
        ({"seeds": [0, 0]}, "each seed once"),
        ({"seeds": "0"}, "seeds is '0', but must be a list"),
        ({"arms": {"a": {"generator": "g"}}}, "names 'g', but generators are"),
        ({"arms": {"a": {}}}, "an arm without a generator has the fusion none"),
        ({"categories": ["size"]}, "give some of"),
        ({"precision": "half"}, r"precision is 'half', but must be one of \['bfloat16', 'float32'\]"),
        ({"stage0": {"steps": "many"}}, "stage0.steps is 'many', but must be a whole number"),
        ({"stage0": {"steps": True}}, "steps is True, but must be a whole number"),
        ({"stage0": {}}, "does not say stage0.steps"),
        ({"stage0": {"steps": 1, "close_ups_per_step": -1}}, "close_ups_per_step is -1, but must be at least 0"),
        ({"base": {"steps": 0}}, "steps is 0, but must be at least 1"),
    ],
)
def test_bad_recipes_are_named(tmp_path, changes, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**BASE, **changes}))
    with pytest.raises(ValueError, match=message):
        read_recipe(file)


def test_rates_in_scientific_notation_are_numbers(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(BASE) + "checkpoint_seconds: 1e3\n")
    assert read_recipe(file).checkpoint_seconds == 1000.0


def result_of(scores: dict[str, float], noise: int) -> dict:
    questions = [
        {
            "id": f"{scene}-{number}",
            "dataset": "rooms",
            "scene": scene,
            "question_type": "object_counting",
            "question": "?",
            "options": [],
            "ground_truth": "1",
            "frame": None,
            "marks": [],
            "scores": {"official": score},
        }
        for scene, score in scores.items()
        for number in range(2)
    ]
    return {"questions": questions, "noise": noise}


def test_paired_seeds_cancel_what_seeds_share():
    """Seeds differ by 40 points and the arms by exactly 5 within each: paired, the interval is the difference."""
    random = np.random.default_rng(0)
    base = {f"s{number}": float(value) for number, value in enumerate(random.uniform(0.3, 0.5, 20))}
    first = {str(n): result_of({scene: value + 0.1 * n for scene, value in base.items()}, n) for n in range(5)}
    second = {str(n): result_of({scene: value + 0.1 * n + 0.05 for scene, value in base.items()}, n) for n in range(5)}

    paired = compare(first, second, resamples=200, paired_seeds=True)["object_counting"].interval

    assert paired.low == pytest.approx(0.05) and paired.high == pytest.approx(0.05)

    alone = compare(first, second, resamples=200)["object_counting"].interval
    assert alone.high - alone.low > 0.1

    spread = seed_intervals(first, resamples=200)["object_counting"]
    assert spread.high - spread.low > 0.1 and spread.low < spread.score < spread.high
    with pytest.raises(ValueError, match="one result a seed, but got 5 and 1"):
        compare(first, {"0": second["0"]}, paired_seeds=True)


def test_all_splits_by_one_pool_and_again_after_a_stop(toy, tmp_path):
    splits = [replace(toy.shards(split), folder=tmp_path) for split in ("train", "validation")]
    made = [(shards.split, number, clips) for shards, number, clips in make_rooms(splits, workers=2)]
    assert made == [("train", 0, 1), ("train", 1, 1), ("validation", 0, 1)]

    files = [file for shards in splits for number in range(len(shards)) for file in shards.files(number)]
    alone = [file for split in ("train", "validation") for file in shard_files(toy.shards(split))]
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in alone]

    for lost in (files[3], files[4]):  # rows of one shard, frames of another
        lost.unlink()
    files[0].write_bytes(b"kept")

    stopped = Experiment(toy.recipe, tmp_path.parent / f"{tmp_path.name}-stopped", deadline=Deadline(0.0))

    with pytest.raises(OutOfTimeError, match="rooms of train: 1 of 2 shards"):
        stopped.make_rooms()
    assert [clips for *_, clips in make_rooms(splits)] == [1, 1, 1]
    assert files[0].read_bytes() == b"kept"
    assert [file.read_bytes() for file in files[1:]] == [file.read_bytes() for file in alone[1:]]
    with pytest.raises(ValueError, match="at least 1"):
        next(make_rooms(splits, 0))


def shard_files(shards):
    return [file for number in range(len(shards)) for file in shards.files(number)]


def test_a_pack_is_decoded_once_for_all_its_splits():
    assert furniture_for("train", None)[0] is furniture_for("test", None)[0]
    with pytest.raises(ValueError, match="not kept for test_unseen"):
        furniture_for("test_unseen", None)
