"""Referring expressions and situated questions: what they mean, by a room laid out by hand and by a slow path."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from test_annotations import with_traits
from test_answers import Slow, turned
from test_questions import ROOM, observe, observe_all, thing

from vega3d.rooms import load_furniture, sample_scene, sample_trajectory, scene_seed
from vega3d.rooms.questions.annotations import own_colour
from vega3d.rooms.questions.observation import observe as observe_scene
from vega3d.rooms.questions.referring import (
    COUNTS,
    OF_ANY,
    OR,
    balanced,
    even_shares,
    referring_candidates,
    referring_expressions,
    singled_out,
)
from vega3d.rooms.questions.situated import SITUATED_MAKERS, drawn, expected, sides_of, situated_questions, where
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.scene.classes import CLASSES

NEVER = 10_000  # a frame after all


def meant_by(observation, seeds=range(20)) -> dict[str, tuple[int, ...]]:
    """Objects by expression, of several draws of anchors."""
    found = [referring_candidates(observation, np.random.default_rng(seed)) for seed in seeds]
    return {expression.text: expression.targets for candidates in found for expression in candidates}


def test_expressions_mean_one_none_or_several():
    meant = meant_by(observe())

    assert meant["every chair closer to the table than to the bed"] == (5, 6)
    assert meant["every chair or lamp on the left, seen from the table towards the wardrobe"] == (5, 7)
    assert meant["the chair closest to the bed"] == (7,)
    assert meant["the chair farthest from the bed"] == (6,)
    assert meant["every chair on the left, seen from the table towards the wardrobe"] == (5, 7)
    assert meant["the chair that is seen first"] == (5,)
    assert meant["every chair seen before the plant"] == (5, 6, 7)
    assert meant["the lamp on the table"] == ()
    assert "the chair" not in meant and "every object" not in meant and "the smallest bed" not in meant


def test_what_geometry_leaves_in_doubt_is_not_said():
    at_the_limit = thing(9, "chair", 1.8, 0.0)  # 1 m from the table
    as_far = thing(10, "chair", 1.2, 0.0)
    meant = meant_by(observe_all((ROOM[0], ROOM[2], at_the_limit)))
    assert "the chair less than 1 m from the lamp" in meant
    assert "the chair less than 1 m from the table" not in meant

    meant = meant_by(observe_all((ROOM[0], ROOM[1], thing(3, "chair", -1.2, 0.0), as_far)))
    assert "the chair farthest from the bed" not in meant
    assert "the chair closest to the table" not in meant


def test_what_was_not_seen_is_not_meant():
    assert meant_by(observe())["the chair closest to the bed"] == (7,)
    hidden = meant_by(observe(hidden=(7,)))
    assert "the chair closest to the bed" not in hidden
    assert hidden["every chair closer to the table than to the bed"] == (5, 6)  # the hidden one is none of them


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

    assert kinds["every chair seen before the plant"] == "mt"
    assert kinds["the lamp"] == "st_wo_d"
    assert kinds["the chair closest to the bed"] == "st_w_d"
    assert kinds["the lamp on the table"] == "zt_w_d"
    absent = next(
        expression
        for expression in candidates
        if not {"object", *(o.name for o in ROOM)}.intersection(expression.noun.split(OR))
    )
    assert absent.kind == "zt_wo_d"
    for expression in singled_out(candidates, np.random.default_rng(0), 8):
        assert expression.kind == ("unique" if expression.relation == "name" else "multiple")


def test_each_object_is_asked_about_equally_often():
    """So that its box says nothing of whether it is meant."""
    candidates = [said for said in referring_candidates(observe(), np.random.default_rng(0)) if OR not in said.noun]
    counts = Counter(singled_out(candidates, np.random.default_rng(seed), 1)[0].targets[0] for seed in range(2400))
    assert set(counts) == {item.id for item in ROOM}
    np.testing.assert_allclose(np.array(list(counts.values())) / 2400, 1 / 8, atol=4 * (7 / 64 / 2400) ** 0.5)


def test_anchors_are_what_the_words_name_in_their_order():
    observation = observe()
    anchored = [said for said in referring_candidates(observation, np.random.default_rng(0)) if said.anchors]
    assert {len(said.anchors) for said in anchored} == {1, 2}
    for said in anchored:
        names = [observation.by_id[number].name for number in said.anchors]
        assert tuple(names) == said.clues[-len(names) :]
        assert not {*said.anchors} & {*said.targets}


def asked_of(observation, question_type):
    candidates = referring_candidates(observation, np.random.default_rng(0))
    return [said for said in candidates if said.question_type == question_type and said.relation in OF_ANY]


@pytest.mark.parametrize("question_type", COUNTS)
def test_as_many_mean_none_one_and_several(question_type, walkthroughs):
    """So that the boxes of a walkthrough do not tell how many are meant."""
    for _, observation in walkthroughs:
        chosen = balanced(asked_of(observation, question_type), np.random.default_rng(0), 5)
        assert len({said.text for said in chosen}) == len(chosen)
        assert Counter(said.right for said in chosen) == dict.fromkeys(range(len(COUNTS[question_type])), 5)


@pytest.mark.parametrize("question_type", COUNTS)
def test_nothing_is_drawn_where_a_number_is_never_meant(question_type, walkthroughs):
    """Even if all words of some expressions stand with each of the other numbers."""
    asked = asked_of(walkthroughs[0][1], question_type)
    for missing in range(len(COUNTS[question_type])):
        left = [said for said in asked if said.right != missing]
        assert left and balanced(left, np.random.default_rng(0), 5) == []


@pytest.mark.parametrize("question_type", COUNTS)
def test_words_and_boxes_alone_give_nothing_away(question_type, walkthroughs):
    """Baselines that know how often each word and each box of a walkthrough stands with each answer, and see no more.

    `benchmarks/grounding_bias.py` measures baselines on rooms that they have not seen, where they know less.
    """
    words_above, boxes_above = [], []
    for _, observation in walkthroughs:
        asked = asked_of(observation, question_type)
        stood, meant = Counter(), Counter()
        for said, share in zip(asked, even_shares(asked), strict=True):
            stood.update(dict.fromkeys(((word, said.right) for word in said.words), share))
            meant.update(dict.fromkeys(((target, said.right) for target in said.targets), share))
        options = range(len(COUNTS[question_type]))
        masses = np.array([[stood[word, right] for right in options] for word in {word for word, _ in stood}])
        words_above.append(masses.max(axis=1).sum() / masses.sum() - 1 / len(options))
        shares = np.array([[meant[item.id, right] for right in options[1:]] for item in observation.visible])
        boxes_above.append((shares.max(axis=0) - shares.mean(axis=0)).mean())
    assert 0 <= np.mean(words_above) < 0.03
    assert 0 <= np.mean(boxes_above) < 0.05


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
        if OR in phrase:
            first, _, rest = phrase.partition(OR)
            second = next(name for name in sorted(CLASSES, key=len, reverse=True) if rest.startswith(name))
            return {number for noun in (first, second) for number in self.meant(noun + rest[len(second) :])}
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
    r"(.+) closer to the (.+) than to the (.+)": lambda s, among, a, b: [
        n for n in among if s.distance(n, s.only(a)) < s.distance(n, s.only(b))
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
        several = [expression for expression in candidates if len(expression.targets) > 1]
        chosen = referring_expressions(observation, (0,), 8)
        single = [expression for expression in candidates if OR not in expression.noun]
        by_relation = {expression.relation: expression for expression in single}.values()
        for expression in (*by_relation, *single[:: len(single) // 150], *several[::29], *chosen):
            assert slow.meant(expression.text) == set(expression.targets), expression
            counts[expression.relation, len(expression.targets)] += 1
    assert len({relation for relation, _ in counts}) == 14
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


def test_the_same_words_have_each_answer_as_often(walkthroughs):
    """Of 150 draws, but for the situation; and no question comes twice in one of them."""
    asked = defaultdict(Counter)
    for seed in range(150):
        _, observation = walkthroughs[seed % 2]
        questions = situated_questions(observation, (seed,), 8)
        assert len({(question.question, question.object_ids) for question in questions}) == len(questions)
        for question in questions:
            subject = question.question.replace(" or ", ", ").split(": ")
            words = (subject[0], *sorted(subject[1].rstrip("?").split(", "))) if len(subject) > 1 else subject[0]
            asked[seed % 2, question.question_type, words][question.options[question.right]] += 1
    for (_, name, words), answers in asked.items():
        options, count = (3 if name == "situated_where" else 2), answers.total()
        bound = 5 * (count * (1 / options) * (1 - 1 / options)) ** 0.5
        assert max(answers.values()) - count / options <= bound + 1, (words, answers)
    assert max(answers.total() for answers in asked.values()) > 40


def test_situations_that_words_let_one_expect_are_drawn_more_rarely(walkthroughs):
    _, observation = walkthroughs[0]
    random, sides = np.random.default_rng(0), sides_of(observation)
    spread = {}
    for asked in where(observation.unique, sides, random):
        for right, situations in asked.answers.items():
            chances = [expected("situated_where", asked, one, observation)[right] for one in situations]
            if min(chances, default=0) > 1 / 3:  # likelier than another answer wherever one stands
                spread[np.std(chances)] = asked, right, chances
    asked, right, chances = spread[max(spread)]
    found = [drawn("situated_where", asked, right, observation, random) for _ in range(1000)]
    mean = np.mean([chances[asked.answers[right].index(one)] for one in found])
    assert mean < np.mean(chances) - 4 * np.std(chances) / 1000**0.5
