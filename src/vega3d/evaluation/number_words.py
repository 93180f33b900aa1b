"""The number in an answer, as lmms-eval 0.7.3 finds it: digits or English number words, whichever comes first."""

import re

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
LATE_TEENS = "seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
VALUES = {
    **{word: float(value) for value, word in enumerate(f"{UNITS} {LATE_TEENS}".split())},
    **{word: 10.0 * value for value, word in enumerate(TENS.split(), start=2)},
    "hundred": 100.0,
    "thousand": 1000.0,
}
DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
WORD = re.compile(r"[a-z]+")


def first_number(text: str) -> str:
    """The first number of a text, as `float` reads it, or nothing.

    Digits may have a minus and a point, and no exponent, plus or leading point: "1e3" is 1, ".5" is 5, "20-30" is 20,
    "3,000" is 3. Number words run on until another word, over "and" and over digits: "twenty-one" is 21, and "five 6
    seven" is 12.
    """
    text = text.strip().lower()
    digits = DIGITS.search(text)
    start, values = leading_words(text)
    if digits and (start is None or digits.start() < start):
        return digits.group()
    return "" if start is None else repr(value_of_words(values)).removesuffix(".0")


def leading_words(text: str) -> tuple[int | None, list[float]]:
    """Place and values of the first run of number words in a text in lower case."""
    start, values = None, []
    for found in WORD.finditer(text):
        value = VALUES.get(found.group())
        if value is not None:
            start = found.start() if start is None else start
            values.append(value)
        elif start is not None and found.group() != "and":
            break
    return start, values


def value_of_words(values: list[float]) -> float:
    """[3, 100, 20, 1] is 321: what stands before a thousand is added to the whole; floats, which cannot overflow."""
    whole = part = 0.0
    for value in values:
        if value == VALUES["thousand"]:
            whole, part = whole + max(part, 1.0) * value, 0.0
        elif value == VALUES["hundred"]:
            part = max(part, 1.0) * value
        else:
            part += value
    return whole + part
