"""The questions that a model was trained on, as its config lists them, and what is said to one who asks another."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vega3d.questions import SpatialQuestion

NUMBER, CHOICE, TEXT = ANSWERS = ("number", "choice", "text")
SLOT = re.compile(r"\{[a-z]\}")
REMEDY = "List `names`, and `forms` with `text`, `answer` and `options`; or leave `questions` out."


@dataclass(frozen=True)
class Form:
    """Questions that differ in the names of objects alone.

    Args:
        text: of the question; {a}, {b} ... stand for a name.
        answer: one of `ANSWERS`.
        options: of a choice, with the same slots; those of a question may come in another order, or be fewer, and
            each may list some of what these list.
        suggested: whether it is told to one who asks something else; not if the model's answer is a guess.
    """

    text: str
    answer: str
    options: tuple[str, ...] = ()
    suggested: bool = True

    @property
    def slots(self) -> list[str]:
        return list(dict.fromkeys(SLOT.findall(self.text)))

    def filled(self, text: str, names: Mapping[str, str]) -> str:
        return SLOT.sub(lambda slot: names[slot.group()], text)


@dataclass(frozen=True)
class KnownQuestions:
    """
    Args:
        names: of objects, those of most rooms first.
        forms: of questions.
    """

    names: tuple[str, ...]
    forms: tuple[Form, ...]

    @classmethod
    def of_config(cls, questions: Any) -> "KnownQuestions | None":
        """Of the field `questions` of a model's config; None if it lists none.

        Raises:
            ValueError: if the field is of another shape.
        """
        if questions is None:
            return None
        try:
            forms = tuple(Form(**{**form, "options": tuple(form.get("options", ()))}) for form in questions["forms"])
            known = cls(tuple(questions["names"]), forms)
            good = all(isinstance(name, str) for name in known.names) and all(
                form.answer in ANSWERS
                and len(form.slots) <= len(known.names)
                and set(SLOT.findall(" ".join(form.options))) <= set(form.slots)
                for form in forms
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"The field `questions` of the model's config cannot be read: {error!r}. {REMEDY}"
            ) from None
        if not good:
            raise ValueError(f"The field `questions` of the model's config is of another shape. {REMEDY}")
        return known

    def note(self, asked: SpatialQuestion) -> str | None:
        """What to tell one who asks something else, in one line: the nearest question that is answered; else None."""
        if any(self.fits(form, asked) for form in self.forms):
            return None
        note = "The model was not trained on questions like this, so its answer means nothing."
        nearest = max(self.near(asked), key=lambda near: likeness(asked, near[0], near[1].answer), default=None)
        if nearest is None:
            return note
        text, form, options = nearest
        how = {NUMBER: "a number", CHOICE: f"a choice of {' / '.join(options)}", TEXT: "free text"}[form.answer]
        return f'{note} The nearest that it can answer: "{text}" (answer: {how})'

    def fits(self, form: Form, asked: SpatialQuestion) -> bool:
        """Whether the question is of this form, about known objects, with the kind of answer that belongs to it."""
        if form.answer != kind_of(asked):
            return False
        name = f"({'|'.join(map(re.escape, self.names))})"
        parts = [re.escape(part) for part in SLOT.split(form.text)]
        match = re.fullmatch(name.join(parts), asked.question)
        if match is None:
            return False
        names = dict(zip(SLOT.findall(form.text), match.groups(), strict=True))
        if form.filled(form.text, names) != asked.question:  # one slot, two names
            return False
        pieces = {piece for option in form.options for piece in form.filled(option, names).split(", ")}
        return len(set(asked.options)) == len(asked.options) and all(
            piece in pieces for option in asked.options for piece in option.split(", ")
        )

    def near(self, asked: SpatialQuestion) -> Iterator[tuple[str, Form, list[str]]]:
        """Each form that is suggested, about the objects that were asked about, with its options."""
        mentioned = self.mentioned(" ".join([asked.question, *asked.options]))
        objects = [*mentioned, *(name for name in self.names if name not in mentioned)]
        for form in self.forms:
            if form.suggested:
                names = dict(zip(form.slots, objects, strict=False))
                yield form.filled(form.text, names), form, [form.filled(option, names) for option in form.options]

    def mentioned(self, text: str) -> list[str]:
        """Names of objects, each once, in the order in which the text has them."""
        longest_first = "|".join(map(re.escape, sorted(self.names, key=len, reverse=True)))
        found = re.finditer(rf"\b({longest_first})(?:e?s)?\b", text.lower()) if self.names else ()
        return list(dict.fromkeys(match.group(1) for match in found))


def kind_of(asked: SpatialQuestion) -> str:
    if asked.options:
        return CHOICE
    return NUMBER if asked.is_numeric else TEXT


def likeness(asked: SpatialQuestion, text: str, answer: str) -> tuple[float, bool, float]:
    """Share of the question's words that a text has, whether it is answered alike, and how alike their letters are."""
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (asked.question, text))
    letters = difflib.SequenceMatcher(None, asked.question, text).ratio()
    return len(words & others) / max(len(words), 1), answer == kind_of(asked), letters
