"""Questions about directions: where an object lies for an observer at another one, and the turns of a route."""

import itertools
from collections.abc import Sequence

import numpy as np

from vega3d.rooms.questions.geometric_question import MAX_OPTIONS, Candidates, Maker, choice, shuffled_groups
from vega3d.rooms.questions.observation import Observation, ObservedObject

DIRECTION_MARGIN = 15.0  # [deg]
STANDOFF = 0.6  # [m] between the places that define a direction
SHORTEST_LEG = 1.0  # [m] of a route
TURNS = {"left": "Turn Left", "right": "Turn Right", "back": "Turn Back"}


def bearing(observer: np.ndarray, facing: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float[...]: angle [deg] in (-180, 180] by which an observer who faces `facing` turns left to face `target`.

    Args:
        observer: float[2] on the floor plan [m].
        facing: float[2].
        target: float[..., 2].
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
            ids = (observer.id, facing.id, target.id)
            if ids not in observation.directions:
                observation.directions[ids] = directions(observer, facing, target)
            right = observation.directions[ids].get(level)
            if right is None:
                continue
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
