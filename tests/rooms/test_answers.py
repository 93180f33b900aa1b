"""Answers recomputed by a slow path that shares no code with the questions: words parsed, meshes, masks."""

import cmath
import itertools
import math
import re
from collections import Counter

import fcl
import numpy as np
import pytest

from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.rooms import load_furniture, sample_scene, sample_trajectory, scene_seed
from vega3d.rooms.questions.observation import observe, surface_distance
from vega3d.rooms.questions.questions import make_questions
from vega3d.rooms.render.embree import EmbreeRenderer

SEEN = 0.004  # of the pixels of a frame
ROOMS, TRAJECTORIES, PER_TYPE = 5, 2, 3


class Slow:
    """A walkthrough as meshes by name and masks."""

    def __init__(self, scene, instance):
        self.scene, self.instance = scene, instance
        self.numbers: dict[str, list[int]] = {}
        for item in scene.objects:
            self.numbers.setdefault(item.name, []).append(item.instance)
        self.bodies = {}

    def body(self, number):
        if number not in self.bodies:
            faces = self.scene.mesh.faces[self.scene.instance == number]
            used, inverse = np.unique(faces, return_inverse=True)
            model = fcl.BVHModel()
            model.beginModel(len(used), len(faces))
            model.addSubModel(self.scene.mesh.vertices[used].astype(float), inverse.reshape(-1, 3))
            model.endModel()
            self.bodies[number] = fcl.CollisionObject(model)
        return self.bodies[number]

    def distance(self, first, second):
        return max(0.0, fcl.distance(self.body(first), self.body(second), fcl.DistanceRequest(), fcl.DistanceResult()))

    def only(self, name):
        (number,) = self.numbers[name]
        assert self.is_seen(number)
        return number

    def shares(self, number):
        return (self.instance == number).mean(axis=(1, 2))

    def is_seen(self, number):
        return self.shares(number).max() >= SEEN

    def place(self, name):
        """The middle of the box around the object, on the floor plan, as a complex number."""
        center = self.scene.objects[self.only(name) - 1].box.center
        return complex(center[0], center[1])

    def first_seen(self, name):
        return min(
            (int(np.argmax(self.shares(n) >= SEEN)) for n in self.numbers[name] if self.is_seen(n)), default=math.inf
        )


def right_option(question):
    return question.options[ord(question.answer) - ord("A")]


def count(slow, question):
    (name,) = re.fullmatch(r"How many (.+)\(s\) are in this room\?", question.question).groups()
    assert all(slow.is_seen(number) for number in slow.numbers[name])
    assert int(question.answer) == len(slow.numbers[name]) >= 2


def absolute_distance(slow, question):
    first, second = re.search(r"between the (.+) and the (.+) \(in meters\)", question.question).groups()
    assert float(question.answer) == pytest.approx(slow.distance(slow.only(first), slow.only(second)), abs=0.06)


def size(slow, question):
    (name,) = re.search(r"height\) of the (.+), measured in centimeters", question.question).groups()
    number = slow.only(name)
    yaw = slow.scene.objects[number - 1].box.yaw
    vertices = slow.scene.mesh.vertices[np.unique(slow.scene.mesh.faces[slow.scene.instance == number])].astype(float)
    turned = (vertices[:, 0] + 1j * vertices[:, 1]) * cmath.exp(-1j * yaw)
    edges = np.ptp(turned.real), np.ptp(turned.imag), np.ptp(vertices[:, 2])
    assert int(question.answer) == pytest.approx(100 * max(edges), abs=0.6)


def room_size(slow, question):
    mesh = slow.scene.mesh
    corners = mesh.vertices[mesh.faces[(slow.scene.instance == 0) & (mesh.texture == 0)]]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    assert float(question.answer) == pytest.approx(area, abs=0.06)


def relative_distance(slow, question):
    listed, anchor = re.search(r"objects \((.+)\) is the closest to the (.+)\?", question.question).groups()
    names = listed.split(", ")
    assert sorted(names) == sorted(question.options)
    lengths = sorted((slow.distance(slow.only(name), slow.only(anchor)), name) for name in names)
    assert right_option(question) == lengths[0][1]
    assert all(longer[0] > 1.1 * shorter[0] for shorter, longer in itertools.pairwise(lengths))


def turned(slow, observer, facing, target):
    """Where the target is for one who looks along the imaginary axis."""
    return (slow.place(target) - slow.place(observer)) / (slow.place(facing) - slow.place(observer)) * 1j


def direction(slow, question):
    observer, facing = re.search(r"standing by the (.+) and facing the (.+), is the", question.question).groups()
    (target,) = re.search(r", is the (.+?) to (?:my|the)", question.question).groups()
    seen = turned(slow, observer, facing, target)
    side = "left" if seen.real < 0 else "right"
    if question.question_type.endswith("easy"):
        expected = side
    elif question.question_type.endswith("hard"):
        expected = f"{'front' if seen.imag > 0 else 'back'}-{side}"
    else:
        expected = "back" if seen.imag < 0 and abs(seen.imag) > abs(seen.real) else side
    assert right_option(question) == expected


def route(slow, question):
    begin, first = re.search(r"beginning at the (.+) and facing the (.+?)\. You want", question.question).groups()
    stops = [begin, *re.findall(r"Go forward until the (.+?)\.", question.question)]
    assert stops[1] == first
    turns = []
    for before, here, after in zip(stops, stops[1:], stops[2:], strict=False):
        way = (slow.place(after) - slow.place(here)) / (slow.place(here) - slow.place(before))
        back = way.real < 0 and abs(way.real) > abs(way.imag)
        turns.append("Turn Back" if back else "Turn Left" if way.imag > 0 else "Turn Right")
    assert right_option(question) == ", ".join(turns)


def order(slow, question):
    names = re.search(r"in the video: (.+)\?", question.question).group(1).split(", ")
    frames = {name: slow.first_seen(name) for name in names}
    assert len(set(frames.values())) == 4 and max(frames.values()) < math.inf
    assert right_option(question).split(", ") == sorted(names, key=frames.__getitem__)


def localisation(slow, question):
    name, anchor = re.search(r"is the (.+) that is the closest to the (.+)\?", question.question).groups()
    numbers = slow.numbers[name]
    nearest = min(numbers, key=lambda number: slow.distance(number, slow.only(anchor)))
    rows, columns = np.nonzero(slow.instance[question.frame] == nearest)
    assert question.marks[ord(question.answer) - ord("A")] == (
        columns.min(),
        rows.min(),
        columns.max() + 1,
        rows.max() + 1,
    )


CHECKS = {
    "object_counting": count,
    "object_abs_distance": absolute_distance,
    "object_size_estimation": size,
    "room_size_estimation": room_size,
    "object_rel_distance": relative_distance,
    "object_rel_direction_easy": direction,
    "object_rel_direction_medium": direction,
    "object_rel_direction_hard": direction,
    "route_planning": route,
    "obj_appearance_order": order,
    "localisation_by_choice": localisation,
}


@pytest.fixture(scope="module")
def walkthroughs():
    furniture, made = load_furniture(), []
    for room in range(ROOMS):
        scene = sample_scene(scene_seed("validation", room), furniture)
        renderer, observation = EmbreeRenderer(scene), None
        for trajectory in range(TRAJECTORIES):
            _, instance = renderer.geometry(sample_trajectory(scene, trajectory, 17), 160, 160)
            observation = observe(scene, instance, observation)
            made.append(
                (Slow(scene, instance), observation, make_questions(observation, (room, trajectory), PER_TYPE))
            )
    return made


def test_answers_of_200_questions(walkthroughs):
    counts = Counter()
    for slow, _, questions in walkthroughs:
        for question in questions:
            CHECKS[question.question_type](slow, question)
            counts[question.question_type] += 1
    assert counts.total() >= 200
    assert set(counts) == set(QUESTION_TYPES) == set(CHECKS)


def test_distances_are_right_to_a_centimetre(walkthroughs):
    errors = []
    for slow, observation, _ in walkthroughs[::TRAJECTORIES]:
        items = observation.objects[:12]
        errors += [
            surface_distance(first, second) - slow.distance(first.id, second.id)
            for number, first in enumerate(items)
            for second in items[:number]
        ]
    assert len(errors) > 150
    assert min(errors) > -1e-3 and max(errors) < 0.01
