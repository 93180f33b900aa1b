"""VSI-Bench's question types, parsers, scores and averages.

The formulas are those of VSI-Bench's task in lmms-eval (`tasks/vsibench/utils.py`, 2025), which the official VEGA-3D
code uses; the conformance tests compare with numbers recorded from it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

CHOICE_TYPES = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
NUMERIC_TYPES = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
EXTRA_CHOICE_TYPES = ("localisation_by_choice",)  # of `rooms`; shown by itself, in no average
QUESTION_TYPES = (*CHOICE_TYPES, *NUMERIC_TYPES, *EXTRA_CHOICE_TYPES)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "object_counting": ("object_counting",),
    "object_abs_distance": ("object_abs_distance",),
    "object_size_estimation": ("object_size_estimation",),
    "room_size_estimation": ("room_size_estimation",),
    "object_rel_distance": ("object_rel_distance",),
    "object_rel_direction": ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard"),
    "route_planning": ("route_planning",),
    "obj_appearance_order": ("obj_appearance_order",),
}

# Bit for bit `numpy.linspace(0.5, 0.95, 10)`: with 0.9 in place of 0.8999999999999999 an error of exactly 10 % would
# score 0.8 and not the official 0.9.
MRA_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95)

NUMBERS_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {
    **{word: float(value) for value, word in enumerate(NUMBERS_TO_NINETEEN.split())},
    **{word: 10.0 * value for value, word in enumerate(TENS.split(), start=2)},
    "hundred": 100.0,
    "thousand": 1000.0,
}
DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
WORD = re.compile(r"[a-z]+")


def is_choice(question_type: str) -> bool:
    """Whether a question of this type has options; raises ValueError if there is no such type."""
    if question_type not in QUESTION_TYPES:
        raise ValueError(f"There is no question type {question_type!r}. The types are {', '.join(QUESTION_TYPES)}.")
    return question_type not in NUMERIC_TYPES


def parse_official(text: str, question_type: str) -> str:
    """The text before the first space, without trailing dots, then without white space around it.

    So "A. left", "B." and "A\\n" are letters, but " A", "(C)" and "B.\\nbecause" are not.
    """
    is_choice(question_type)
    return text.split(" ")[0].rstrip(".").strip()


def parse_lmms_eval(text: str, question_type: str) -> str:
    """As lmms-eval 0.7.3: the first number anywhere, in digits or words, or nothing; a choice as `parse_official`.

    "About 25cm" is 25, and "Three chairs" is 3; see `first_number`.
    """
    return parse_official(text, question_type) if is_choice(question_type) else first_number(text)


def first_number(text: str) -> str:
    """The first number of a text as lmms-eval 0.7.3 finds it, in digits or English words, or nothing.

    Digits may have a minus and a point, and no exponent, plus or leading point: "1e3" is 1, ".5" is 5, "20-30" is 20,
    "3,000" is 3. Number words run on until another word, over "and" and over digits: "twenty-one" is 21, and "five 6
    seven" is 12.
    """
    text = text.strip().lower()
    digits = DIGITS.search(text)
    start, values = leading_words(text)
    if digits and (start is None or digits.start() < start):
        return digits.group()
    return "" if start is None else repr(number_of_words(values)).removesuffix(".0")


def leading_words(text: str) -> tuple[int | None, list[float]]:
    """Place and values of the first run of number words in a text in lower case."""
    start, values = None, []
    for found in WORD.finditer(text):
        value = NUMBER_WORDS.get(found.group())
        if value is not None:
            start = found.start() if start is None else start
            values.append(value)
        elif start is not None and found.group() != "and":
            break
    return start, values


def number_of_words(values: list[float]) -> float:
    """[3, 100, 20, 1] is 321: what stands before a thousand is added to the whole; floats, which cannot overflow."""
    whole = part = 0.0
    for value in values:
        if value == NUMBER_WORDS["thousand"]:
            whole, part = whole + max(part, 1.0) * value, 0.0
        elif value == NUMBER_WORDS["hundred"]:
            part = max(part, 1.0) * value
        else:
            part += value
    return whole + part


PARSERS: dict[str, Callable[[str, str], str]] = {"official": parse_official, "lmms_eval": parse_lmms_eval}


def to_number(value: str | int | float | None) -> float | None:
    """As Python's `float` reads it ("1e2", "1_000", "nan" count); None for anything else."""
    if value is None:
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def mean_relative_accuracy(prediction: float, target: float) -> float:
    """Mean over the ten thresholds theta of [|prediction - target| / target <= 1 - theta] (VSI-Bench, eq. 1), float64.

    The official code stops with a ZeroDivisionError at target 0. Here the target 0 is met by 0 alone: score 1 for the
    prediction 0, else 0, the limit of the formula. A negative target keeps the official outcome, where predictions
    above it score 1; lengths, areas and counts have none, and `vsibench.check_row` refuses them.
    """
    if target == 0:
        return float(prediction == 0)
    error = np.float64(abs(prediction - target) / target)
    return float(np.mean(error <= 1 - np.array(MRA_THRESHOLDS)))


def score_parsed(parsed: str, question_type: str, ground_truth: str | int | float) -> float:
    """Score in [0, 1] of a parsed answer: equality of letters without case, or mean relative accuracy.

    What is no number scores 0, as in the official code.
    """
    if is_choice(question_type):
        return float(parsed.lower() == str(ground_truth).lower())
    prediction, target = to_number(parsed), to_number(ground_truth)
    return 0.0 if prediction is None or target is None else mean_relative_accuracy(prediction, target)


def score_likelihood(probabilities: dict[str, float], ground_truth: str) -> float:
    """1 if the right letter is the likeliest, 0 if not; k letters that are equally the likeliest share the 1.

    So equal probabilities score exactly the level of chance.
    """
    best = max(probabilities.values())
    likeliest = [letter for letter, probability in probabilities.items() if probability == best]
    return 1 / len(likeliest) if ground_truth in likeliest else 0.0


def metric_name(question_type: str) -> str:
    """The name that official result files use."""
    return "accuracy" if is_choice(question_type) else "MRA:.5:.95:.05"


@dataclass(frozen=True)
class Averages:
    """Mean scores as VSI-Bench reports them.

    Attributes:
        types: mean score of each question type that has questions.
        categories: score of each of the eight categories, None where a type of it has no question.
        macro: unweighted mean of the categories that have a score; None if none has.
        micro: mean over the questions of the eight categories; None if there are none.
        missing: types of the eight categories without a question; not empty means that `macro` is not comparable
            with published scores.
    """

    types: dict[str, float]
    categories: dict[str, float | None]
    macro: float | None
    micro: float | None
    missing: tuple[str, ...]


def average(scores: Iterable[tuple[str, float]]) -> Averages:
    """Means as VSI-Bench takes them: a type, the three direction types unweighted, the categories unweighted.

    A category without questions is left out of the macro average, as in the official code, and named in `missing`.
    Where a direction type is missing the official code stops with a KeyError; here the whole category of directions
    then has no score, because a mean of the other types would not be comparable. `scores` are the question type and
    score in [0, 1] of each question.
    """
    by_type: dict[str, list[float]] = {}
    for question_type, score in scores:
        is_choice(question_type)
        by_type.setdefault(question_type, []).append(score)
    types = {name: float(np.mean(by_type[name])) for name in QUESTION_TYPES if name in by_type}
    categories = {
        category: float(np.mean([types[name] for name in names])) if all(name in types for name in names) else None
        for category, names in CATEGORIES.items()
    }
    scored = [score for score in categories.values() if score is not None]
    averaged = [score for name, values in by_type.items() if name not in EXTRA_CHOICE_TYPES for score in values]
    return Averages(
        types=types,
        categories=categories,
        macro=float(np.mean(scored)) if scored else None,
        micro=float(np.mean(averaged)) if averaged else None,
        missing=tuple(name for name in (*CHOICE_TYPES, *NUMERIC_TYPES) if name not in types),
    )
