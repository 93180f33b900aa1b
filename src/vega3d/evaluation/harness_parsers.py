"""The same answers read by the parsers of several harnesses, side by side; nothing is asked again.

`official` is VSI-Bench's own, which the code of VEGA-3D has, too; `lmms_eval` is that of lmms-eval 0.7.3; `plain` is
this project's: what a person reads. All three take the text of an answer as a result file holds it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from vega3d.evaluation.metrics import (
    NUMBER_WORDS,
    PARSERS,
    is_choice,
    leading_words,
    number_of_words,
    score_parsed,
    to_number,
)
from vega3d.evaluation.report import percent, scene_intervals, scene_name, table_rows
from vega3d.evaluation.rules import SCENE_RULES, VSIBENCH
from vega3d.tables import aligned

HARNESS_PARSERS = (*PARSERS, "plain")
SHOWN = 20  # answers that the printed report lists
LONGEST = 60  # characters of an answer in it
LETTER = re.compile(r"(?<![\w'])[A-Z](?![\w'])")
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?:e-?\d+)?", re.IGNORECASE)


def parse_plain(text: str, question_type: str, options: Sequence[str] = ()) -> str:
    """The one letter or number that a text names, wherever it stands; nothing if it names none, or several.

    So "(B)", "The answer is B." and the words of the option B are B, "about 25cm" and "twenty-five" are 25, "3,000" is
    3000; "A or B" and "20-30" are nothing.

    Args:
        options: of a choice, with their letters: "A. left".
    """
    if not is_choice(question_type):
        return plain_number(text)
    letters = {option[0]: option.partition(". ")[2].strip().lower() for option in options}
    bare = text.strip().strip(".()[]*: ")
    named = set(LETTER.findall(text)) & letters.keys() or {bare.upper()} & letters.keys()
    named = named or {letter for letter, words in letters.items() if words == bare.lower()}
    return named.pop() if len(named) == 1 else ""


def plain_number(text: str) -> str:
    """The number of a text that has one, in digits or in words."""
    text = text.lower()
    found = {to_number(number.replace(",", "")) for number in NUMBER.findall(text)} - {None}
    _, values = leading_words(text)
    if values:
        found.add(number_of_words(values))
    return f"{found.pop():g}" if len(found) == 1 else ""
