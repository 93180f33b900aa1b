"""A question about the space that a video shows, the prompt it becomes, and the questions that a model was trained on.

The prompts have VSI-Bench's wording. The config of a model may list the questions that it was trained on
(`KnownQuestions`).
"""

import difflib
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PRE_PROMPT = "These are frames of a video."
CHOICE_POST_PROMPT = "Answer with the option's letter from the given choices directly."
NUMERIC_POST_PROMPT = "Please answer the question using a single word or phrase."
NUMBER, CHOICE, TEXT = ANSWERS = ("number", "choice", "text")
SLOT = re.compile(r"\{[a-z]\}")
REMEDY = "List `names`, and `forms` with `text`, `answer` and `options`; or leave `questions` out."
Mark = tuple[int, int, int, int]
RawAnswer = tuple[str, dict[str, float] | None]  # text as the model wrote it, and the probability of each letter


@dataclass(frozen=True)
class SpatialQuestion:
    """A question about one video or image, as it is put to a model.

    Attributes:
        visual: a video or an image, as `VegaProcessor` takes it (path, frames, clip); None to ask about nothing seen.
        question: the text, without options and without what VSI-Bench's prompt puts around it.
        options: texts of the choices, without letters; empty for an open question.
        is_image: whether `visual` is one image.
        is_numeric: whether the answer is a number, which VSI-Bench's prompt asks for in a way of its own.
        answer: the right one, a letter or a number as text; empty if it is not known.
        question_type: name of the type in its benchmark; empty if it has none.
        frame: number of the frame of the video that the marks are to be drawn on.
        marks: left, top, right, bottom [px] of the boxes A, B, ... that the question is about.
        name: what error messages call it, such as its id in a benchmark; empty if it needs no name.

    Raises:
        ValueError: if there is no question, or one option, or more options than letters.
    """

    visual: Any
    question: str
    options: Sequence[str] = ()
    is_image: bool = False
    is_numeric: bool = False
    answer: str = ""
    question_type: str = ""
    frame: int | None = None
    marks: Sequence[Mark] = ()
    name: str = ""

    def __post_init__(self):
        if not isinstance(self.question, str):
            raise ValueError(f"The question is {self.question!r}, but must be text.")
        if not self.question.strip():
            raise ValueError("The question is empty. Ask something about the scene.")
        if len(self.options) == 1 or len(self.options) > len(string.ascii_uppercase):
            raise ValueError(
                f"A question has 2 to {len(string.ascii_uppercase)} options, but got {len(self.options)}: "
                f"{list(self.options)}. Leave them out for an open question."
            )

    @property
    def letters(self) -> str:
        """Those of the options, A, B, ..."""
        return string.ascii_uppercase[: len(self.options)]

    @property
    def prompt(self) -> str:
        """What stands beside the visual in the conversation."""
        pre = [] if self.is_image else [PRE_PROMPT]
        if self.is_numeric:
            return "\n".join([*pre, self.question, NUMERIC_POST_PROMPT])
        if not self.options:
            return self.question
        lines = [f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)]
        return "\n".join([*pre, self.question, "Options:", *lines, CHOICE_POST_PROMPT])

    def messages(self) -> list[dict]:
        """Chat messages for `VegaProcessor.apply_chat_template`."""
        kind = "image" if self.is_image else "video"
        content = [{"type": kind, kind: self.visual}, {"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": content}]


@dataclass(frozen=True)
class Form:
    """Questions that differ in the names of objects alone.

    Attributes:
        text: the question; {a}, {b} ... stand for a name.
        answer: one of `ANSWERS`.
        options: the choices, with the same slots; those of a question may come in another order, or be fewer, and
            each may list some of what these list.
        suggested: whether it is suggested to one who asks something else; not if the model's answer is a guess.
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
    """The questions that a model was trained on, and the one to suggest to those who ask another.

    Attributes:
        names: objects that the questions are about, those in most rooms first.
        forms: the questions, with slots for the names.
    """

    names: tuple[str, ...]
    forms: tuple[Form, ...]

    @classmethod
    def from_config(cls, questions: Any) -> "KnownQuestions | None":
        """Those in the field `questions` of a model's config; None if it lists none, ValueError if it is bad."""
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
        """For one who asks something else one line, with the nearest question that is answered; else None."""
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
        if form.answer != answer_kind(asked):
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


def answer_kind(asked: SpatialQuestion) -> str:
    """Which of `ANSWERS` a question asks for."""
    if asked.options:
        return CHOICE
    return NUMBER if asked.is_numeric else TEXT


def likeness(asked: SpatialQuestion, text: str, answer: str) -> tuple[float, bool, float]:
    """Share of the question's words that a text has, whether it is answered alike, and how alike their letters are."""
    words, others = (set(re.findall(r"\w+", text.lower())) for text in (asked.question, text))
    letters = difflib.SequenceMatcher(None, asked.question, text).ratio()
    return len(words & others) / max(len(words), 1), answer == answer_kind(asked), letters
