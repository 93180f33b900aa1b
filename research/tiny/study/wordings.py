"""Plain English for VSI-Bench's questions: wordings, synonyms and units by chance, and replies in words.

The texts are in `wordings.yaml`. Lengths are told in the unit that is asked for, and where none is with theirs behind
them ("1.4 m"), which VSI-Bench's parser drops.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from research.tiny.study.answers import FARTHEST, STEP, Place
from research.tiny.study.question_forms import (
    FIRST_FRAME,
    FORMS,
    LONG_ROUTE,
    OPTIONS,
    PLACE,
    PLAN_FORMS,
    TOLD_BOXES,
    trained_questions,
)
from vega3d.questions import TEXT, fill, plural, slots_of
from vega3d.rooms.questions.annotations import listed, with_article
from vega3d.rooms.questions.marks import box_text
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.scene.classes import CLASSES

TEXTS = Path(__file__).with_suffix(".yaml")
ROUTE, PRESENCE, DESCRIPTION = "route_planning", "presence", "description"
LONG_ROUTE_KIND = "route_planning_long"  # of two turns; in all else a question of `route_planning`
OFFICIAL = {**FORMS, LONG_ROUTE_KIND: LONG_ROUTE, **PLAN_FORMS}
SLOTS = {  # letters of the names that a wording has
    **{kind: (tuple(sorted(slots_of(text))),) for kind, text in OFFICIAL.items()},
    "object_rel_distance": (tuple("abcde"), ("e",)),
    "obj_appearance_order": (tuple("abcd"), ()),
    PRESENCE: (("a",),),
    DESCRIPTION: ((),),
}
UNITS = {  # length or area in metres, and step of the numbers, of which the model is to know few
    "m": (1.0, 0.1),
    "cm": (0.01, 1.0),
    "in": (0.0254, 1.0),
    "ft": (0.3048, 0.1),
    "m2": (1.0, 0.1),
    "ft2": (0.3048**2, 1.0),
}
LOCALISATION = "localisation_by_choice"
BOXES = "frame {#}, row {#}, column {#}"  # its options, as `box_text` writes them
FINE = {"object_size_estimation": {"m": 0.01}}  # steps of small things
WRITTEN = {"m": "m", "cm": "cm", "in": "inches", "ft": "feet", "m2": "square metres", "ft2": "square feet"}
GIVEN_IN = {"object_abs_distance": 1.0, "object_size_estimation": 0.01, "room_size_estimation": 1.0}  # metres
PLAIN_OPTIONS = {"Turn Left": "left", "Turn Right": "right", "Turn Back": "back"}
SYNONYM_CHANCE, CARELESS_CHANCE = 0.4, 0.15
MAIN_OBJECTS = 5  # in a description
COPIES = 8  # words of which one is put into each wording, for the vocabulary
Names = Mapping[str, str]


@dataclass(frozen=True)
class Texts:
    """What `wordings.yaml` holds.

    Attributes:
        trained, held_out: wordings by type, without VSI-Bench's own.
        units: by type the spellings of each unit, that which is meant where none is said first.
        said: words for classes whose names fit no sentence about one object.
        synonyms, new_synonyms: of classes, trained and held out.
    """

    trained: Mapping[str, tuple[str, ...]]
    held_out: Mapping[str, tuple[str, ...]]
    units: Mapping[str, Mapping[str, tuple[str, ...]]]
    said: Names
    synonyms: Mapping[str, tuple[str, ...]]
    new_synonyms: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Rewording:
    """A question in plain English.

    Attributes:
        wording: the question with slots, by which answers can be counted.
        question: what is asked, without the options.
        options: in the order in which they were given.
        answer: a letter, words, or a number in the unit asked for, with its unit if the question says none.
        said: the word for each class that the question or an option names.
        needs_options: whether the question without its options leaves open what can be answered.
    """

    wording: str
    question: str
    options: tuple[str, ...]
    answer: str
    said: Names
    needs_options: bool


@cache
def read_texts(path: Path = TEXTS) -> Texts:
    """Raises ValueError, with the first thing that is wrong, for a file that does not say what it has to."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        wordings, synonyms = values["wordings"], values["synonyms"]
        texts = Texts(
            {kind: tuple(parts["trained"]) for kind, parts in wordings.items()},
            {kind: tuple(parts["held_out"]) for kind, parts in wordings.items()},
            {kind: {unit: tuple(words) for unit, words in units.items()} for kind, units in values["units"].items()},
            dict(values["said"]),
            {name: tuple(words["trained"]) for name, words in synonyms.items()},
            {name: tuple(words.get("held_out", ())) for name, words in synonyms.items()},
        )
        problem = next(problems(texts), None)
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        problem = f"it cannot be read ({error!r})"
    if problem is not None:
        raise ValueError(f"{path}: {problem}. Mend the file, as its first lines say.")
    return texts


def problems(texts: Texts) -> Iterator[str]:
    if texts.trained.keys() != SLOTS.keys():
        yield f"it has wordings of {sorted(texts.trained)}, but the types are {sorted(SLOTS)}"
    for kind, units in texts.units.items():
        if kind not in GIVEN_IN or not units.keys() <= UNITS.keys():
            yield f"there are units {list(units)} of {kind}, but only {list(UNITS)} of {list(GIVEN_IN)}"
    types: dict[str, str] = {}
    for kind, wording in every_wording(texts):
        slots = tuple(sorted({*slots_of(wording)} - {"unit"}))
        if slots not in SLOTS[kind]:
            yield f"{wording!r} has the slots {slots}, but {kind} needs {' or '.join(map(str, SLOTS[kind]))}"
        if "unit" in slots_of(wording) and kind not in texts.units:
            yield f"{wording!r} asks for a unit, but {kind} has none"
        key = " ".join(re.findall(r"[\w-]+|[{}]", re.sub(r"\{[^}]*\}", "{}", wording.lower())))
        if key in types:
            yield f"{wording!r} of {kind} is the same as one of {types[key]}"
        types[key] = kind
    words: dict[str, str] = {}
    for name, word in every_word(texts):
        if name not in CLASSES:
            yield f"{word!r} is said of {name!r}, which is no class"
        if word in words:
            yield f"{word!r} is said of {name} and of {words[word]}"
        words[word] = name


def every_wording(texts: Texts) -> Iterator[tuple[str, str]]:
    """Type and text, VSI-Bench's own too."""
    yield from OFFICIAL.items()
    for wordings in (texts.trained, texts.held_out):
        yield from ((kind, text) for kind, some in wordings.items() for text in some)


def every_word(texts: Texts) -> Iterator[tuple[str, str]]:
    """Class and word."""
    yield from ((name, name) for name in CLASSES)
    yield from texts.said.items()
    for synonyms in (texts.synonyms, texts.new_synonyms):
        yield from ((name, word) for name, some in synonyms.items() for word in some)


def official_slots(text: str) -> tuple[str, Names] | None:
    """Type and names by slot of a question in VSI-Bench's words, or of `rows.plan_rows`; None for other texts."""
    for kind, pattern in official_patterns().items():
        match = pattern.fullmatch(text)
        if match is not None:
            return kind.replace(LONG_ROUTE_KIND, ROUTE), match.groupdict()
    return None


def asked_slots(question: str) -> tuple[str, Names]:
    """`official_slots` of a question of the study, which tells boxes in words; raises ValueError for other texts."""
    found = official_slots(question.replace("four boxes", "four marked boxes"))
    if found is None:
        raise ValueError(f"{question!r} is no question in VSI-Bench's words. Make the rooms anew.")
    return found


@cache
def official_patterns() -> dict[str, re.Pattern]:
    patterns = {}
    for kind, form in OFFICIAL.items():
        escaped, seen = re.escape(form), set[str]()
        for letter in re.findall(r"\\\{([a-e])\\\}", escaped):
            group = f"(?P={letter})" if letter in seen else f"(?P<{letter}>[a-z ]+)"
            escaped = escaped.replace(rf"\{{{letter}\}}", group, 1)
            seen.add(letter)
        patterns[kind] = re.compile(escaped)
    return patterns


def official_text(kind: str, names: Names) -> str:
    """A question in VSI-Bench's words, or of a row of `rows.plan_rows`."""
    return fill(OFFICIAL[wording_kind(kind, names)], names)


def wording_kind(kind: str, names: Names) -> str:
    return LONG_ROUTE_KIND if kind == ROUTE and "d" in names else kind


def reworded(
    kind: str,
    names: Names,
    random: np.random.Generator,
    answer: str = "",
    options: Sequence[str] = (),
    *,
    held_out: bool = False,
    new_names: bool = False,
) -> Rewording:
    """A question as a user might type it.

    Args:
        kind: question type, one of `SLOTS`.
        names: class in each slot of the official form.
        random: of wording, names, unit and care.
        answer: to the official question: a letter, or a number in VSI-Bench's unit, as exact as it is known.
        options: of the official question.
        held_out: take a wording that is not trained.
        new_names: take words for the classes that are not trained, for those that have any.

    Raises:
        ValueError: if there is no such type, or a slot has no name.
    """
    texts = read_texts()
    kind = wording_kind(kind, names)
    if kind not in SLOTS or not set(SLOTS[kind][0]) <= names.keys():
        raise ValueError(f"There is no question {kind!r} about {dict(names)}. The types and slots are {SLOTS}.")
    official = () if held_out or new_names or kind not in OFFICIAL else (OFFICIAL[kind],)
    wordings = (*official, *(texts.held_out if held_out else texts.trained)[kind])
    wording = wordings[random.integers(len(wordings))]
    classes = dict.fromkeys(names.values())
    is_plain = wording not in official
    said = {name: word_for(name, random, new_names) if is_plain else name for name in classes}
    unit, spelled = unit_for(kind, random)
    question = fill(wording, {**{slot: said[name] for slot, name in names.items()}, "unit": spelled})
    if is_plain and random.random() < CARELESS_CHANCE:
        question = question.lower().removesuffix("?").removesuffix(".")
    if kind in GIVEN_IN and answer:
        asked = unit if "{unit}" in wording else next(iter(texts.units[kind]))
        number = converted(kind, float(answer), asked)
        answer = f"{number} {WRITTEN[asked]}" if is_plain and "{unit}" not in wording else number
    words = {**said, **(PLAIN_OPTIONS if is_plain else {})}
    options = tuple(", ".join(words.get(piece, piece) for piece in option.split(", ")) for option in options)
    return Rewording(wording, question, options, answer, said, needs_options(kind, wording))


def word_for(name: str, random: np.random.Generator, new: bool = False) -> str:
    """A word for a class, by chance its name or a synonym; with `new` one that is held out, if it has any."""
    texts = read_texts()
    usual, others = texts.said.get(name, name), texts.synonyms.get(name, ())
    draw, place = random.random(), random.random()
    if new and texts.new_synonyms.get(name):
        others, draw = texts.new_synonyms[name], 0.0
    return others[int(place * len(others))] if others and draw < SYNONYM_CHANCE else usual


def unit_for(kind: str, random: np.random.Generator) -> tuple[str, str]:
    """A unit of a type and a spelling, by chance; empty for types without."""
    draws = random.random(2)
    units = list(read_texts().units.get(kind, {}).items())
    if not units:
        return "", ""
    unit, spellings = units[int(draws[0] * len(units))]
    return unit, spellings[int(draws[1] * len(spellings))]


def converted(kind: str, number: float, unit: str) -> str:
    """A number in VSI-Bench's unit of a type, in another, rounded to its step."""
    metres, step = UNITS[unit]
    step = FINE.get(kind, {}).get(unit, step)
    decimals = max(0, -round(np.log10(step)))
    return f"{round(number * GIVEN_IN[kind] / metres / step) * step:.{decimals}f}"


def needs_options(kind: str, wording: str) -> bool:
    """Whether a question of choice says nothing of its choices; to a route's there are three turns, said or not."""
    if kind.startswith("object_rel_direction"):
        return not {"left", "right"} <= set(re.findall(r"\w+", wording.lower()))
    return kind in OPTIONS and (kind == LOCALISATION or (kind != ROUTE and not slots_of(wording)[1:]))


def absent(word: str) -> str:
    """The answer about an object that is not seen, in the word that was asked with; to a count it is "0".

    How many there are is asked for a number, and none is one: "0" is right, and a script that parses numbers reads it.
    """
    return f"I don't see {with_article(word)}."


def presence_text(word: str, is_seen: bool) -> str:
    return "Yes." if is_seen else f"No, {absent(word)}"


def place_text(place: Place) -> str:
    """ "2.0 m ahead and 1.5 m to the left of where the video starts, first seen in frame 3." """
    ahead, right = (min(round(abs(value) / STEP) * STEP, FARTHEST) for value in place[:2])
    along = f"{ahead:.1f} m {'ahead' if place.ahead > 0 else 'behind'}"
    across = f"{right:.1f} m to the {'right' if place.right > 0 else 'left'}"
    way = " and ".join(text for text, metres in ((along, ahead), (across, right)) if metres)
    start = "where the video starts" if not way or way.endswith("behind") else "of where the video starts"
    return f"{way or 'Right'} {start}, first seen in frame {place.frame}."


def first_frame_text(place: Place) -> str:
    return f"In frame {place.frame}."


def description_text(observation: Observation) -> str:
    """What `describe` says of a walkthrough; objects come in the order of the share of a frame that they fill."""
    largest: dict[str, float] = {}
    counts: dict[str, int] = {}
    for item in observation.visible:
        counts[item.name] = counts.get(item.name, 0) + 1
        largest[item.name] = max(largest.get(item.name, 0), float(observation.mask_fractions[item.id].max()))
    ordered = sorted(counts, key=lambda name: (-largest[name], name))
    return describe({name: counts[name] for name in ordered}, observation.floor_area)


def describe(counts: Mapping[str, int], area: float) -> str:
    """One to three sentences about a room: its size, its main objects, and the others.

    Args:
        counts: of what is seen, the main objects first.
        area: of the floor [m^2].
    """
    usual = read_texts().said
    things = [counted(usual.get(name, name), count) for name, count in counts.items()]
    sentences = [f"The room has about {round(area)} square metres."]
    if things:
        sentences.append(f"I see {listed(things[:MAIN_OBJECTS])}.")
    if things[MAIN_OBJECTS:]:
        verb = "is" if things[MAIN_OBJECTS][0] == "a" else "are"
        sentences.append(f"There {verb} also {listed(things[MAIN_OBJECTS:])}.")
    return " ".join(sentences)


def counted(name: str, count: int) -> str:
    return with_article(name) if count == 1 else f"{count} {plural(name)}"


def known_questions(categories: Sequence[str], guesses: Container[str]) -> dict:
    """The field `questions` of the config of a model that is trained on all that is not held out.

    Args:
        categories: question types that it was trained on, beside the new ones here.
        guesses: those of them that it answers no better than a guess.
    """
    texts = read_texts()
    field = trained_questions(categories, guesses)
    by_text = {form["text"]: form for form in field["forms"]}
    kinds = [kind for name in categories for kind in ((name, LONG_ROUTE_KIND) if name == ROUTE else (name,))]
    for kind in (*kinds, PLACE, FIRST_FRAME, PRESENCE, DESCRIPTION):
        bound = [wording for wording in texts.trained[kind] if needs_options(kind, wording)]
        free = [wording for wording in texts.trained[kind] if wording not in bound]
        form = by_text.get(OFFICIAL.get(kind, ""), {"answer": TEXT})
        form["in_words"] = form["answer"] != TEXT and not needs_options(kind, form.get("text", ""))
        if kind in texts.units:
            form["units"] = [word for words in texts.units[kind].values() for word in words]
        if "text" not in form or kind in (ROUTE, LONG_ROUTE_KIND):
            own = {"options": list(PLAIN_OPTIONS.values())} if "text" in form else {}
            field["forms"].append({**form, **own, "text": free[0], "wordings": free[1:]})
        else:
            form["wordings"] = free
        if bound:
            is_told = kind == LOCALISATION
            told = {"options": [BOXES], "marked": False} if is_told else {}
            has_all = set(slots_of(bound[0])) == set(slots_of(OFFICIAL[kind]))
            text = TOLD_BOXES if is_told else bound[0] if has_all else OFFICIAL[kind]
            wordings = [wording for wording in bound if wording != text]
            field["forms"].append({**form, **told, "text": text, "wordings": wordings, "in_words": False})
    synonyms = {
        name: [*([word] if (word := texts.said.get(name)) else []), *texts.synonyms.get(name, ())] for name in CLASSES
    }
    return {**field, "synonyms": {name: words for name, words in synonyms.items() if words}}


def all_texts(seed: int = 0) -> Iterator[str]:
    """What a vocabulary is made from: each trained wording and reply with each trained word in some slot of it."""
    texts = read_texts()
    random = np.random.default_rng(seed)
    words = [word for name in CLASSES for word in (texts.said.get(name, name), *texts.synonyms.get(name, ()))]
    for kind, wording in every_wording(replace(texts, held_out={})):
        units = [word for words in texts.units.get(kind, {}).values() for word in words] or [""]
        for start in range(0, len(words) if slots_of(wording) else 1, COPIES):
            some = [words[place] for place in random.permutation(len(words))[:5]]
            names = dict(zip("abcde", some, strict=True))
            text = fill(wording, {**names, "unit": units[start // COPIES % len(units)]})
            yield text if start % (2 * COPIES) else text.lower()
    for place, (name, word) in enumerate((name, word) for name, word in every_word(replace(texts, new_synonyms={}))):
        ahead, right = random.uniform(-FARTHEST, FARTHEST, 2).tolist()
        where = Place(ahead, right, int(random.integers(17)))
        yield f"{word}\nthe {word}\n{plural(word)}\nthe {plural(word)}"
        yield from (absent(word), presence_text(word, False), place_text(where), first_frame_text(where))
        yield describe({name: 1, **dict.fromkeys(CLASSES[place % 9 :: 9], 2 + place % 4)}, 10 + place % 30)
    yield presence_text("bed", True)
    yield from (f"1.4 {word}" for word in WRITTEN.values())
    yield from (box_text((0, 0, 2, 2), 7, 12, 12), *PLAIN_OPTIONS, *PLAIN_OPTIONS.values())
    yield from (option for options in OPTIONS.values() for option in options)
