"""Questions in the form of VSI-Bench whose answers are computed from the geometry of a scene.

Wording, answer formats and the meaning of directions are those of VSI-Bench (Yang et al., "Thinking in Space", 2024),
so that one prompt and one metric serve both. An ambiguous question is not asked: distances that decide differ by 15 %
or more, directions keep 15 degrees from the border of their sector, objects are truly visible and their names unique.
"""

import itertools
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vega3d.rooms.questions.observation import GLIMPSE_FRACTION, VISIBLE_FRACTION, Observation, ObservedObject
from vega3d.rooms.questions.text_prior import CLUES, unrevealing

MAX_OPTIONS = 4
DISTANCE_MARGIN = 1.15
SHORTEST_DISTANCE = 0.3  # [m]; VSI-Bench's answers have one decimal
DIRECTION_MARGIN = 15.0  # [deg]
STANDOFF = 0.6  # [m] between the places that define a direction
SHORTEST_LEG = 1.0  # [m] of a route
TURNS = {"left": "Turn Left", "right": "Turn Right", "back": "Turn Back"}
Item = TypeVar("Item")


@dataclass(frozen=True)
class GeometricQuestion:
    """A question whose answer was computed from the geometry of a room."""

    question_type: str  # one of VSI-Bench's ten, or `localisation_by_choice`
    question: str  # what is asked, without the options
    answer: str  # a letter, or a number as text
    options: tuple[str, ...] = ()  # texts of the choices, without letters; empty for a numeric question
    object_ids: tuple[int, ...] = ()  # instances that the answer was computed from
    frame: int | None = None  # for `localisation_by_choice`, the frame with the marked boxes
    # (left, top, right, bottom) [px] of the marked boxes A, B, C, D in that frame
    marks: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def right(self) -> int:
        """Number of the right option."""
        return string.ascii_uppercase.index(self.answer)


Candidates = Iterator[GeometricQuestion]
Maker = Callable[[Observation, np.random.Generator], Candidates]


def choice(
    question_type: str,
    question: str,
    right: str,
    wrong: Sequence[str],
    ids: Sequence[int],
    random: np.random.Generator,
) -> GeometricQuestion:
    """A multiple-choice question with its options in random order."""
    options = [right, *wrong]
    order = random.permutation(len(options)).tolist()
    letter = string.ascii_uppercase[order.index(0)]
    return GeometricQuestion(question_type, question, letter, tuple(options[i] for i in order), tuple(ids))


def shuffled_groups(
    items: Sequence[Item], size: int, random: np.random.Generator, tries: int = 20
) -> Iterator[list[Item]]:
    """Up to `tries` random groups of `size` items."""
    if len(items) < size:
        return
    for _ in range(tries):
        yield [items[i] for i in random.permutation(len(items))[:size]]


def object_counting(observation: Observation, random: np.random.Generator) -> Candidates:
    """Classes with two or more instances, all of them visible."""
    for name in sorted({item.name for item in observation.objects}):
        items = observation.named(name)
        if len(items) >= 2 and observation.visible_ids.issuperset(item.id for item in items):
            text = f"How many {name}(s) are in this room?"
            ids = tuple(item.id for item in items)
            yield GeometricQuestion("object_counting", text, str(len(items)), object_ids=ids)


def object_abs_distance(observation: Observation, random: np.random.Generator) -> Candidates:
    for first, second in itertools.combinations(observation.unique, 2):
        distance = observation.distance(first, second)
        if distance >= SHORTEST_DISTANCE:
            text = (
                "Measuring from the closest point of each object, what is the distance between the "
                f"{first.name} and the {second.name} (in meters)?"
            )
            ids = (first.id, second.id)
            yield GeometricQuestion("object_abs_distance", text, f"{distance:.1f}", object_ids=ids)


def object_size_estimation(observation: Observation, random: np.random.Generator) -> Candidates:
    for item in observation.unique:
        text = (
            "What is the length of the longest dimension (length, width, or height) of the "
            f"{item.name}, measured in centimeters?"
        )
        longest = round(100 * float(max(item.box.size)))
        yield GeometricQuestion("object_size_estimation", text, str(longest), object_ids=(item.id,))


def room_size_estimation(observation: Observation, random: np.random.Generator) -> Candidates:
    text = (
        "What is the size of this room (in square meters)? "
        "If multiple rooms are shown, estimate the size of the combined space."
    )
    yield GeometricQuestion("room_size_estimation", text, f"{observation.floor_area:.1f}")


def object_rel_distance(observation: Observation, random: np.random.Generator) -> Candidates:
    """Which of four objects is closest; no two of the four within 15 % of each other."""
    for anchor in observation.unique:
        others = [item for item in observation.unique if item.id != anchor.id]
        distances = {item.id: observation.distance(anchor, item) for item in others}
        for four in shuffled_groups(others, MAX_OPTIONS, random):
            ranked = sorted(four, key=lambda item: distances[item.id])
            lengths = [distances[item.id] for item in ranked]
            if lengths[0] < SHORTEST_DISTANCE or not apart(lengths):
                continue
            names = [item.name for item in four]
            text = (
                f"Measuring from the closest point of each object, which of these objects ({', '.join(names)}) "
                f"is the closest to the {anchor.name}?"
            )
            wrong = [item.name for item in ranked[1:]]
            ids = [anchor.id, *(item.id for item in ranked)]
            yield choice("object_rel_distance", text, ranked[0].name, wrong, ids, random)


def apart(lengths: Sequence[float]) -> bool:
    """Whether sorted lengths differ from each other by `DISTANCE_MARGIN` or more."""
    return all(longer >= DISTANCE_MARGIN * shorter for shorter, longer in itertools.pairwise(lengths))


def obj_appearance_order(observation: Observation, random: np.random.Generator) -> Candidates:
    """Order in which four classes are first seen; a glimpse and a full view must agree on it."""
    names = sorted({item.name for item in observation.visible})
    clear = {name: observation.first_seen(name, VISIBLE_FRACTION) for name in names}
    glimpse = {name: observation.first_seen(name, GLIMPSE_FRACTION) for name in names}
    by_frame: dict[int, str] = {}
    for name in (names[i] for i in random.permutation(len(names))):
        frame = clear[name]
        if frame is not None:
            by_frame.setdefault(frame, name)
    fours = shuffled_groups(list(by_frame.values()), MAX_OPTIONS, random)
    for four in dict.fromkeys(tuple(sorted(names, key=lambda name: clear[name] or 0)) for names in fours):
        firsts = [glimpse[name] for name in four]
        if any(a is None or b is None or a >= b for a, b in itertools.pairwise(firsts)):
            continue
        asked = [four[i] for i in random.permutation(MAX_OPTIONS)]
        text = (
            "What will be the first-time appearance order of the following categories in the video: "
            f"{', '.join(asked)}?"
        )
        wrong = [", ".join(order) for order in itertools.permutations(four)][1:]
        wrong = [wrong[i] for i in random.permutation(len(wrong))[: MAX_OPTIONS - 1]]
        ids = [item.id for name in four for item in observation.named(name)]
        yield choice("obj_appearance_order", text, ", ".join(four), wrong, ids, random)


def localisation_by_choice(observation: Observation, random: np.random.Generator) -> Candidates:
    """Which of four marked boxes in a frame is, of the objects of a class, the one closest to another object."""
    for frame in range(len(observation.ids)):
        shares = observation.mask_fractions
        shown = [item for item in observation.visible if shares[item.id][frame] >= VISIBLE_FRACTION]
        for name in sorted({item.name for item in shown}):
            items = [item for item in shown if item.name == name]
            if len(items) != len(observation.named(name)) or not 2 <= len(items) <= MAX_OPTIONS:
                continue
            fillers = [item for item in shown if item.name != name]
            if len(items) + len(fillers) < MAX_OPTIONS:
                continue
            for anchor in observation.unique:
                distances = {item.id: observation.distance(anchor, item) for item in items}
                ranked = sorted(items, key=lambda item: distances[item.id])
                if not apart([distances[item.id] for item in ranked[:2]]):
                    continue
                extra = [fillers[i] for i in random.permutation(len(fillers))[: MAX_OPTIONS - len(items)]]
                yield marked(observation, frame, ranked, extra, anchor, random)


def marked(observation, frame, ranked, extra, anchor, random) -> GeometricQuestion:
    four = [*ranked, *extra]
    four = [four[i] for i in random.permutation(len(four))]
    text = f"Which of the four marked boxes is the {ranked[0].name} that is the closest to the {anchor.name}?"
    return GeometricQuestion(
        "localisation_by_choice",
        text,
        string.ascii_uppercase[four.index(ranked[0])],
        tuple(f"box {letter}" for letter in string.ascii_uppercase[:MAX_OPTIONS]),
        (anchor.id, *(item.id for item in four)),
        frame,
        tuple(observation.pixel_box(item, frame) for item in four),
    )


def bearing(observer: np.ndarray, facing: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float[...]: angle [deg] in (-180, 180] by which an observer who faces `facing` turns left to face `target`.

    The observer's place is float[2] on the floor plan [m], as `facing` is; the target float[..., 2].
    """
    ahead, there = facing - observer, target - observer
    cross = ahead[0] * there[..., 1] - ahead[1] * there[..., 0]
    return np.degrees(np.arctan2(cross + 0.0, there @ ahead))  # straight back is 180, not -180


SECTORS: dict[str, dict[str, tuple[float, float]]] = {  # [deg], to the left; a border belongs to both neighbours
    "easy": {"left": (0, 180), "right": (-180, 0)},
    "medium": {"left": (45, 135), "right": (-135, -45), "back": (135, 225)},
    "hard": {"front-left": (0, 90), "front-right": (-90, 0), "back-left": (90, 180), "back-right": (-180, -90)},
}


def sector(level: str, angle: float, margin: float = 0.0) -> str | None:
    """Name of the sector that holds `angle` [deg] at `margin` from its borders, or None."""
    for name, (low, high) in SECTORS[level].items():
        if low + margin <= angle <= high - margin or low + margin <= angle + 360 <= high - margin:
            return name
    return None


def directions(observer: ObservedObject, facing: ObservedObject, target: ObservedObject) -> dict[str, str]:
    """Sector of the target for an observer who stands at one object and faces another, by level.

    Without a level where it is not clear: places nearer than `STANDOFF`, the target's centre within `DIRECTION_MARGIN`
    of a border, or a corner of its footprint across it.
    """
    places = [observer.place, facing.place, target.place]
    if any(np.linalg.norm(a - b) < STANDOFF for a, b in itertools.combinations(places, 2)):
        return {}
    middle = float(bearing(*places))
    names = {level: sector(level, middle, DIRECTION_MARGIN) for level in SECTORS}
    corners = bearing(places[0], places[1], target.footprint).tolist() if any(names.values()) else []
    return {
        level: name
        for level, name in names.items()
        if name is not None and all(sector(level, corner) == name for corner in corners)
    }


def known_directions(
    observation: Observation, observer: ObservedObject, facing: ObservedObject, target: ObservedObject
) -> dict[str, str]:
    """What `directions` gives, found once for all walkthroughs of a room."""
    ids = (observer.id, facing.id, target.id)
    if ids not in observation.directions:
        observation.directions[ids] = directions(observer, facing, target)
    return observation.directions[ids]


DIRECTION_QUESTIONS = {
    "easy": "is the {target} to the left or the right of the {facing}?",
    "medium": (
        "is the {target} to my left, right, or back? "
        "An object is to my back if I would have to turn at least 135 degrees in order to face it."
    ),
    "hard": (
        "is the {target} to my front-left, front-right, back-left, or back-right? The directions refer to the "
        "quadrants of a Cartesian plane (if I am standing at the origin and facing along the positive y-axis)."
    ),
}


def object_rel_direction(level: str) -> Maker:
    """The questions of one level: `easy`, `medium` or `hard`."""

    def candidates(observation: Observation, random: np.random.Generator) -> Candidates:
        for observer, facing, target in itertools.permutations(observation.unique, 3):
            right = known_directions(observation, observer, facing, target).get(level)
            if right is None:
                continue
            ids = (observer.id, facing.id, target.id)
            asked = DIRECTION_QUESTIONS[level].format(target=target.name, facing=facing.name)
            text = f"If I am standing by the {observer.name} and facing the {facing.name}, {asked}"
            wrong = [name for name in SECTORS[level] if name != right]
            yield choice(f"object_rel_direction_{level}", text, right, wrong, ids, random)

    return candidates


def route_planning(observation: Observation, random: np.random.Generator) -> Candidates:
    """Routes over three or four objects; the turns between the legs are asked for."""
    for stops in (3, 4):
        for route in shuffled_groups(observation.unique, stops, random):
            legs = [np.linalg.norm(b.place - a.place) for a, b in itertools.pairwise(route)]
            turns = [turn(*three) for three in zip(route, route[1:], route[2:], strict=False)]
            if min(legs) < SHORTEST_LEG or None in turns:
                continue
            right = ", ".join(TURNS[name] for name in turns if name is not None)
            every = [", ".join(names) for names in itertools.product(TURNS.values(), repeat=len(turns))]
            wrong = [text for text in every if text != right]
            wrong = [wrong[i] for i in random.permutation(len(wrong))[: MAX_OPTIONS - 1]]
            ids = [item.id for item in route]
            yield choice("route_planning", route_text(route), right, wrong, ids, random)


def turn(before: ObservedObject, here: ObservedObject, after: ObservedObject) -> str | None:
    """Turn of a robot that came from `before` and goes on to `after`; None if it is straight on or not clear."""
    ahead = 2 * here.place - before.place
    return sector("medium", float(bearing(here.place, ahead, after.place)), DIRECTION_MARGIN)


def route_text(route: Sequence[ObservedObject]) -> str:
    start, first, *rest = route
    actions = [f"Go forward until the {first.name}"]
    for stop in rest:
        actions += ["[please fill in]", f"Go forward until the {stop.name}"]
    steps = ". ".join(f"{number}. {action}" for number, action in enumerate(actions, start=1))
    return (
        f"You are a robot beginning at the {start.name} and facing the {first.name}. You want to navigate to the "
        f"{route[-1].name}. You will perform the following actions (Note: for each [please fill in], choose either "
        f"'turn back,' 'turn left,' or 'turn right.'): {steps}. You have reached the final destination."
    )


QUESTION_MAKERS: dict[str, Maker] = {
    "object_counting": object_counting,
    "object_abs_distance": object_abs_distance,
    "object_size_estimation": object_size_estimation,
    "room_size_estimation": room_size_estimation,
    "object_rel_distance": object_rel_distance,
    "object_rel_direction_easy": object_rel_direction("easy"),
    "object_rel_direction_medium": object_rel_direction("medium"),
    "object_rel_direction_hard": object_rel_direction("hard"),
    "route_planning": route_planning,
    "obj_appearance_order": obj_appearance_order,
    "localisation_by_choice": localisation_by_choice,
}


def make_questions(observation: Observation, seed: Sequence[int], per_type: int = 2) -> list[GeometricQuestion]:
    """Up to `per_type` questions of each type, chosen at random from all that can be asked.

    A type of choice leaves out questions so that words alone do not give the answer away (`text_prior`); a numeric
    type takes answers in turn.

    Args:
        observation: what one walkthrough shows.
        seed: the same seed and observation give the same questions.
        per_type: most questions of a type.

    Raises:
        ValueError: if `per_type` is below 1.
    """
    if per_type < 1:
        raise ValueError(f"per_type is {per_type}, but must be at least 1.")
    questions: list[GeometricQuestion] = []
    for stream, name in enumerate(QUESTION_MAKERS):
        random = np.random.default_rng([*seed, stream])
        candidates = shuffled_candidates(name, observation, random)
        if name in CLUES:
            kept = unrevealing(candidates, (names_in(question, observation) for question in candidates), random)
            questions += itertools.islice(kept, per_type)
        else:
            questions += spread_answers(candidates, per_type)
    return questions


def shuffled_candidates(
    question_type: str, observation: Observation, random: np.random.Generator
) -> list[GeometricQuestion]:
    """All questions of a type that can be asked, in random order."""
    candidates = list(QUESTION_MAKERS[question_type](observation, random))
    return [candidates[i] for i in random.permutation(len(candidates))]


def names_in(question: GeometricQuestion, observation: Observation) -> list[str]:
    """Classes of the objects of a question."""
    return [observation.by_id[number].name for number in question.object_ids]


def spread_answers(candidates: list[GeometricQuestion], count: int) -> list[GeometricQuestion]:
    """The first `count` candidates, taking in turn those whose answer has been given least."""
    chosen: list[GeometricQuestion] = []
    given: Counter[str] = Counter()
    left = list(candidates)
    while left and len(chosen) < count:
        best = min(left, key=lambda question: given[question.answer])
        left.remove(best)
        chosen.append(best)
        given[best.answer] += 1
    return chosen
