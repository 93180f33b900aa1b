"""The same answers read by the parsers of several harnesses, side by side; nothing is asked again.

`official` is VSI-Bench's own, which the code of VEGA-3D has, too; `lmms_eval` is that of lmms-eval 0.7.3; `plain` is
this project's: what a person reads. All three take the text of an answer as a result file holds it.
"""

import math
import re
from collections.abc import Mapping, Sequence

from vega3d.evaluation.metrics import (
    EXTRA_CHOICE_TYPES,
    PARSERS,
    average,
    is_choice,
    leading_words,
    number_of_words,
    score_parsed,
    to_number,
)
from vega3d.evaluation.report import percent, table_rows
from vega3d.evaluation.result_files import RESULT_REMEDY
from vega3d.evaluation.rules import SCENE_RULES, VSIBENCH
from vega3d.tables import aligned

HARNESS_PARSERS = (*PARSERS, "plain")
SHOWN = 20  # answers that the printed report lists
LONGEST = 60  # characters of an answer in it
LETTER = re.compile(r"(?<![\w'])[A-Z](?![\w'])")
DIGITS = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:e[+-]?\d+)?|(?<![\w.])-?\.\d+")


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
    found = {to_number(number.replace(",", "")) for number in DIGITS.findall(text)}
    start, values = leading_words(text)
    if start is not None:
        found.add(number_of_words(values))
    return f"{found.pop()!r}".removesuffix(".0") if len(found) == 1 else ""


def readings(question: Mapping) -> dict[str, str]:
    """What each parser makes of the answer to a question of a result file."""
    text, kind = question["answer"], question["question_type"]
    return {
        **{name: parse(text, kind) for name, parse in PARSERS.items()},
        "plain": parse_plain(text, kind, question["options"] or ()),
    }


def value_of(reading: str, question_type: str) -> str | float | None:
    """The letter or the number that a parser read; None for anything else, however it is written."""
    if is_choice(question_type):
        return reading.upper() if len(reading) == 1 and reading.isalpha() else None
    number = to_number(reading)
    return number if number is not None and math.isfinite(number) else None


def chosen_parsers(names: Sequence[str]) -> tuple[str, ...]:
    """The parsers that are meant, each once; `all` means all of them. Raises ValueError for others."""
    unknown = [name for name in names if name not in (*HARNESS_PARSERS, "all")]
    if unknown:
        raise ValueError(f"There is no parser {unknown[0]!r:.80}. Give some of {', '.join(HARNESS_PARSERS)}, or all.")
    return HARNESS_PARSERS if "all" in names else tuple(dict.fromkeys(names))


def compare_parsers(result: Mapping, parsers: Sequence[str] = HARNESS_PARSERS) -> dict:
    """The scores of a result of VSI-Bench's questions by each of some parsers, and the answers that they read apart.

    Returns:
        `scores`, for each parser those of the rows of the table; `answers`, how many there are;
        `differ`, those of which not all parsers read the same letter or number, each with its id, type, right answer
        and text, what each parser read, and its scores.

    Raises:
        ValueError: if the benchmark is of scans, or a question has no text.
    """
    check_texts(result)
    rows: dict[str, list] = {name: [] for name in parsers}
    differ = []
    for question in result["questions"]:
        kind, truth, read = question["question_type"], question["ground_truth"], readings(question)
        scores = {name: score_parsed(read[name], kind, truth) for name in parsers}
        for name, score in scores.items():
            rows[name].append((kind, score))
        if len({value_of(read[name], kind) for name in parsers}) > 1:
            said = {name: question[name] for name in ("id", "question_type", "ground_truth", "answer")}
            differ.append({**said, "parsed": {name: read[name] for name in parsers}, "scores": scores})
    return {
        "scores": {name: row_scores(scored) for name, scored in rows.items()},
        "answers": len(result["questions"]),
        "differ": differ,
    }


def row_scores(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Means by the rows of the table, of the question type and score of each question; without rows of no question."""
    means = average(scores)
    extra = {name: means.types[name] for name in EXTRA_CHOICE_TYPES if name in means.types}
    rows = {**means.categories, **extra, "macro": means.macro, VSIBENCH.over_all: means.micro}
    return {name: score for name, score in rows.items() if score is not None}


def check_texts(result: Mapping) -> None:
    """Raises ValueError unless a result is of questions with answers in text, as all parsers read them."""
    if result["benchmark"] in SCENE_RULES:
        raise ValueError(f"{result['benchmark']} has scorings of its own. Parsers are for rooms and vsibench.")
    for question in result["questions"]:
        options, kind = question.get("options"), question["question_type"]
        lettered = isinstance(options, list) and all(isinstance(option, str) and option for option in options)
        texts = isinstance(question.get("answer"), str) and isinstance(question.get("ground_truth"), str)
        if not texts or (is_choice(kind) and not (options and lettered)):
            raise ValueError(f"Question {question['id']} has no text, options or right answer. {RESULT_REMEDY}")


def format_parsers(compared: Mapping) -> str:
    """The table of `compare_parsers` in percent, and the first of the answers that are read apart."""
    scores, differ = compared["scores"], compared["differ"]
    names = table_rows(VSIBENCH, next(iter(scores.values())))
    rows = [["category", *scores]]
    rows += [[name, *(percent(score.get(name)) for score in scores.values())] for name in names]
    apart = sum(len(set(one["scores"].values())) > 1 for one in differ)
    lines = [
        f"answers as each parser reads them: {len(differ)} of {compared['answers']} read apart, {apart} scored apart"
    ]
    lines += aligned(rows)
    if differ:
        lines += [
            "",
            *aligned([["question", "type", "right", *scores, "answer"], *map(differing_row, differ[:SHOWN])]),
        ]
    if len(differ) > SHOWN:
        lines.append(f"and {len(differ) - SHOWN} more; --json and the result file list all")
    return "\n".join(lines)


def differing_row(one: Mapping) -> list[str]:
    read = [f"{shortened(text)} ({percent(one['scores'][name])})" for name, text in one["parsed"].items()]
    return [one["id"], one["question_type"], one["ground_truth"], *read, shortened(one["answer"])]


def shortened(text: str) -> str:
    """In one line, in quotes."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
