"""What is asked about a clip, and the answer in words: the benchmark's own questions, and the floor plan's."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from research.tiny.study.answers import BOXES, FloorPlan, reasoned_answer
from research.tiny.study.question_forms import FIRST_FRAME, PLACE, PLAN_FORMS
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.questions.questions import GeometricQuestion, make_questions

GRID = 12  # rows and columns, by which a box is told in words


def clip_rows(observation: Observation, plan: FloorPlan, seed: Sequence[int], per_type: int) -> list[dict]:
    """Rows about one clip: `type`, `question`, `options`, `answer` (a letter or number) and `words`."""
    rows = []
    for question in make_questions(observation, seed, per_type):
        asked = in_words(question, observation) if question.question_type == BOXES else question
        rows.append(
            {
                "type": asked.question_type,
                "question": asked.question,
                "options": list(asked.options),
                "answer": asked.answer,
                "words": reasoned_answer(asked, observation, plan),
            }
        )
    rows += [
        {"type": kind, "question": question, "options": [], "answer": answer, "words": answer}
        for kind, question, answer in plan_rows(plan)
    ]
    return rows


def plan_rows(plan: FloorPlan) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer about each object of the plan."""
    for name, place in plan.places.items():
        yield PLACE, PLAN_FORMS[PLACE].format(a=name), plan.place(name)
        yield FIRST_FRAME, PLAN_FORMS[FIRST_FRAME].format(a=name), str(place.frame)


def in_words(question: GeometricQuestion, observation: Observation) -> GeometricQuestion:
    """A question about marked boxes with the boxes told in words, such as `frame 7, row 5, column 9`."""
    height, width = observation.ids.shape[1:]
    options = tuple(
        f"frame {question.frame}, row {cell(top, bottom, height)}, column {cell(left, right, width)}"
        for left, top, right, bottom in question.marks
    )
    text = question.question.replace("marked boxes", "boxes")
    return replace(question, question=text, options=options, frame=None, marks=())


def cell(low: int, high: int, size: int) -> int:
    """Number from 0 of the row or column of `GRID` that holds the middle of a box."""
    return int((low + high) / 2 / size * GRID)
