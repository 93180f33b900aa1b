"""What the vision tower learns to see before any spatial question: objects, their attributes, and captions.

No sentence here tells a distance, a size, a direction, a number of objects, or an order in time.
"""

import string
from collections.abc import Iterator

import numpy as np

from vega3d.rooms.questions.annotations import attribute_questions, listed, own_colour, with_article
from vega3d.rooms.questions.observation import VISIBLE_FRACTION, Observation, ObservedObject
from vega3d.rooms.scene.classes import CLASSES

MARKED = 4  # boxes in the frame whose objects are to be named
MARKED_FRAMES = 2  # such frames of a clip
CLOSE_UPS = 8  # objects of a clip that are shown by themselves
PRESENT = 4  # questions whether an object is there, half of them with the answer no
CLOSE_UP = "close_up"
CLIP_KINDS = ("name", "presence", "colour", "contents", "caption")
KINDS = (*CLIP_KINDS, CLOSE_UP)


def stage0_rows(
    observation: Observation, random: np.random.Generator, first_visual: int
) -> tuple[list[dict], list[dict]]:
    """
    Args:
        observation: of one clip.
        random: of the choices made here.
        first_visual: number of the first visual that is made here.

    Returns:
        Visuals with marked objects, or with one object that fills the frame (`close_up`, its box); and rows: `stage`
        0, `type` of `KINDS`, `question`, `answer`, `visual`.
    """
    visuals: list[dict] = []
    rows = []
    for frame, items in marked_frames(observation, random):
        number = first_visual + len(visuals)
        visuals.append({"frame": frame, "marks": [list(observation.pixel_box(item, frame)) for item in items]})
        for letter, item in zip(string.ascii_uppercase, items, strict=False):
            rows.append(row("name", f"What is the object in box {letter}?", item.name, number))
    for frame, item in close_ups(observation, random):
        number = first_visual + len(visuals)
        visuals.append({"frame": frame, "marks": [], "close_up": list(observation.pixel_box(item, frame))})
        rows.append(row(CLOSE_UP, "What is this?", item.name, number))
    rows += [row("presence", question, answer) for question, answer in presence(observation, random)]
    rows += [row(asked.kind, asked.question, asked.answer) for asked in attribute_questions(observation)]
    rows += [
        row("caption", f"Describe the {item.name}.", short_caption(item, observation)) for item in observation.unique
    ]
    return visuals, rows


def row(kind: str, question: str, answer: str, visual: int = 0) -> dict:
    return {"stage": 0, "type": kind, "question": question, "options": [], "answer": answer, "visual": visual}


def marked_frames(observation: Observation, random: np.random.Generator) -> Iterator[tuple[int, list[ObservedObject]]]:
    """Up to `MARKED_FRAMES` frames, each with one to `MARKED` of the objects that it shows, in random order."""
    shown = objects_shown(observation)
    usable = [frame for frame, items in shown.items() if items]
    for frame in sorted(random.permutation(usable)[:MARKED_FRAMES].tolist()):
        items, count = shown[frame], 1 + int(random.integers(MARKED))
        yield frame, [items[place] for place in random.permutation(len(items))[:count]]


def close_ups(observation: Observation, random: np.random.Generator) -> Iterator[tuple[int, ObservedObject]]:
    """Objects of different classes, each in a frame that shows it."""
    places = [(frame, item) for frame, items in objects_shown(observation).items() for item in items]
    seen: set[str] = set()
    for place in random.permutation(len(places)).tolist():
        frame, item = places[place]
        if item.name not in seen and len(seen) < CLOSE_UPS:
            seen.add(item.name)
            yield frame, item


def objects_shown(observation: Observation) -> dict[int, list[ObservedObject]]:
    """By frame, those that fill `VISIBLE_FRACTION` of it."""
    fractions = observation.mask_fractions
    return {
        frame: [item for item in observation.visible if fractions[item.id][frame] >= VISIBLE_FRACTION]
        for frame in range(len(observation.ids))
    }


def presence(observation: Observation, random: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Objects that are seen, and names of other rooms' objects that this one has not."""
    seen = sorted({item.name for item in observation.visible})
    there = {item.name for item in observation.objects}
    absent = [name for name in CLASSES if name not in there]
    for names, answer in ((seen, "yes"), (absent, "no")):
        for place in random.permutation(len(names))[: PRESENT // 2]:
            yield f"Is there {with_article(names[place])} in this room?", answer


def short_caption(item: ObservedObject, observation: Observation) -> str:
    """Colour and name, what it stands on, and what stands on it; sizes and neighbours are left to stage 1."""
    colour = own_colour(item)
    parts = [with_article(item.name if colour is None else f"{colour} {item.name}")]
    carrier = observation.by_id.get(item.on)
    if carrier is not None:
        parts.append(f"on {with_article(carrier.name)}")
    carried = sorted({other.name for other in observation.visible if other.on == item.id})
    if carried:
        parts.append(f"with {listed([with_article(name) for name in carried])} on it")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
