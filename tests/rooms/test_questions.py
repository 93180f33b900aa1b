"""Answers of a room laid out by hand, whose geometry can be checked on paper."""

import itertools
import string
from collections import Counter

import numpy as np
import pytest

from vega3d.geometry import Box, box_corners
from vega3d.rooms.questions.observation import Observation, ObservedObject, surface_distance
from vega3d.rooms.questions.questions import (
    DIRECTION_MARGIN,
    QUESTION_MAKERS,
    bearing,
    directions,
    make_questions,
    sector,
    spread_answers,
    turn,
)

SIDE = 128
# Corners 0 to 3 lie below corners 4 to 7, each four in turn.
QUADS = np.array([(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)])
SIDES = np.concatenate([QUADS[:, :3], QUADS[:, [0, 2, 3]]])


def thing(
    number: int, name: str, x: float, y: float, size: tuple[float, float, float] = (0.4, 0.4, 0.8)
) -> ObservedObject:
    box = Box(np.array([x, y, size[2] / 2]), np.array(size))
    return ObservedObject(number, name, box, box_corners(box)[SIDES])


ROOM = (
    thing(1, "table", 0.0, 0.0, (1.2, 0.8, 0.75)),
    thing(2, "bed", 0.0, 3.0, (2.0, 1.6, 0.5)),
    thing(3, "lamp", -2.5, 0.0),
    thing(4, "wardrobe", 3.0, -2.0, (1.2, 0.6, 2.0)),
    thing(5, "chair", 1.2, 0.0),
    thing(6, "chair", -1.2, -0.4),
    thing(7, "chair", 2.6, 2.4),
    thing(8, "plant", -2.0, 4.5),
)


def observe(objects=ROOM, hidden: tuple[int, ...] = ()) -> Observation:
    """A trajectory on which object k is first seen in frame k, as a square of 20 x 20 px, and stays in view."""
    ids = np.zeros((9, SIDE, SIDE), np.uint16)
    for item in objects:
        row, column = divmod(item.id - 1, 4)
        if item.id not in hidden:
            ids[item.id :, 30 * row : 30 * row + 20, 30 * column : 30 * column + 20] = item.id
    return Observation(tuple(objects), ids, floor_area=31.46)


def observe_all(objects) -> Observation:
    """A trajectory on which each object fills a row of 12 px in each frame."""
    ids = np.zeros((3, SIDE, SIDE), np.uint16)
    for item in objects:
        ids[:, 12 * (item.id - 1) : 12 * item.id] = item.id
    return Observation(tuple(objects), ids, floor_area=31.46)


def ask(question_type: str, observation: Observation | None = None, seed: int = 0):
    return list(QUESTION_MAKERS[question_type](observation or observe(), np.random.default_rng(seed)))


def right_text(question) -> str:
    return question.options[string.ascii_uppercase.index(question.answer)]


def test_counts_are_of_objects_that_are_all_seen():
    (question,) = ask("object_counting")
    assert (question.question, question.answer) == ("How many chair(s) are in this room?", "3")
    assert ask("object_counting", observe(hidden=(7,))) == []


def test_distances_are_between_closest_points():
    answers = {question.object_ids: question.answer for question in ask("object_abs_distance")}
    # table [-0.6, 0.6] x [-0.4, 0.4], lamp [-2.7, -2.3]: 1.7 m; bed from y = 2.2: 1.8 m
    assert answers[1, 3] == "1.7"
    assert answers[1, 2] == "1.8"
    assert all(5 not in ids for ids in answers)  # "the chair" could be any of three


def test_a_name_that_an_unseen_object_shares_is_not_unique():
    assert ask("object_size_estimation", observe(objects=(*ROOM, thing(9, "bed", 2.0, 4.0)), hidden=(9,)))
    names = {question.object_ids[0] for question in ask("object_size_estimation")}
    assert 2 in names
    shared = observe(objects=(*ROOM, thing(9, "bed", 2.0, 4.0)), hidden=(9,))
    assert 2 not in {question.object_ids[0] for question in ask("object_size_estimation", shared)}


def test_sizes_and_area():
    sizes = {question.object_ids[0]: question.answer for question in ask("object_size_estimation")}
    assert (sizes[2], sizes[4]) == ("200", "200")
    assert ask("room_size_estimation")[0].answer == "31.5"


def test_closest_of_four_by_a_clear_margin():
    questions = ask("object_rel_distance")
    assert questions
    by_id = {item.id: item for item in ROOM}
    for question in questions:
        anchor, *ranked = (by_id[number] for number in question.object_ids)
        lengths = [surface_distance(anchor, item) for item in ranked]
        assert all(b >= 1.15 * a for a, b in itertools.pairwise(lengths))
        assert right_text(question) == ranked[0].name
        assert sorted(question.options) == sorted(item.name for item in ranked)


@pytest.mark.parametrize(
    ("target", "angle"), [((0, 2), 0), ((-2, 0), 90), ((2, 0), -90), ((0, -2), 180), ((-1, 1), 45), ((1, -1), -135)]
)
def test_bearing_counts_to_the_left(target, angle):
    found = float(bearing(np.zeros(2), np.array([0.0, 1.0]), np.array(target, float)))
    assert found == pytest.approx(angle)


@pytest.mark.parametrize(
    ("level", "angle", "name"),
    [
        ("easy", 20, "left"),
        ("easy", 10, None),
        ("easy", -160, "right"),
        ("easy", 170, None),
        ("medium", 90, "left"),
        ("medium", 30, None),
        ("medium", 170, "back"),
        ("medium", -170, "back"),
        ("medium", -130, None),
        ("hard", 20, "front-left"),
        ("hard", 100, None),
        ("hard", 120, "back-left"),
        ("hard", -120, "back-right"),
    ],
)
def test_sectors_keep_a_margin(level, angle, name):
    assert sector(level, angle, DIRECTION_MARGIN) == name


def test_direction_by_hand():
    table, bed, lamp, wardrobe = ROOM[:4]
    # At the table, facing the bed (north): the lamp is due west, the wardrobe south-east.
    assert directions(table, bed, lamp)["easy"] == "left"
    assert directions(table, bed, lamp)["medium"] == "left"
    assert "hard" not in directions(table, bed, lamp)  # on the border of front-left and back-left
    assert directions(table, bed, wardrobe)["hard"] == "back-right"
    assert "easy" not in directions(table, bed, thing(9, "vase", 0.1, 0.2))  # too near


def test_a_wide_object_across_a_border_has_no_direction():
    table, bed = ROOM[:2]
    assert "easy" not in directions(table, bed, thing(9, "sofa", 0.8, 2.0, (2.2, 0.8, 0.8)))


def test_turns_of_a_route():
    table, bed, lamp, wardrobe = ROOM[:4]
    assert turn(bed, table, lamp) == "right"  # southward, then west
    assert turn(lamp, table, bed) == "left"
    assert turn(lamp, table, thing(9, "door", -1.5, 0.2)) == "back"
    assert turn(bed, table, thing(9, "door", 0.0, -2.0)) is None  # straight on
    assert wardrobe.name in {item.name for item in ROOM}


def test_routes_ask_for_their_turns():
    questions = ask("route_planning")
    by_id = {item.id: item for item in ROOM}
    assert {len(question.object_ids) for question in questions} == {3, 4}
    for question in questions:
        route = [by_id[number] for number in question.object_ids]
        turns = [turn(*three) for three in zip(route, route[1:], route[2:], strict=False)]
        assert right_text(question) == ", ".join(f"Turn {name.title()}" for name in turns)
        assert question.question.count("[please fill in].") == len(turns)
        assert len(set(question.options)) == len(question.options)


def test_order_of_first_appearance():
    questions = ask("obj_appearance_order")
    first = {item.name: item.id for item in reversed(ROOM)}
    assert questions
    for question in questions:
        order = [first[name] for name in right_text(question).split(", ")]
        assert order == sorted(order)
        assert len(set(question.options)) == 4


def test_an_order_on_which_glimpse_and_view_disagree_is_not_asked():
    observation = observe()
    observation.ids[1, 120:124, 120:124] = 8  # a glimpse of the plant in frame 1, long before its full view
    four = [right_text(question) for question in ask("obj_appearance_order", observation)]
    assert all("plant" not in text.split(", ")[1:] for text in four)


def test_marked_boxes():
    questions = ask("localisation_by_choice")
    assert questions

    by_id = {item.id: item for item in ROOM}
    for question in questions:
        anchor, *marked = (by_id[number] for number in question.object_ids)
        target = marked[string.ascii_uppercase.index(question.answer)]
        chairs = [item for item in ROOM if item.name == "chair"]
        assert target is min(chairs, key=lambda chair: surface_distance(anchor, chair))
        assert len(question.marks) == 4
        ids = observe().ids[question.frame]
        for item, (left, top, right, bottom) in zip(marked, question.marks, strict=True):
            assert (ids[top:bottom, left:right] == item.id).all()
            assert (ids == item.id).sum() == (right - left) * (bottom - top)


def test_the_same_seed_asks_the_same():
    assert make_questions(observe(), seed=(3,)) == make_questions(observe(), seed=(3,))
    assert make_questions(observe(), seed=(3,)) != make_questions(observe(), seed=(4,))
    with pytest.raises(ValueError, match="per_type is 0"):
        make_questions(observe(), seed=(0,), per_type=0)


def test_every_type_is_asked_up_to_a_number():
    counts = Counter(
        question.question_type for seed in range(20) for question in make_questions(observe(), (seed,), per_type=2)
    )
    assert set(counts) == set(QUESTION_MAKERS)
    assert max(counts.values()) == 40


def test_counts_take_turns():
    twins = (*ROOM, thing(9, "stool", 4.0, 4.0), thing(10, "stool", 4.8, 4.0))
    counts = {question.question: question.answer for question in ask("object_counting", observe_all(twins))}
    assert set(counts.values()) == {"2", "3"}
    assert [question.answer for question in spread_answers(ask("object_counting", observe_all(twins)) * 2, 2)] in (
        ["2", "3"],
        ["3", "2"],
    )


def test_letters_are_right_equally_often():
    letters = Counter(
        question.answer
        for seed in range(60)
        for question in make_questions(observe(), (seed,), per_type=3)
        if len(question.options) == 4 and question.question_type != "localisation_by_choice"
    )
    expected = sum(letters.values()) / 4
    assert all(abs(count - expected) < 4 * (expected * 0.75) ** 0.5 for count in letters.values())
