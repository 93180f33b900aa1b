"""A question about the space that a video shows, the prompt it becomes, and the questions that a model was trained on.

The prompts have VSI-Bench's wording. The config of a model may list the questions that it was trained on
(`KnownQuestions`).
"""

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

PRE_PROMPT = "These are frames of a video."
CHOICE_POST_PROMPT = "Answer with the option's letter from the given choices directly."
NUMERIC_POST_PROMPT = "Please answer the question using a single word or phrase."
NUMBER, CHOICE, TEXT = ANSWERS = ("number", "choice", "text")
SLOT = re.compile(r"\{(?:(an|plural) )?([a-z]|unit)\}")
WORD = re.compile(r"\{(?:(?:an|plural) )?(?:[a-z]|unit)\}|\w+(?:-\w+)*|['\u2019]\w+")
SHORT = {"'s": "is", "'m": "am", "'re": "are", "'ve": "have"}
NAME, UNIT, NUMBER_SLOT = "{name}", "{unit}", "{#}"  # the last: any whole number, in an option
# Likeness to a trained wording from which on nobody is told off. Chosen on the 80 held-out wordings of
# `research/tiny/study/wordings.yaml`, of which 66 are then silent, and 114 other questions, of which 6 are.
NEAR = 0.3
OTHER_NUMBER = 0.05  # likeness that a suggestion loses for each object that it has too many or too few
FILLERS = frozenset(
    re.findall(
        r"\w+", "please can could you would tell me this that these those it was were have has need want get go"
    )
)
TOLD = 3  # unknown words in a note, at most
REMEDY = "List `names`, and `forms` with `text`, `answer` and `options`; or leave `questions` out."
Mark = tuple[int, int, int, int]
RawAnswer = tuple[str, dict[str, float] | None]  # text as the model wrote it, and the probability of each letter
ReasonedAnswer = tuple[str, dict[str, float] | None, str]  # and what the text stands on, if that is to be kept


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
        points: x, y, z in the world [m] that the text speaks of, one for each `<coord>` in it.

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
    points: Sequence[tuple[float, float, float]] = ()

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

    @classmethod
    def of_prompt(cls, visual: Any, prompt: str, is_image: bool = False) -> "SpatialQuestion":
        """The question that has this prompt: a choice or a number in VSI-Bench's words, or else an open one."""
        question = prompt.removeprefix(f"{PRE_PROMPT}\n")
        words, _, choices = question.removesuffix(f"\n{CHOICE_POST_PROMPT}").rpartition("\nOptions:\n")
        options = [line[len("A. ") :] for line in choices.split("\n")]
        numeric = question.removesuffix(f"\n{NUMERIC_POST_PROMPT}")
        if words.strip() and 2 <= len(options) <= len(string.ascii_uppercase):
            choice = cls(visual, words, options, is_image)
            if choice.prompt == prompt:
                return choice
        number = cls(visual, numeric if numeric.strip() else prompt, is_image=is_image, is_numeric=True)
        return number if number.prompt == prompt else cls(visual, prompt, is_image=is_image)

    def messages(self) -> list[dict]:
        """Chat messages for `VegaProcessor.apply_chat_template`."""
        kind = "image" if self.is_image else "video"
        content = [{"type": kind, kind: self.visual}, {"type": "text", "text": self.prompt}]
        return [{"role": "user", "content": content}]


@dataclass(frozen=True)
class Form:
    """Questions that differ in the names of objects, in their units and in their wording alone.

    Attributes:
        text: the question; {a}, {b} ... stand for a name, {an a} for one with its article, {plural a} for its plural,
            {unit} for one of `units`.
        answer: one of `ANSWERS`.
        options: the choices, with the same slots; those of a question may come in another order, or be fewer, and
            each may list some of what these list. {#} stands for a whole number.
        suggested: whether it is suggested to one who asks something else; not if the model's answer is a guess.
        wordings: other texts of the question, with all or some of the slots. Where there are any the model is used to
            many: small letters, marks and words that are nearly those of a wording do no harm.
        units: words for {unit}.
        in_words: whether it may also be asked in plain words, without options and without asking for a number.
        marked: whether it is about boxes marked on a frame, and means nothing without them.
    """

    text: str
    answer: str
    options: tuple[str, ...] = ()
    suggested: bool = True
    wordings: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    in_words: bool = False
    marked: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        return self.text, *self.wordings

    def takes(self, answer: str) -> bool:
        return answer == self.answer or (self.in_words and answer == TEXT)

    def is_for(self, asked: SpatialQuestion) -> bool:
        """Whether the kind of answer and the marks are those that belong to it."""
        return self.takes(answer_kind(asked)) and (not self.marked or bool(asked.marks))


class Thing(NamedTuple):
    """What some words of a text stand for: an object, a unit or a slot."""

    what: str  # class of the object, letter of the slot, or UNIT
    said: str  # the words, in the singular; empty for a slot


class Phrase(NamedTuple):
    """A text in small letters, with NAME and UNIT in place of names, units and slots, and what these stand for."""

    words: tuple[str, ...]
    things: tuple[Thing, ...]


class Wording(NamedTuple):
    """One of the texts of a form."""

    form: Form
    text: str
    phrase: Phrase


@dataclass(frozen=True)
class KnownQuestions:
    """The questions that a model was trained on, and the one to suggest to those who ask another.

    Attributes:
        names: objects that the questions are about, those in most rooms first.
        forms: the questions, with slots for the names.
        synonyms: other words for some of the names.
    """

    names: tuple[str, ...]
    forms: tuple[Form, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_config(cls, questions: Any) -> "KnownQuestions | None":
        """Those in the field `questions` of a model's config; None if it lists none, ValueError if it is bad."""
        if questions is None:
            return None
        try:
            several = ("options", "wordings", "units")
            forms = tuple(
                Form(**form | {key: texts(form.get(key, ())) for key in several}) for form in questions["forms"]
            )
            synonyms = {name: texts(words) for name, words in questions.get("synonyms", {}).items()}
            known = cls(texts(questions["names"]), forms, synonyms)
            good = synonyms.keys() <= set(known.names) and all(map(known.is_good, forms))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"The field `questions` of the model's config cannot be read: {error!r}. {REMEDY}"
            ) from None
        if not good:
            raise ValueError(f"The field `questions` of the model's config is of another shape. {REMEDY}")
        return known

    def is_good(self, form: Form) -> bool:
        names, others = (
            [slot for slot in slots_of(text) if slot != "unit"]
            for text in (form.text, " ".join([*form.options, *form.wordings]))
        )
        has_units = bool(form.units) or not any(UNIT in text for text in form.texts)
        return form.answer in ANSWERS and len(names) <= len(self.names) and set(others) <= set(names) and has_units

    def note(self, asked: SpatialQuestion) -> str | None:
        """For one who asks something else one line, with the nearest question that is answered; else None."""
        phrase = self.phrase(asked.question)
        if self.fits(phrase, asked):
            return None
        unknown = self.unknown(phrase)
        strange = f"does not know {', '.join(unknown)} and " if unknown else ""
        note = f"The model {strange}was not trained on questions like this, so its answer means nothing."
        suggested = [wording for wording in self.wordings if wording.form.suggested]
        if not suggested:
            return note
        nearest = max(suggested, key=lambda wording: self.rank(wording, phrase, answer_kind(asked)))
        text, options = self.about(nearest, asked)
        answer = nearest.form.answer
        how = {NUMBER: "a number", CHOICE: f"a choice of {' / '.join(options)}", TEXT: "free text"}[answer]
        return f'{note} The nearest that it can answer: "{text}" (answer: {how})'

    def fits(self, phrase: Phrase, asked: SpatialQuestion) -> bool:
        """Whether the question is one of the known ones, or nearly so, with the kind of answer that belongs to it."""
        usable = (wording for wording in self.wordings if wording.form.is_for(asked))
        return any((self.is_near if w.form.wordings else self.is_exact)(w, phrase, asked) for w in usable)

    def is_exact(self, wording: Wording, phrase: Phrase, asked: SpatialQuestion) -> bool:
        """Whether the question is the wording with names in its slots, and the options are those of the form."""
        if phrase.words != wording.phrase.words:
            return False
        pairs = zip(wording.phrase.things, phrase.things, strict=True)
        names = {slot.what.strip("{}"): thing.said for slot, thing in pairs if not slot.said}
        same = fill(wording.text, names) == asked.question  # not if one slot has two names
        return same and options_fit({fill(option, names) for option in wording.form.options}, asked.options)

    def is_near(self, wording: Wording, phrase: Phrase, asked: SpatialQuestion) -> bool:
        """Whether a question has the number of objects of a wording, units and options that fit, and like words.

        All words must be those of some wording with these options, or fillers: one other word ("shortest", "red") can
        ask for something else.
        """
        form = wording.form
        units = {thing.said for thing in phrase.things if thing.what == UNIT}
        return (
            len(objects_of(phrase)) == len(objects_of(wording.phrase))
            and units <= set(form.units)
            and set(map(stem, phrase.words)) <= self.vocabulary[form.options or form] | FILLERS
            and self.likeness(phrase, wording.phrase) >= NEAR
            and options_fit(self.choices(wording, phrase), [option.lower() for option in asked.options])
        )

    def choices(self, wording: Wording, phrase: Phrase) -> set[str]:
        """What options may say: in place of names those in the question, or any if the wording leaves them out."""
        texts = {option.lower() for option in wording.form.options}
        slots = set(slots_of(" ".join(texts)))
        classes = objects_of(phrase) if slots & objects_of(wording.phrase) else set(self.names)
        names = {word.lower() for word, name in self.singular.items() if name in classes}
        return {text for text in texts if not slots_of(text)} | (names if slots else set())

    @cached_property
    def vocabulary(self) -> dict[Any, set[str]]:
        """Stems of the words of all wordings with the same options; of a form by itself, if it has none."""
        words: dict[Any, set[str]] = defaultdict(set)
        for form, _, phrase in self.wordings:
            words[form.options or form].update(map(stem, phrase.words))
        return words

    def rank(self, wording: Wording, phrase: Phrase, answer: str) -> tuple[float, bool, bool]:
        """How near a suggestion is to what was asked: likeness, then the kind of answer, then plain words."""
        missing = abs(len(objects_of(phrase)) - len(objects_of(wording.phrase)))
        likeness = self.likeness(phrase, wording.phrase) - OTHER_NUMBER * missing
        return likeness, wording.form.takes(answer), wording.text != wording.form.text

    def about(self, wording: Wording, asked: SpatialQuestion) -> tuple[str, list[str]]:
        """A wording and its options, about the objects and in the unit that were asked about."""
        form = wording.form
        things = self.phrase(" ".join([asked.question, *asked.options])).things
        objects: dict[str, str] = {}
        for thing in (*things, *(Thing(name, name) for name in self.names)):
            if thing.what != UNIT:
                objects.setdefault(thing.what, thing.said)
        units = [thing.said for thing in things if thing.said in form.units]
        slots = [slot for slot in slots_of(wording.text + form.text) if slot != "unit"]
        names = {**dict(zip(slots, objects.values(), strict=False)), "unit": [*units, *form.units, ""][0]}
        return fill(wording.text, names), [fill(option, names) for option in form.options]

    @cached_property
    def singular(self) -> dict[str, str]:
        """The class of each name and synonym."""
        return {word: name for name in self.names for word in (name, *self.synonyms.get(name, ()))}

    @cached_property
    def said(self) -> dict[tuple[str, ...], Thing]:
        """What some words in a row mean: a name, a synonym, a plural, a unit."""
        words = {unit: Thing(UNIT, unit) for form in self.forms for unit in form.units}
        words |= {plural(word): Thing(name, word) for word, name in self.singular.items()}
        words |= {word: Thing(name, word) for word, name in self.singular.items()}
        return {tuple(WORD.findall(word.lower())): thing for word, thing in words.items()}

    @cached_property
    def wordings(self) -> list[Wording]:
        return [Wording(form, text, self.phrase(text, has_slots=True)) for form in self.forms for text in form.texts]

    @cached_property
    def weights(self) -> dict[str, float]:
        """How much each word tells about what is asked: log((1 + wordings) / wordings that have it)."""
        having = Counter(word for wording in self.wordings for word in set(wording.phrase.words))
        return {word: math.log((1 + len(self.wordings)) / count) for word, count in having.items()}

    def phrase(self, text: str, has_slots: bool = False) -> Phrase:
        """Of a text, with its longest names found first."""
        if not has_slots:
            text = re.sub("[{}]", " ", text)
        tokens = [SHORT.get(token.replace("\u2019", "'"), token) for token in WORD.findall(text.lower())]
        longest = max(map(len, self.said), default=0)
        words: list[str] = []
        things: list[Thing] = []
        place = 0
        while place < len(tokens):
            for length in range(min(longest, len(tokens) - place), 0, -1):
                thing = self.said.get(tuple(tokens[place : place + length]))
                if thing is not None:
                    break
            else:
                length, slot = 1, SLOT.fullmatch(tokens[place])
                thing = None if slot is None else Thing(UNIT if slot.group(2) == "unit" else slot.group(2), "")
                if slot is not None and slot.group(1) == "an":
                    words.append("a")
            if thing is None:
                words.append(tokens[place])
            else:
                if words[-1:] == ["an"]:
                    words[-1] = "a"
                words.append(UNIT if thing.what == UNIT else NAME)
                things.append(thing)
            place += length
        return Phrase(tuple(words), tuple(things))

    def unknown(self, phrase: Phrase) -> list[str]:
        """The first words in a question that no wording has, in quotes; none for a model of one wording a form."""
        if not any(form.wordings for form in self.forms):
            return []
        usual = FILLERS.union(*self.vocabulary.values())
        return [f'"{word}"' for word in dict.fromkeys(phrase.words) if stem(word) not in usual][:TOLD]

    def likeness(self, phrase: Phrase, known: Phrase) -> float:
        """In [0, 1]: weight of the words that two texts share, of the weight of all that either has."""
        ours, theirs = Counter(phrase.words), Counter(known.words)
        most = math.log(1 + len(self.wordings))
        weights = {word: self.weights.get(word, most) for word in ours} | {word: self.weights[word] for word in theirs}
        shared = sum(weights[word] * min(count, theirs[word]) for word, count in ours.items() if word in theirs)
        both = sum(weights[word] * count for side in (ours, theirs) for word, count in side.items())
        return shared / max(both - shared, 1e-9)


def texts(values: Any) -> tuple[str, ...]:
    """A list of texts; raises TypeError for anything else."""
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r} is no list of texts")
    return tuple(values)


def options_fit(known: Iterable[str], options: Sequence[str]) -> bool:
    """Whether each option lists, in any order, pieces of known ones; {#} there stands for a whole number."""
    pieces = {re.escape(piece).replace(re.escape(NUMBER_SLOT), r"\d+") for text in known for piece in text.split(", ")}
    pattern = re.compile("|".join(sorted(pieces)))
    return len(set(options)) == len(options) and all(
        pattern.fullmatch(piece) for option in options for piece in option.split(", ")
    )


def objects_of(phrase: Phrase) -> set[str]:
    """Classes, or slots for them."""
    return {thing.what for thing in phrase.things if thing.what != UNIT}


def slots_of(text: str) -> list[str]:
    """Letters of the slots of a text, and `unit`, each once."""
    return list(dict.fromkeys(slot for _, slot in SLOT.findall(text)))


def fill(text: str, names: Mapping[str, str]) -> str:
    """A text with names in its slots; `names` has one for each letter, and for `unit`."""

    def word(slot: re.Match) -> str:
        how, name = slot.group(1), names[slot.group(2)]
        return {"an": with_article, "plural": plural}[how](name) if how else name

    return SLOT.sub(word, text)


def stem(word: str) -> str:
    """Without the s of "shows" and "things"."""
    return re.sub(r"(?<=\w\w\w)(?<!s)s$", "", word)


def with_article(words: str) -> str:
    """ "a chair", "an armchair"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(name: str) -> str:
    """ "chairs", "benches", "bookshelves", "loaves of bread"; "shoes" are several already."""
    head, of, rest = name.partition(" of ")
    if re.search(r"(?<!s)s$", head):
        return name
    for ending, several in ((r"(l|oa)f$", r"\1ves"), (r"([^aeiou])y$", r"\1ies"), (r"(s|x|z|ch|sh)$", r"\1es")):
        if re.search(ending, head):
            return re.sub(ending, several, head) + of + rest
    return f"{head}s{of}{rest}"


def reason_and_answer(text: str) -> tuple[str, str]:
    """What an answer in words stands on, and the answer, which follows the last full stop; "" for a bare answer."""
    reason, _, answer = text.strip().rpartition(". ")
    return reason, answer


def answer_kind(asked: SpatialQuestion) -> str:
    """Which of `ANSWERS` a question asks for."""
    if asked.options:
        return CHOICE
    return NUMBER if asked.is_numeric else TEXT
