"""What is asked about a clip, and the answer in words: the benchmark's questions, the floor plan's, and people's."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from research.tiny.study.answers import FloorPlan, judged, reasoned_answer, told_place
from research.tiny.study.question_forms import CELL, CELL_FORM, FIRST_FRAME, PLACE, PLAN_FORMS
from research.tiny.study.tower import PATCH
from research.tiny.study.wordings import (
    DESCRIPTION,
    PRESENCE,
    absent,
    asked_slots,
    description_text,
    first_frame_text,
    place_text,
    presence_text,
    reworded,
)
from vega3d.questions import reason_and_answer
from vega3d.rooms.questions.marks import box_text, in_words
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.questions.questions import GeometricQuestion, make_questions
from vega3d.rooms.scene.classes import CLASSES

TALK_KINDS = (PRESENCE, DESCRIPTION, CELL)  # asked in training alone, as people type them
CELLS = 6  # places of a clip that are asked about
PLAIN_SHARE = 0.5  # of the benchmark's questions, that are asked in plain words as well
PLAIN_STREAM = 9  # of the random numbers


def clip_rows(
    observation: Observation,
    plan: FloorPlan,
    labels: np.ndarray,
    seed: Sequence[int],
    per_type: int,
    with_plain: bool = False,
) -> list[dict]:
    """Rows about one clip: `type`, `question`, `options`, `answer` (a letter, number or text), `words`, `is_plain`.

    Args:
        observation, plan, labels: of the clip; the last are its `tower.patch_labels`.
        seed: of all choices.
        per_type: most questions of one of the benchmark's types.
        with_plain: also ask as people do, which is for training.
    """
    height, width = observation.ids.shape[1:]
    questions = [
        in_words(question, question.frame, width, height) if question.frame is not None else question
        for question in make_questions(observation, seed, per_type)
    ]
    rows = [
        row(question.question_type, question.question, question.options, question.answer, words)
        for question in questions
        for words in [reasoned_answer(question, observation, plan)]
    ]
    rows += [row(kind, question, (), answer, answer) for kind, question, answer in plan_rows(plan)]
    if with_plain:
        random = np.random.default_rng([*seed, PLAIN_STREAM])
        rows += [*plain_rows(questions, observation, plan, random), *talk_rows(observation, plan, random)]
        rows += cell_rows(observation, plan, labels, random)
    return rows


def row(
    kind: str, question: str, options: Sequence[str], answer: str, words: str, is_plain: bool = False
) -> dict[str, Any]:
    texts = {"question": question, "options": list(options), "answer": answer, "words": words}
    return {"type": kind, **texts, "is_plain": is_plain}


def plain_rows(
    questions: Sequence[GeometricQuestion], observation: Observation, plan: FloorPlan, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """About half of the benchmark's questions as people type them.

    A choice whose question names the choices has no options, and its answer is the word.
    A number is in the unit asked.
    """
    for question in questions:
        kind, names = asked_slots(question.question)
        if random.random() >= PLAIN_SHARE:
            continue
        asked = reworded(kind, names, random, "" if question.options else question.answer, question.options)
        reason, answer = reason_and_answer(reasoned_answer(question, observation, plan, asked.needs_options))
        if question.options:
            stem, word = reason.partition(": ")[0], asked.options[question.right]
            said = f"{word}{judged(question.question_type, asked.options, question.right)}"
            reason, answer = (f"{stem}: {said}", answer) if asked.needs_options else (stem, word)
        else:
            answer = asked.answer
        options = asked.options if asked.needs_options else ()
        yield row(
            question.question_type, asked.question, options, answer, ". ".join(filter(None, (reason, answer))), True
        )


def talk_rows(observation: Observation, plan: FloorPlan, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What people ask beside: what is there, where it is and when it is seen, also of what is not there."""
    seen = sorted({item.name for item in observation.visible})
    absent_names = [name for name in CLASSES if name not in {item.name for item in observation.objects}]
    for name in drawn(list(plan.places), 2, random):
        place = plan.places[name]
        for kind, answer in ((PLACE, place_text(place)), (FIRST_FRAME, first_frame_text(place))):
            yield row(kind, reworded(kind, {"a": name}, random).question, (), answer, answer, True)
    for names, is_seen in ((seen, True), (absent_names, False)):
        for name in drawn(names, 1, random):
            asked = reworded(PRESENCE, {"a": name}, random)
            answer = presence_text(asked.said[name], is_seen)
            yield row(PRESENCE, asked.question, (), answer, answer, True)
    for name in drawn(absent_names, 1, random):
        asked = reworded(PLACE, {"a": name}, random)
        yield row(PLACE, asked.question, (), absent(asked.said[name]), absent(asked.said[name]), True)
    answer = description_text(observation)
    yield row(DESCRIPTION, reworded(DESCRIPTION, {}, random).question, (), answer, answer, True)


def cell_rows(
    observation: Observation, plan: FloorPlan, labels: np.ndarray, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """What some patches of uint8[T, h, w] show and where that is, told by place: what a box in words is about."""
    height, width = labels.shape[1:]
    middles = slice(PATCH // 2, None, PATCH)
    ids = observation.ids[:, middles, middles]
    shown = labels * np.isin(ids, list(plan.by_id))  # a middle may show another object than most of a patch
    places = np.argwhere(shown)
    for frame, row_number, column in places[random.permutation(len(places))[:CELLS]].tolist():
        item = observation.by_id[int(ids[frame, row_number, column])]
        if item.name != CLASSES[labels[frame, row_number, column] - 1]:
            continue
        left, top = column * PATCH, row_number * PATCH
        place = box_text((left, top, left + PATCH, top + PATCH), frame, width * PATCH, height * PATCH)
        answer = f"{item.name} {told_place(*plan.by_id[item.id])}"
        yield row(CELL, CELL_FORM.format(place=place), (), answer, answer, True)


def drawn(names: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    return [names[place] for place in random.permutation(len(names))[:count]]


def plan_rows(plan: FloorPlan) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer about each object of the plan."""
    for name, place in plan.places.items():
        yield PLACE, PLAN_FORMS[PLACE].format(a=name), plan.place(name)
        yield FIRST_FRAME, PLAN_FORMS[FIRST_FRAME].format(a=name), str(place.frame)
