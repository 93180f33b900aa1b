"""Expressions, captions, attribute questions and correspondences of a room laid out by hand, and of a rendered one."""

import numpy as np
import pytest
from test_questions import ROOM, observe_all, thing

from vega3d.geometry import project, unproject
from vega3d.rooms import load_furniture, sample_scene, sample_trajectory
from vega3d.rooms.questions.annotations import attribute_questions, captions, colour_name, expressions
from vega3d.rooms.questions.observation import ObservedObject, correspondences, observe
from vega3d.rooms.render.embree import EmbreeRenderer


def with_traits(item: ObservedObject, on: int = 0, colour=None) -> ObservedObject:
    return ObservedObject(item.id, item.name, item.box, item.triangles, on, colour)


def texts_of(observation, number):
    return {expression.text for expression in expressions(observation) if expression.object_id == number}


def test_an_expression_means_one_object():
    chairs = [item for item in ROOM if item.name == "chair"]
    observation = observe_all(ROOM)
    assert texts_of(observation, 1) == {"the table"}
    for chair in chairs:
        others = [other for other in chairs if other.id != chair.id]
        for text in texts_of(observation, chair.id):
            anchor = next(item for item in ROOM if text == f"the chair closest to the {item.name}")
            assert all(observation.distance(chair, anchor) < observation.distance(other, anchor) for other in others)
    assert any(texts_of(observation, chair.id) for chair in chairs)


def test_size_colour_and_carrier_tell_two_apart():
    table = thing(1, "table", 0.0, 0.0, (1.2, 0.8, 0.75))
    large = with_traits(thing(2, "box", 2.0, 0.0, (0.8, 0.8, 0.8)), colour=np.array([200, 20, 20], np.uint8))
    small = with_traits(thing(3, "box", 0.1, 0.0, (0.2, 0.2, 0.2)), on=1, colour=np.array([20, 40, 180], np.uint8))
    observation = observe_all((table, large, small))
    assert {"the larger box", "the red box"} <= texts_of(observation, 2)
    assert {"the smaller box", "the blue box", "the box on the table"} <= texts_of(observation, 3)


def test_two_on_one_table_are_not_told_apart_by_it():
    table = thing(1, "table", 0.0, 0.0, (1.2, 0.8, 0.75))
    cups = [with_traits(thing(number, "cup", x, 0.0, (0.1, 0.1, 0.1)), on=1) for number, x in ((2, -0.3), (3, 0.3))]
    assert not texts_of(observe_all((table, *cups)), 2)


def test_nothing_is_said_where_an_unseen_twin_could_be_meant():
    observation = observe_all(ROOM)
    observation.ids[observation.ids == 7] = 0
    assert all(not texts_of(observation, number) for number in (5, 6, 7))


def test_captions_and_attributes():
    table = with_traits(thing(1, "table", 0.0, 0.0, (1.2, 0.8, 0.75)), colour=np.array([120, 80, 45], np.uint8))
    cup = with_traits(thing(2, "cup", 0.2, 0.0, (0.1, 0.1, 0.12)), on=1)

    observation = observe_all((table, cup, thing(3, "armchair", 1.3, 0.0, (0.8, 0.8, 0.9))))

    assert captions(observation)[1] == (
        "A brown table, 1.2 m wide, 80 cm deep and 75 cm high, next to the armchair, with a cup on it."
    )
    assert captions(observation)[2].startswith("A cup, 10 cm wide, 10 cm deep and 12 cm high, on a table")

    asked = {question.question: question.answer for question in attribute_questions(observation)}
    assert asked == {"What color is the table?": "brown", "What is on the table?": "cup"}

    hidden = observe_all((table, cup))
    hidden.ids[hidden.ids == 2] = 0
    assert [question.kind for question in attribute_questions(hidden)] == ["colour"]


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((250, 250, 250), "white"),
        ((10, 10, 12), "black"),
        ((128, 128, 128), "grey"),
        ((180, 30, 30), "red"),
        ((40, 120, 50), "green"),
        ((40, 70, 160), "blue"),
        ((235, 205, 60), "yellow"),
        ((230, 130, 30), "orange"),
        ((110, 70, 40), "brown"),
        ((215, 195, 160), "beige"),
        ((110, 50, 130), "purple"),
        ((240, 170, 190), "pink"),
        ((70, 130, 130), None),
        ((205, 205, 205), None),
    ],
)
def test_names_of_colours(colour, name):
    assert colour_name(np.array(colour, np.uint8)) == name


@pytest.fixture(scope="module")
def rendered():
    scene = sample_scene(0, load_furniture(), "bedroom")
    return scene, EmbreeRenderer(scene).render(sample_trajectory(scene, 0, 6), 128, 96, antialias=False)


def test_corresponding_pixels_see_one_point(rendered):
    clip = rendered[1]
    found = correspondences(clip, np.random.default_rng(0))

    assert 20 < len(found) <= 64
    np.testing.assert_array_equal(found, correspondences(clip, np.random.default_rng(0)))
    for here, x, y, there, x2, y2, instance in found:
        here, there = int(here), int(there)
        assert here != there
        assert clip.instance[here, int(y), int(x)] == clip.instance[there, int(y2), int(x2)] == instance
        depth = clip.depth[here, int(y), int(x)]
        point = unproject(np.array([x, y]), depth, clip.intrinsics, clip.world_from_camera[here])
        place, reach = project(point, clip.intrinsics, clip.world_from_camera[there])
        np.testing.assert_allclose(place, (x2, y2), atol=1e-2)
        assert abs(reach - clip.depth[there, int(y2), int(x2)]) < 0.021


def test_an_object_on_another_rests_on_it(rendered):
    scene, clip = rendered
    observation = observe(scene, clip.instance)
    carried = [item for item in observation.objects if item.on]
    assert carried
    for item in carried:
        assert observation.distance(item, observation.by_id[item.on]) < 0.05
