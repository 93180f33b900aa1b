"""What is asked, how it is answered in words, and the packs that it comes in."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from research.tiny.study.answers import FloorPlan, Place
from research.tiny.study.data import SplitData
from research.tiny.study.loop import Deadline, OutOfTimeError
from research.tiny.study.network import blocks_attention, prefixed_attention
from research.tiny.study.packs import PLANNED, SHORT, PackMaker, PackSizes, pack, pack_mask, sees, text_prefix
from research.tiny.study.question_forms import CELL, PLAN_KINDS
from research.tiny.study.rooms import make_rooms, read_shard
from research.tiny.study.vlm import VLMRecipe, build_tokenizer, build_vlm
from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.modeling.inputs_vega3d import IGNORED
from vega3d.questions import reason_and_answer
from vega3d.rooms.questions.marks import GRID
from vega3d.rooms.scene.classes import CLASSES

PLACE_TEXT = re.compile(r"\d\.\d (ahead|behind) \d\.\d (left|right)")


def test_a_plan_tells_places_and_bearings_from_the_first_camera():
    plan = FloorPlan({"bed": Place(2.04, -0.91, 0), "tv": Place(2.0, 1.1, 3), "rug": Place(-30.0, 0.0, 1)})
    assert plan.listed(["bed", "rug"]) == "bed 2.0 ahead 1.0 left, rug 9.8 behind 0.0 right"
    assert plan.bearing("bed", "tv") == "bed to tv 90" and plan.bearing("tv", "bed") == "tv to bed 270"
    assert plan.bearing("tv", "rug") == "tv to rug 180"


@pytest.mark.parametrize(
    "text, answer",
    [
        ("bed 2.0 ahead 1.0 left; tv at 90: right. B", "B"),
        ("bed 2.0 ahead 1.0 left, tv 1.2 behind 0.4 right. 3.4", "3.4"),
        ("12", "12"),
        ("3.4", "3.4"),
    ],
)
def test_the_answer_follows_the_last_full_stop(text, answer):
    assert reason_and_answer(text)[1] == answer


def test_answers_in_words_end_with_the_official_answer(toy):
    rows = toy.data("train").rows
    kinds = {row.kind for row in rows}
    assert kinds >= {*PLAN_KINDS, *PLANNED, "object_abs_distance", "object_rel_distance", "object_counting"}
    for row in rows:
        if row.is_plain:
            continue
        assert reason_and_answer(row.words)[1] == row.answer, row
        if row.kind in PLANNED or row.kind == "object_rel_distance":
            assert PLACE_TEXT.search(row.words)
            right = row.options["ABCD".index(row.answer)]
            said, _, judgement = row.words.partition(": ")[2].removesuffix(f". {row.answer}").partition("; ")
            assert said == right and bool(judgement) == (row.kind in PLANNED)


def test_bearings_lead_to_the_word(toy):
    """The sector of a direction is that of the difference of the two bearings, but for rounding to 15 degrees."""
    rows = [row for row in toy.data("train").rows if row.kind == "object_rel_direction_easy" and not row.is_plain]
    assert rows
    for row in rows:
        facing, target = map(int, re.findall(r" to \D+ (\d+)", row.words))
        right = row.options["AB".index(row.answer)]
        assert (0 <= (target - facing) % 360 <= 180) == (right == "right"), row


def test_boxes_are_told_in_words(toy):
    data = SplitData(toy.shards("train"), ["localisation_by_choice", "object_counting"])
    for row in data.rows:
        if row.kind == "localisation_by_choice" and not row.is_plain:
            assert all(re.fullmatch(r"frame \d+, row \d+, column \d+", option) for option in row.options)
            assert "marked" not in row.question


def test_people_ask_in_training_alone_and_without_the_benchmarks_frame(toy):
    rows = [row for row in toy.data("train").rows if row.is_plain]
    assert not any(row.is_plain for row in toy.data("validation").rows)
    assert {"place", "presence", "description", "object_abs_distance"} <= {row.kind for row in rows}
    for row in rows:
        assert row.words.endswith(row.answer), row
        assert ("Options:" in row.prompt) == bool(row.options)
        assert bool(row.options) or row.prompt == row.question
        if row.kind in PLANNED:
            word = row.options["ABCD".index(row.answer)] if row.options else row.answer
            assert word in row.words and PLACE_TEXT.search(row.words), row
    texts = " ".join(row.answer for row in rows)
    assert "I don't see" in texts and "square metres" in texts and "where the video starts" in texts


def test_records_are_the_benchmarks_alone(toy):
    data = toy.data("validation")
    assert {record.question_type for record in data.records()} <= set(QUESTION_TYPES)
    assert len(data.records()) == sum(row.kind not in PLAN_KINDS for row in data.rows)


def test_categories_leave_out_the_rest_and_other_settings_are_refused(toy):
    shards = toy.shards("train")
    assert {row.kind for row in SplitData(shards, ["room_size_estimation"]).rows} == {"room_size_estimation"}
    with pytest.raises(ValueError, match="has no row of the kinds nothing"):
        SplitData(shards, ["nothing"])
    with pytest.raises(ValueError, match=r"was made with other settings: questions_per_type was \d and is 3\. Choose"):
        SplitData(replace(shards, questions_per_type=3), ["object_counting"])


def test_a_shard_of_an_earlier_format_of_rooms_is_refused(toy, tmp_path):
    shards = toy.shards("train")
    values = json.loads(shards.files(0)[-1].read_text())
    del values["settings"]["format"]
    path = tmp_path / "00000.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"was made with other settings: format was .* and is \d\. Choose"):
        read_shard(path, shards)


def test_shards_without_grounding_have_the_same_rows_and_no_expressions(toy, tmp_path):
    shards = replace(toy.shards("train"), folder=tmp_path, rooms=1, rooms_per_shard=1, trajectories=1)
    told = []
    for place, with_grounding in enumerate((True, False)):
        made = replace(shards, folder=tmp_path / str(place), with_grounding=with_grounding)
        list(make_rooms([made]))
        [clip] = read_shard(made.files(0)[-1], made)["clips"]
        assert bool(clip.pop("grounding")) == bool(clip.pop("proposals")) == with_grounding
        told.append(clip)
    assert told[0] == told[1] and told[0]["rows"]


def test_splits_of_other_first_rooms_have_other_rooms(toy, tmp_path):
    shards = replace(toy.shards("validation"), folder=tmp_path, rooms=1, first=1)
    assert [made.clips for made in make_rooms([shards])] == [1]
    (scene,) = {row.scene for row in SplitData(shards, ["object_counting", *PLAN_KINDS]).rows}
    own = toy.data("validation")
    assert scene == "validation_000001_00" and np.array_equal(
        SplitData(shards, PLAN_KINDS).frames([0]), own.frames([1])
    )


def test_rooms_go_on_after_a_stop(toy, tmp_path):
    shards = replace(toy.shards("train"), folder=tmp_path)
    stopped = type(toy)(toy.recipe, tmp_path / "stopped", deadline=Deadline(0.0))
    with pytest.raises(OutOfTimeError, match="rooms of train: 1 of 2 shards"):
        stopped.make_rooms(["train"])
    assert [made.clips for made in make_rooms([shards], workers=2)] == [2, 1]
    for number in range(2):
        for ours, theirs in zip(shards.files(number), toy.shards("train").files(number), strict=True):
            assert ours.read_bytes() == theirs.read_bytes()


@pytest.fixture
def make(toy) -> PackMaker:
    return PackMaker(toy.data("train"), toy.tools.words, toy.tools.clip.prefix, PackSizes(2, 640, 2, 512), True, 3)


def test_packs_hold_the_rows_that_they_name_and_their_answers(toy, make):
    clips, seen, read, ids = make(0)
    rows = {row.id: row for row in toy.data("train").rows}
    assert seen.ids.shape == (2, 640) and read.ids.shape == (2, 512)
    assert [rows[name].clip for name in ids] == sorted((rows[name].clip for name in ids), key=clips.index)
    decode = toy.tools.words.tokenizer.decode
    assert decode(seen.labels[seen.labels != IGNORED]) == "".join(f"{rows[name].words}<|im_end|>" for name in ids)
    kinds = [rows[name].kind for name in ids if rows[name].clip == clips[0]]
    in_turn = [(kind, len(list(alike))) for kind, alike in itertools.groupby(kinds)]
    assert len({kind for kind, _ in in_turn[:4]}) == 4 and all(count <= SHORT.get(kind, 1) for kind, count in in_turn)
    text = decode(read.ids[0])
    assert "<|video_pad|>" not in text and "frame of" not in text
    assert any(plan in text for plan in toy.data("train").plans)


def test_letters_are_bare_answers(toy):
    make = PackMaker(toy.data("train"), toy.tools.words, toy.tools.clip.prefix, PackSizes(2, 640, 2, 512), False, 3)
    _, seen, _, ids = make(0)
    rows = {row.id: row for row in toy.data("train").rows}
    found = toy.tools.words.tokenizer.decode(seen.labels[seen.labels != IGNORED])
    assert found == "".join(f"{rows[name].answer}<|im_end|>" for name in ids)


def test_steps_depend_on_seed_and_number_alone(make):
    first = [make(step) for step in range(3)]
    again = [make(step) for step in (2, 0, 1)]
    for ours, theirs in zip((again[1], again[2], again[0]), first, strict=True):
        assert ours[0] == theirs[0] and ours[3] == theirs[3]
        assert all(map(torch.equal, [*ours[1], *ours[2]], [*theirs[1], *theirs[2]]))
    seen = [clip for step in range(3) for clip in make.clips(step)]
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]  # each clip once before any comes again
    assert [make.seeded(seed)(0)[3] for seed in (4, 5)] != [first[0][3]] * 2


def test_too_long_a_pack_is_refused(toy):
    words = toy.tools.words
    question = words.prompts(["Where?"])[0], words.answers(["there"])[0]
    with pytest.raises(ValueError, match=r"The questions have \d+ tokens, but a pack 8\. Ask fewer"):
        pack(text_prefix(words), [[question]], 8)


def test_words_and_numbers_are_tokens():
    tokenizer = build_tokenizer(2048)
    for word in {part for name in CLASSES for part in name.split()} | {"ahead", "behind", "left", "right", "at"}:
        assert len(tokenizer.encode(f" {word}")) == 1, word
    assert [len(tokenizer.encode(f"{space}{letter}")) for letter in "ABCD" for space in ("", " ")] == [1] * 8
    assert [len(tokenizer.encode(f" {number}")) for number in ("0.2", "9.8", "15", "345", "7")] == [1] * 5
    assert tokenizer.decode(tokenizer.encode("12.3 naïve?\nA")) == "12.3 naïve?\nA"


def test_the_vlm_is_small_and_follows_its_seed():
    tokenizer = build_tokenizer(2048)
    models = [build_vlm(VLMRecipe(seed=seed), tokenizer) for seed in (0, 0, 1)]
    weights = [model.model.language_model.layers[0].mlp.up_proj.weight for model in models]
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    assert 2.5e6 < sum(value.numel() for value in models[0].parameters()) < 3.5e6


def test_places_of_frames_are_asked_about_in_training_alone(toy):
    data = toy.data("train")
    cells = [row for row in data.rows if row.kind == CELL]
    assert cells and not [row for row in toy.data("validation").rows if row.kind == CELL]
    for row in cells:
        frame, down, right = map(
            int, re.fullmatch(r"What is in frame (\d+), row (\d+), column (\d+)\?", row.prompt).groups()
        )
        labels = data.labels([row.clip])[0]
        shown = labels[frame, down * labels.shape[1] // GRID, right * labels.shape[2] // GRID]
        assert row.words == row.answer
        assert re.fullmatch(rf"{CLASSES[shown - 1]} \d\.\d (ahead|behind) \d\.\d (left|right)", row.words)


def test_reasons_say_of_each_option_whether_it_is_right(toy):
    judged_kinds = ("obj_appearance_order", "route_planning", "object_rel_direction")
    rows = [row for row in toy.data("train").rows if row.kind.startswith(judged_kinds)]
    assert {(row.kind, row.is_plain, bool(row.options)) for row in rows} >= {
        ("obj_appearance_order", False, True),
        ("route_planning", False, True),
    }
    for row in rows:
        told = re.findall(r"([A-D]) ([A-Za-z, \d-]+?) (yes|no)(?=, [A-D] |:|\.)", row.words)
        assert [letter for letter, *_ in told] == list("ABCD"[: len(row.options)]), row
        assert not row.options or [letter for letter, _, judged in told if judged == "yes"] == [row.answer], row
        for (_, text, judged), option in zip(told, row.options, strict=True):
            if row.kind != "obj_appearance_order":
                assert row.is_plain or text == option
                continue
            frames = list(map(int, re.findall(r"\d+", text)))
            names = ", ".join(re.split(r" \d+ ?", text)[:-1])
            assert (frames == sorted(frames)) == (judged == "yes") and (row.is_plain or names == option), row


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_blocks_see_what_the_mask_sees():
    prefix, length = 130, 384
    segments = torch.zeros(2, length, dtype=torch.long)
    for row, middle in enumerate((170, 201)):
        segments[row, prefix:middle], segments[row, middle:340], segments[row, 340:] = 1, 2, -1
    states = torch.randn(3, 2, 5, length, 32, generator=torch.Generator().manual_seed(0))
    blocks = create_block_mask(sees(segments), 2, None, length, length, device="cpu")
    found, _ = blocks_attention(torch.nn.Identity(), *states, blocks)
    wanted, _ = prefixed_attention(torch.nn.Identity(), *states, pack_mask(segments, prefix))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
