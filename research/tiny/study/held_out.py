"""The same questions in wordings that were trained and in wordings that were not, and what that costs.

A choice whose wording names its choices is asked without options, as in training, and answered with the word; a number
is told in the unit that is asked for. So letters are given for words here, and true numbers converted, before the
official parser and metric score both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from research.tiny.study.table import difference_table, score_table
from research.tiny.study.wordings import Rewording, asked_slots, reworded
from vega3d.evaluation.answerers import Answerer
from vega3d.evaluation.metrics import parse_official
from vega3d.evaluation.report import percent, scene_notes
from vega3d.evaluation.rules import VSIBENCH
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.questions import RawAnswer, ReasonedAnswer, SpatialQuestion

TRAINED = "trained wordings"
CONDITIONS: dict[str, dict[str, bool]] = {  # arguments of `wordings.reworded`
    TRAINED: {},
    "held-out wordings": {"held_out": True},
    "held-out wordings and names": {"held_out": True, "new_names": True},
}


@dataclass(frozen=True, kw_only=True)
class PlainQuestion(AnnotatedQuestion):
    """A benchmark's question as somebody might type it; `options` and the letter of `answer` are the benchmark's."""

    asked: Rewording

    @property
    def prompt(self) -> str:
        return SpatialQuestion(
            None, self.asked.question, self.asked.options if self.asked.needs_options else ()
        ).prompt

    def official(self, answer: str) -> str:
        """An answer in the benchmark's form: of a word that stands for an option its letter, and nothing of others."""
        if not self.options or self.asked.needs_options:
            return answer
        words = [option.lower() for option in self.asked.options]
        word = answer.strip().rstrip(".").lower()
        return self.letters[words.index(word)] if word in words else ""


def plain_questions(records: Sequence[AnnotatedQuestion], condition: str) -> list[PlainQuestion]:
    """The questions in wordings of a condition, which are drawn by their ids."""
    questions = []
    for record in records:
        random = np.random.default_rng(list(record.id.encode()))
        kind, names = asked_slots(record.question)
        number = "" if record.options else record.answer
        asked = reworded(kind, names, random, number, record.options, **CONDITIONS[condition])
        question = PlainQuestion(
            id=record.id,
            dataset=record.dataset,
            scene=record.scene,
            question_type=record.question_type,
            question=record.question,
            answer=record.answer if record.options else parse_official(asked.answer, record.question_type),
            options=record.options,
            visual=record.visual,
            asked=asked,
        )
        questions.append(question)
    return questions


class PlainAnswerer:
    """Answers of any answerer to plain questions, with letters for words."""

    def __init__(self, answerer: Answerer, questions: Sequence[PlainQuestion], condition: str):
        self.answerer, self.questions = answerer, {question.id: question for question in questions}
        self.settings = {**answerer.settings, "wordings": condition}

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer | ReasonedAnswer]:
        found: list[RawAnswer | ReasonedAnswer] = []
        for record, given in zip(records, self.answerer.answer(records), strict=True):
            answer = self.questions[record.id].official(given[0])
            found.append((answer, None, given[2]) if len(given) == 3 else (answer, None))
        return found


def choice_values(results: Mapping[str, Mapping]) -> dict[str, dict[str, dict]]:
    """Of choices by condition and category: questions and accuracy, with their options in the prompt and without."""
    values: dict[str, dict[str, dict]] = {}
    for condition, result in results.items():
        values[condition] = {}
        for category, types in VSIBENCH.rows.items():
            asked = [question for question in result["questions"] if question["question_type"] in types]
            shown, others = ([q for q in asked if ("Options:" in q["prompt"]) is wanted] for wanted in (True, False))
            if asked[:1] and asked[0]["options"]:
                values[condition][category] = {"options": accuracy(shown), "words": accuracy(others)}
    return values


def accuracy(questions: Sequence[Mapping]) -> dict:
    scores = [question["scores"]["official"] for question in questions]
    return {"questions": len(scores), "score": float(np.mean(scores)) if scores else None}


def choice_lines(values: Mapping[str, Mapping[str, Mapping]]) -> list[str]:
    """Markdown of `choice_values`."""
    lines = [
        "Choices by whether their options are in the prompt; which questions those are differs between the wordings.",
        "",
        f"| category | {' | '.join(f'{name}, {how}' for name in values for how in ('options', 'words'))} |",
        "|---" * (1 + 2 * len(values)) + "|",
    ]
    for category in next(iter(values.values())):
        found = [values[name][category][how] for name in values for how in ("options", "words")]
        cells = [f"{percent(one['score'])} of {one['questions']}" if one["questions"] else "-" for one in found]
        lines.append(f"| {category} | {' | '.join(cells)} |")
    return [*lines, ""]


def wording_table(split: str, values: Mapping[str, Mapping]) -> str:
    """Markdown of `table.paired_values` of the conditions, by arm."""
    lines = [f"## Wordings: {split}", ""]
    for arm, found in values.items():
        lines += [
            f"### {arm}: {found['scenes']} scenes, {found['questions']} questions",
            "",
            "Accuracy of the last word, and mean relative accuracy of numbers, in percent, with the 95 % interval "
            "over seeds and scenes; then differences in points, of the same seeds, scenes and questions; bold where "
            "the interval leaves out 0.",
            "",
            *score_table(found["scores"]),
            "",
            *difference_table(found["differences"]),
            "",
            *(choice_lines(found["choices"]) if "choices" in found else []),
            *(f"{note}\n" for note in scene_notes(found["figure_scenes"])),
        ]
    return "\n".join(lines)
