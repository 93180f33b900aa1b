"""What can be said of the objects of a walkthrough beside VSI-Bench's questions: expressions, captions, attributes.

Each is true of the geometry and, as far as it names an object, of no other object of the room, seen or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vega3d.questions import with_article
from vega3d.rooms.questions.observation import VISIBLE_FRACTION, Observation, ObservedObject
from vega3d.rooms.questions.questions import DISTANCE_MARGIN

NEAR = 0.6  # [m] from what an object is said to be next to
LARGER = 1.5  # ratio of volumes from which one object is said to be the larger
DARK, LIGHT = 22.0, 88.0  # L* of black and white
GREYS = (38.0, 72.0)  # L* of grey
COLOURLESS = 7.0  # C* of black, grey and white
WHITE_POINT = (0.95047, 1.0, 1.08883)  # D65

# Hue [deg], least and greatest C* and L* in CIE L*a*b*; gaps between the names are colours that people argue about.
HUES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "pink": ((-30, 25), (16, 60), (62, 90)),
    "red": ((10, 43), (35, 120), (25, 58)),
    "brown": ((44, 84), (12, 55), (20, 52)),
    "orange": ((46, 72), (48, 120), (56, 80)),
    "beige": ((60, 100), (10, 32), (70, 90)),
    "yellow": ((80, 105), (42, 120), (65, 95)),
    "green": ((112, 178), (14, 120), (22, 85)),
    "blue": ((232, 304), (14, 120), (18, 85)),
    "purple": ((307, 335), (16, 120), (18, 75)),
}


@dataclass(frozen=True)
class Expression:
    """Words that mean one object of the room, such as "the chair closest to the window"."""

    text: str
    object_id: int  # instance id of the object


@dataclass(frozen=True)
class AttributeQuestion:
    """A question about one object with a short answer in words."""

    kind: str  # "colour" or "contents"
    question: str  # what is asked, as it is shown
    answer: str  # several things stand in alphabetical order
    object_ids: tuple[int, ...]  # the object asked about, and those of the answer


def listed(words: list[str]) -> str:
    """ "a cup, a book and a lamp"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def length_text(length: float) -> str:
    """ "1.2 m" or "40 cm", of a length [m]."""
    return f"{length:.1f} m" if length >= 0.995 else f"{100 * length:.0f} cm"


def own_colour(item: ObservedObject) -> str | None:
    return None if item.colour is None else colour_name(item.colour)


def expressions(observation: Observation) -> list[Expression]:
    """For each visible object, all expressions of the kinds here that mean it alone."""
    return [
        Expression(text, item.id) for item in observation.visible for text in object_expressions(item, observation)
    ]


def object_expressions(item: ObservedObject, observation: Observation) -> Iterator[str]:
    same = [other for other in observation.named(item.name) if other.id != item.id]
    if not same:
        yield f"the {item.name}"
        return
    if any(other not in observation.visible for other in same):
        return
    colours = [own_colour(other) for other in same]
    colour = own_colour(item)
    if colour is not None and None not in colours and colour not in colours:
        yield f"the {colour} {item.name}"
    volume = float(np.prod(item.box.size))
    volumes = [float(np.prod(other.box.size)) for other in same]
    degree = ("largest", "smallest") if len(same) > 1 else ("larger", "smaller")
    if volume > LARGER * max(volumes):
        yield f"the {degree[0]} {item.name}"
    if volume * LARGER < min(volumes):
        yield f"the {degree[1]} {item.name}"
    carrier = observation.by_id.get(item.on)
    if carrier in observation.unique and all(other.on != item.on for other in same):
        yield f"the {item.name} on the {carrier.name}"
    for anchor in observation.unique:
        reach = observation.distance(item, anchor)
        clear = DISTANCE_MARGIN * max(reach, 0.05)
        if anchor.id != item.on and all(observation.distance(other, anchor) > clear for other in same):
            yield f"the {item.name} closest to the {anchor.name}"


def captions(observation: Observation) -> dict[int, str]:
    """A sentence about each visible object: colour, size, what it stands on or next to, what stands on it."""
    return {item.id: caption(item, observation) for item in observation.visible}


def caption(item: ObservedObject, observation: Observation) -> str:
    colour = own_colour(item)
    subject = with_article(item.name if colour is None else f"{colour} {item.name}")
    width, depth, height = (length_text(edge) for edge in item.box.size)
    parts = [f"{subject}, {width} wide, {depth} deep and {height} high"]
    carrier = observation.by_id.get(item.on)
    if carrier is not None:
        parts.append(f"on {with_article(carrier.name)}")
    near = [
        (observation.distance(item, other), other.name)
        for other in observation.unique
        if other.id != item.id and other.id != item.on and other.on != item.id
    ]
    if near and min(near)[0] < NEAR:
        parts.append(f"next to the {min(near)[1]}")
    carried = sorted(other.name for other in observation.visible if other.on == item.id)
    if carried:
        parts.append(f"with {listed([with_article(name) for name in carried])} on it")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def attribute_questions(observation: Observation) -> list[AttributeQuestion]:
    """What colour an object is, and what is on it, for objects with a name of their own in the room."""
    asked = []
    for item in observation.unique:
        colour = own_colour(item)
        if colour is not None:
            asked.append(AttributeQuestion("colour", f"What color is the {item.name}?", colour, (item.id,)))
        carried = sorted((other for other in observation.objects if other.on == item.id), key=lambda other: other.name)
        if carried and observation.visible_ids.issuperset(other.id for other in carried):
            answer = ", ".join(other.name for other in carried)
            ids = (item.id, *(other.id for other in carried))
            asked.append(AttributeQuestion("contents", f"What is on the {item.name}?", answer, ids))
    return asked


def frames_showing(item: ObservedObject, observation: Observation) -> list[int]:
    """Frames of which the object fills `VISIBLE_FRACTION`."""
    return np.flatnonzero(observation.mask_fractions[item.id] >= VISIBLE_FRACTION).tolist()


def lab(colour: np.ndarray) -> np.ndarray:
    """float[3]: CIE L*a*b* (D65) of an sRGB colour uint8[3]."""
    scaled = np.asarray(colour, float) / 255
    light = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ light
    scale = xyz / WHITE_POINT
    root = np.where(scale > (6 / 29) ** 3, np.cbrt(scale), scale / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def colour_name(colour: np.ndarray) -> str | None:
    """The name of an sRGB colour uint8[3], or None where people would not agree on one."""
    lightness, a, b = lab(colour)
    chroma = float(np.hypot(a, b))
    if chroma < COLOURLESS:
        if lightness < DARK:
            return "black"
        if lightness > LIGHT:
            return "white"
        return "grey" if GREYS[0] < lightness < GREYS[1] else None
    hue = float(np.degrees(np.arctan2(b, a)))
    named = [
        name
        for name, (turn, strength, brightness) in HUES.items()
        if any(turn[0] <= hue + whole <= turn[1] for whole in (0, 360))
        and strength[0] <= chroma <= strength[1]
        and brightness[0] <= lightness <= brightness[1]
    ]
    return named[0] if len(named) == 1 else None
