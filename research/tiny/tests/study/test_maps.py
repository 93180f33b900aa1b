"""The map of a room: single places that base and stage 1 ask for, and that names are told."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fitting import fit
from research.tiny.study.map_head import MapHead, Names, map_targets
from research.tiny.study.map_rows import MAP_KINDS, REACH, OnMap, map_rows, place_of, room_map
from research.tiny.study.packs import IGNORED, pack
from research.tiny.study.stages import PackMaker
from research.tiny.study.vlm import build_tokenizer
from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.geometry import look_at
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.scene.trajectory import Trajectory


@pytest.mark.parametrize(
    "target, place, steps",
    [((1, 5, 1), (3.1, 4.2), (6, 4)), ((1, 5, 0.2), (0.4, -1.3), (-5, -1)), ((-5, 1, 1), (-1, 2.5), (4, 3))],
)
def test_places_are_told_from_the_first_camera(target, place, steps):
    poses = np.stack([look_at((1, 1, 1.5), target), np.eye(4)])
    assert place_of(SimpleNamespace(place=np.array(place)), Trajectory("walk", poses, 60.0)) == steps


def test_rows_of_a_map_are_words():
    assert list(map_rows({"lamp": OnMap(5, -2, 7), "tv": OnMap(-3, 0, 0)})) == [
        ("place", "Where is the lamp, from the first frame?", "2.5 ahead 1.0 left"),
        ("first_frame", "In which frame is the lamp first seen?", "7"),
        ("place", "Where is the tv, from the first frame?", "1.5 behind 0.0 right"),
        ("first_frame", "In which frame is the tv first seen?", "0"),
    ]


def test_a_map_holds_what_its_name_tells_apart_with_frames_from_the_first():
    ids = np.zeros((3, 32, 32), np.uint16)
    ids[1:, :8, :8], ids[2, 20:28, 20:28], ids[0, 20:28, :8] = 1, 2, 3
    names = {1: "chair", 2: "lamp", 3: "lamp"}
    objects = tuple(SimpleNamespace(id=n, name=name, place=np.array([0.0, 4.0])) for n, name in names.items())
    walk = Trajectory("pan", np.stack([look_at((0, 0, 1.5), (0, 1, 1.5))] * 3), 60.0)
    assert room_map(Observation(objects, ids, 10.0), walk) == {"chair": OnMap(8, 0, 1)}


def test_maps_are_asked_in_training_alone(toy):
    train, validation = toy.data("train", 1), toy.data("validation", 1)
    assert {row.kind for row in train.rows} >= set(MAP_KINDS)
    assert {row.kind for row in validation.rows} <= set(QUESTION_TYPES)
    row = next(row for row in train.rows if row.kind == "place")
    assert row.prompt(1) == row.question


def test_names_are_found_at_their_last_token_and_the_longest_first():
    tokenizer = build_tokenizer(1024)
    names = Names(tokenizer)
    prompt = np.array(tokenizer.encode("Is the coffee table by the table, or by the chair or the table(s)?"))
    found = names.ends(prompt)
    assert [name for _, name in found] == ["coffee table", "table", "chair", "table"]
    assert [tokenizer.decode([prompt[place]]) for place, _ in found] == [" table", " table", " chair", " table"]


def test_targets_lie_at_the_names_of_the_packs(toy):
    words, prefix = toy.tools().words, toy.tools().stream.prefix
    texts = ["Where is the lamp, from the first frame?", "Is the lamp by the piano or the bed?"]
    questions = [[(prompt, words.answers(["yes"])[0]) for prompt in words.prompts(texts)], []]
    questions[1] = questions[0][:1]
    packed = pack(prefix, questions)
    maps = [{"lamp": OnMap(2, -40, 3), "bed": OnMap(-1, 5, 0)}, {}]
    names = Names(words.tokenizer)
    ends = [[names.ends(prompt) for prompt, _ in row] for row in questions]

    targets = map_targets(prefix, questions, ends, maps, packed.ids.shape[1])

    assert targets.shape == (*packed.ids.shape, 3) and (targets[1] == IGNORED).all()

    at = np.flatnonzero(targets[0, :, 0] != IGNORED)
    assert [words.tokenizer.decode([packed.ids[0, place]]) for place in at] == [" lamp", " lamp", " bed"]
    assert packed.segments[0, at].tolist() == [1, 2, 2]
    assert targets[0, at].tolist() == [[REACH + 2, 0, 3]] * 2 + [[REACH - 1, REACH + 5, 0]]


def test_packs_of_stage_1_have_targets(toy):
    stage, data = toy.recipe.base, toy.data("train", 1)
    visuals, packed, _ = PackMaker(toy.tools(), data, stage, 0)(0)
    assert (PackMaker(toy.tools(), toy.data("train", 0), toy.recipe.stage0, 0)(0)[1].targets == IGNORED).all()
    is_name = packed.targets[..., 0] != IGNORED
    assert is_name.any() and not is_name[packed.segments <= 0].any()
    frames = {place.frame for visual in visuals for place in data.maps[data.visuals[visual].clip].values()}
    assert set(packed.targets[is_name][:, 2].tolist()) <= frames


def test_the_head_learns_places_and_is_still_without_names():
    torch.manual_seed(0)
    head, timed, placed = MapHead(16, 9), torch.randn(2, 12, 16), torch.randn(2, 12, 16)
    targets = torch.full((2, 12, 3), IGNORED)
    assert head.loss(timed, placed, targets) == 0
    targets[0, 3], targets[1, 7] = torch.tensor([4, 20, 8]), torch.tensor([24, 0, 1])
    assert fit(head.parameters(), lambda: head.loss(timed, placed, targets)) < 0.05
    frames = head.frames(head.norms[0](timed[[0, 1], [3, 7]])).argmax(-1)
    assert frames.tolist() == [8, 1]
