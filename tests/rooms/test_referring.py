"""Referring expressions and situated questions: what they mean, by a room laid out by hand and by a slow path."""

import re
from collections import Counter

import numpy as np
import pytest
from test_annotations import with_traits
from test_answers import Slow, turned
from test_questions import ROOM, observe, observe_all, thing

from vega3d.rooms import load_furniture, sample_scene, sample_trajectory, scene_seed
from vega3d.rooms.questions.annotations import own_colour
from vega3d.rooms.questions.observation import observe as observe_scene
from vega3d.rooms.questions.referring import (
    balanced,
    even_shares,
    referring_candidates,
    referring_expressions,
    singled_out,
)
from vega3d.rooms.questions.situated import SITUATED_MAKERS, situated_questions
from vega3d.rooms.render.embree import EmbreeRenderer

NEVER = 10_000  # a frame after all


def meant_by(observation, seeds=range(20)) -> dict[str, tuple[int, ...]]:
    """Objects by expression, of several draws of anchors."""
    found = [referring_candidates(observation, np.random.default_rng(seed)) for seed in seeds]
    return {expression.text: expression.targets for candidates in found for expression in candidates}


def test_expressions_mean_one_none_or_several():
    meant = meant_by(observe())

    assert meant["every chair less than 1 m from the table"] == (5, 6)
    assert meant["the chair closest to the bed"] == (7,)
    assert meant["the chair farthest from the bed"] == (6,)
    assert meant["every chair"] == (5, 6, 7)
    assert meant["every chair on the left, seen from the table towards the wardrobe"] == (5, 7)
    assert meant["the chair that is seen first"] == (5,)
    assert meant["every chair seen before the plant"] == (5, 6, 7)
    assert meant["the lamp on the table"] == ()
    assert "the chair" not in meant and "every object" not in meant and "the smallest bed" not in meant


def test_what_geometry_leaves_in_doubt_is_not_said():
    at_the_limit = thing(9, "chair", 1.8, 0.0)  # 1 m from the table
    as_far = thing(10, "chair", 1.2, 0.0)
    meant = meant_by(observe_all((ROOM[0], ROOM[2], at_the_limit)))
    assert "every chair less than 1 m from the lamp" in meant
    assert "every chair less than 1 m from the table" not in meant

    meant = meant_by(observe_all((ROOM[0], ROOM[1], thing(3, "chair", -1.2, 0.0), as_far)))
    assert "the chair farthest from the bed" not in meant
    assert "the chair closest to the table" not in meant


def test_what_was_not_seen_is_not_meant():
    assert meant_by(observe())["the chair closest to the bed"] == (7,)
    hidden = meant_by(observe(hidden=(7,)))
    assert "the chair closest to the bed" not in hidden
    assert hidden["every chair less than 1 m from the table"] == (5, 6)  # the hidden one is none of them


def test_colour_size_and_carrier():
    table = thing(1, "table", 0.0, 0.0, (1.2, 0.8, 0.75))
    red, blue = (np.array(colour, np.uint8) for colour in ((200, 20, 20), (20, 40, 180)))
    large = with_traits(thing(2, "box", 2.0, 0.0, (0.8, 0.8, 0.8)), colour=red)
    small = with_traits(thing(3, "box", 0.1, 0.0, (0.2, 0.2, 0.2)), on=1, colour=blue)

    meant = meant_by(observe_all((table, large, small)))

    for text in ("largest box", "red box"):
        assert meant[f"the {text}"] == (2,)
    for text in ("the smallest box", "the blue box", "the box on the table", "the object on the table"):
        assert meant[text] == (3,)


def test_kinds_are_those_of_the_benchmarks():
    observation = observe()
    candidates = referring_candidates(observation, np.random.default_rng(0))
    kinds = {expression.text: expression.kind for expression in candidates}

    assert kinds["every chair"] == "mt"
    assert kinds["the lamp"] == "st_wo_d"
    assert kinds["the chair closest to the bed"] == "st_w_d"
    assert kinds["the lamp on the table"] == "zt_w_d"
    absent = next(
        expression for expression in candidates if expression.noun not in {"object", *(o.name for o in ROOM)}
    )
    assert absent.kind == "zt_wo_d"
    for expression in singled_out(candidates, np.random.default_rng(0), 8):
        assert expression.kind == ("unique" if expression.relation == "name" else "multiple")


def test_each_object_is_asked_about_equally_often():
    """So that its box says nothing of whether it is meant."""
    candidates = referring_candidates(observe(), np.random.default_rng(0))
    counts = Counter(singled_out(candidates, np.random.default_rng(seed), 1)[0].targets[0] for seed in range(2400))
    assert set(counts) == {item.id for item in ROOM}
    np.testing.assert_allclose(np.array(list(counts.values())) / 2400, 1 / 8, atol=4 * (7 / 64 / 2400) ** 0.5)


def test_as_many_mean_none_one_and_several(walkthroughs):
    """So that the boxes of a walkthrough do not tell how many are meant; nor does the pattern of the words."""
    counts, patterns = Counter(), [Counter(), Counter(), Counter()]
    for _, observation in walkthroughs:
        candidates = referring_candidates(observation, np.random.default_rng(0))
        for determiner in ("the", "every"):
            asked = [said for said in candidates if said.text.startswith(determiner)]
            options = len(asked[0].options)
            shares = even_shares(asked, np.full((len(asked), options), 1 / options))
            for said, share in zip(asked, shares, strict=True):
                if determiner == "every":
                    patterns[said.right][said.pattern] += share
            chosen = balanced(asked, np.random.default_rng(0), 5)
            assert len({said.text for said in chosen}) == len(chosen)
            counts.update((determiner, said.right) for said in chosen)
    assert counts["the", 0] == counts["the", 1] == 5 * len(walkthroughs)
    assert counts["every", 0] == counts["every", 1] == counts["every", 2] > 0
    for other in patterns[1:]:
        assert {name: pytest.approx(share) for name, share in patterns[0].items() if share} == {
            name: share for name, share in other.items() if share
        }


def test_each_object_is_meant_equally_often_where_there_is_a_choice():
    candidates = referring_candidates(observe(), np.random.default_rng(0))
    asked = [said for said in candidates if said.text.startswith("the")]

    shares = even_shares(asked, np.full((len(asked), 2), 0.5))

    meant = Counter()
    for said, share in zip(asked, shares, strict=True):
        meant.update(dict.fromkeys(said.targets, share))
    np.testing.assert_allclose(list(meant.values()), 1 / 8)


def test_revealing_words_are_drawn_less_often():
    candidates = referring_candidates(observe(), np.random.default_rng(0))
    asked = [said for said in candidates if said.text.startswith("the") and not said.targets]
    asked += [said for said in candidates if said.text == "the lamp"]
    probabilities = np.full((len(asked), 2), 0.5)
    plain = even_shares(asked, probabilities)
    probabilities[0] = (0.9, 0.1)
    assert even_shares(asked, probabilities)[0] < plain[0] / 7


class SlowRoom(Slow):
    """A walkthrough that finds what an expression means by its words."""

    def __init__(self, scene, instance, observation):
        super().__init__(scene, instance)
        self.colours = {item.id: own_colour(item) for item in observation.objects}

    def spot(self, number):
        center = self.scene.objects[number - 1].box.center
        return complex(center[0], center[1])

    def frame(self, number):
        return int(np.argmax(self.shares(number) >= 0.004)) if self.is_seen(number) else NEVER

    def is_left(self, number, observer, facing):
        here = self.place(observer)
        return ((self.spot(number) - here) / (self.place(facing) - here)).imag > 0

    def is_between(self, number, first, second):
        start, end, spot = (
            np.asarray(self.scene.objects[at - 1].box.center) for at in (self.only(first), self.only(second), number)
        )
        corners = np.linalg.norm([spot - start, end - spot, end - start], axis=1)  # of a triangle, by Heron's formula
        area = np.sqrt(max(0.0, np.prod([corners.sum() / 2, *(corners.sum() / 2 - corners)])))
        is_sideways = corners[0] ** 2 + corners[2] ** 2 > corners[1] ** 2 > corners[0] ** 2 - corners[2] ** 2
        return is_sideways and 2 * area / corners[2] < 0.28 * corners[2]

    def meant(self, text):
        """The numbers of the objects that are meant, and those among which they are."""
        phrase = re.sub(r"^(the|every) ", "", text)
        for pattern, find in WAYS.items():
            match = re.fullmatch(pattern, phrase)
            if match:
                noun, *words = match.groups()
                if pattern.startswith("(largest"):
                    noun, words = words[0], [noun]
                if noun not in self.numbers and " " in noun and noun.partition(" ")[0] in set(self.colours.values()):
                    colour, _, noun = noun.partition(" ")
                    return {n for n in self.numbers.get(noun, ()) if self.colours[n] == colour}
                anchors = {n for name in words for n in self.numbers.get(name, ())}
                shown = [item.instance for item in self.scene.objects if self.shares(item.instance).max() >= 0.0008]
                among = shown if noun == "object" else self.numbers.get(noun, ())
                return set(find(self, [n for n in among if n not in anchors], *words))
        raise AssertionError(text)


def nearest(slow, among, anchor, sign=1):
    return sorted(among, key=lambda n: sign * slow.distance(n, slow.only(anchor)))[:1]


def volume(slow, number):
    return np.prod(slow.scene.objects[number - 1].box.size)


WAYS = {
    r"(largest|smallest) (.+)": lambda s, among, which: sorted(
        among, key=lambda n: volume(s, n) * (1 if which == "smallest" else -1)
    )[:1],
    r"(.+) closest to the (.+)": nearest,
    r"(.+) farthest from the (.+)": lambda s, among, anchor: nearest(s, among, anchor, -1),
    r"(.+) less than ([0-9.]+) m from the (.+)": lambda s, among, limit, a: [
        n for n in among if s.distance(n, s.only(a)) < float(limit)
    ],
    r"(.+) on the left, seen from the (.+) towards the (.+)": lambda s, among, a, b: [
        n for n in among if s.is_left(n, a, b)
    ],
    r"(.+) on the right, seen from the (.+) towards the (.+)": lambda s, among, a, b: [
        n for n in among if not s.is_left(n, a, b)
    ],
    r"(.+) between the (.+) and the (.+)": lambda s, among, a, b: [n for n in among if s.is_between(n, a, b)],
    r"(.+) on the (.+)": lambda s, among, a: [n for n in among if s.scene.objects[n - 1].on == s.only(a)],
    r"(.+) that is seen first": lambda s, among: sorted(among, key=s.frame)[:1],
    r"(.+) seen before the (.+)": lambda s, among, a: [n for n in among if s.frame(n) < s.frame(s.only(a))],
    r"(.+)": lambda s, among: among,
}


@pytest.fixture(scope="module")
def walkthroughs():
    made = []
    for room in (0, 7):
        scene = sample_scene(scene_seed("train", room), load_furniture())
        _, instance = EmbreeRenderer(scene).geometry(sample_trajectory(scene, 0, 17), 128, 128)
        observation = observe_scene(scene, instance)
        made.append((SlowRoom(scene, instance, observation), observation))
    return made


def test_expressions_mean_what_their_words_say(walkthroughs):
    counts = Counter()
    for slow, observation in walkthroughs:
        candidates = referring_candidates(observation, np.random.default_rng(0))
        several = [expression for expression in candidates if len(expression.targets) > 1][::9]
        chosen = referring_expressions(observation, (0,), 8)
        for expression in (*candidates[:: len(candidates) // 200], *several, *chosen):
            assert slow.meant(expression.text) == set(expression.targets), expression
            counts[expression.relation, len(expression.targets)] += 1
    assert len({relation for relation, _ in counts}) == 13
    assert {number for _, number in counts} >= {0, 1, 2, 3}


def test_situated_answers(walkthroughs):
    counts = Counter()
    for slow, observation in walkthroughs:
        for question in situated_questions(observation, (1,), 12):
            observer, facing, *others = (observation.by_id[number].name for number in question.object_ids)
            sides = {}
            for name in others:
                seen = turned(slow, observer, facing, name)
                behind = seen.imag < 0 and abs(seen.imag) > abs(seen.real)
                sides[name] = "behind me" if behind else "to my left" if seen.real < 0 else "to my right"
            answer = question.options[question.right]
            asked = next((words for words in sides.values() if words in question.question), None)
            if question.question_type == "situated_where":
                assert answer == sides[others[0]]
            elif question.question_type == "situated_whether":
                assert (answer == "yes") == (sides[others[0]] in question.question)
            else:
                assert asked is not None and [name for name in others if sides[name] == asked] == [answer]
                assert sorted(others) == sorted(question.options)
            counts[question.question_type] += 1
    assert set(counts) == set(SITUATED_MAKERS)
