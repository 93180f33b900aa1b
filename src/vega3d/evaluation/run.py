"""Asks an answerer every question of a benchmark and writes one result file; a killed run continues.

Answers go batch by batch into `OUTPUT.partial.jsonl`, and at the end, scored, into OUTPUT, as one file.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from vega3d.configs import check_count
from vega3d.evaluation.harness_parsers import compare_parsers
from vega3d.evaluation.metrics import PARSERS, score_likelihood, score_parsed
from vega3d.evaluation.report import summarise
from vega3d.evaluation.result_files import FORMAT, read_result
from vega3d.evaluation.rules import SCENE_RULES
from vega3d.evaluation.scenes.scoring import checked_answer, corpus_values, restored_answer, scored_records
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.files import check_output, only_run, write_json
from vega3d.journals import JOURNAL_REMEDY, check_same_header, journal_path, open_journal
from vega3d.questions import RawAnswer, ReasonedAnswer
from vega3d.runs import versions
from vega3d.statistics import RESAMPLES

LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "av")
BATCH_SIZE = 8
Raw = RawAnswer | ReasonedAnswer
Given = TypeVar("Given", bound=Raw)


class Record(Protocol):
    """A question that can be asked: an `AnnotatedQuestion`, or a `SceneRecord`."""

    @property
    def id(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def scene(self) -> str: ...
    @property
    def order(self) -> tuple: ...
    @property
    def identity(self) -> list: ...


class AnyAnswerer(Protocol):
    """What is evaluated: an `answerers.Answerer`, or a `scenes.answerers.SceneAnswerer`."""

    settings: dict

    def answer(self, records: Any) -> Sequence[Any]: ...


class Marking(NamedTuple):
    """How the answers to a kind of question are checked, read from a journal, and scored."""

    checked: Callable[[Any, Any], Any]  # question, answer -> the answer as JSON takes it; ValueError for no answer
    restored: Callable[[Any, Any], Any]  # question, answer as JSON gives it -> answer, unchecked
    scored: Callable[[Sequence, Sequence], list[dict]]  # questions, checked answers -> those of the result file
    corpus: Callable[[Sequence, Sequence], dict]  # questions, checked answers -> more values for the result file


def evaluate(
    answerer: AnyAnswerer,
    records: Sequence[Record],
    output: str | Path | None = None,
    benchmark: str = "vsibench",
    missing_videos: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[int], None] | None = None,
) -> dict:
    """The result of a benchmark: asked, scored and written; what an earlier run answered is not asked again.

    Args:
        records: questions of one benchmark, with their videos or scans where the answerer needs them.
        output: JSON file of the result. If it is there already, and of the same run, it is returned as it is. None
            stores nothing, so that a killed run starts anew.
        benchmark: its name in the result file, which decides how answers are scored (`rules.rules_of`).
        missing_videos: videos whose questions were left out, for the result file.
        seed: decides the draws of the bootstrap, of which there are `resamples`.
        batch_size: questions answered at a time. The answers do not depend on it but for rounding, so a run may be
            continued with another one.
        on_progress: called with the number of questions that are newly done, at first with those of an earlier run.

    Returns:
        The values of the file: `format`, `benchmark`, `settings`, `versions`, `questions_sha256`, `missing_videos`,
        `batch_size`, `bootstrap`, `summary` (see `report.summarise`), `debiased` (the summary without the questions
        that the table says are pruned; None if it does not say), and `questions` in the order of `records`, each with
        prompt, raw answer and scores, and of VSI-Bench what the answer stands on (`reason`) if the answerer gives it,
        both parses and option probabilities; and `parsers` (see `harness_parsers.compare_parsers`). Of captions and
        answers in words also `meteor`.

    Raises:
        ValueError: if there are no questions, `batch_size` is below 1, the output cannot be written, another run is
            writing it, or it or its partial file is of another run or damaged; or as the answerer does.
    """
    output = None if output is None else Path(output)
    check_request(output, batch_size)
    header = run_header(answerer, records, benchmark, missing_videos)
    with contextlib.nullcontext() if output is None else only_run(output):
        if output is not None and output.exists():
            finished = read_result(output)
            check_same_header({name: finished.get(name) for name in header}, header, output)
            return finished
        journal = None if output is None else journal_path(output)
        marking = MARKINGS.get(benchmark, VSIBENCH_MARKING)
        answers = ask(answerer, records, batch_size, journal, header, on_progress, marking)
        given = [answers[record.id] for record in records]
        questions = marking.scored(records, given)
        result = {
            **header,
            "batch_size": batch_size,
            "bootstrap": {"seed": seed, "resamples": resamples},
            "summary": summarise(questions, resamples, seed, benchmark),
            "debiased": summarise_debiased(questions, resamples, seed),
            **marking.corpus(records, given),
            "questions": questions,
        }
        if benchmark not in SCENE_RULES:
            result["parsers"] = compare_parsers(result)
        if output is not None and journal is not None:
            write_json(output, result)
            journal.unlink()
        return result


def ask(
    answerer: AnyAnswerer,
    records: Sequence[Record],
    batch_size: int,
    journal_file: Path | None,
    header: dict,
    on_progress: Callable[[int], None] | None,
    marking: Marking,
) -> dict[str, Any]:
    """Checked answers by id; each batch is in the journal before the next one is asked."""
    with open_journal(journal_file, header) as (stored, journal):
        answers = stored_answers(stored, records, journal_file, marking)
        if on_progress is not None:
            on_progress(len(answers))
        for batch in batches(records, batch_size):
            open_questions = [record for record in batch if record.id not in answers]
            if not open_questions:
                continue
            given = answerer.answer(open_questions)
            pairs = zip(open_questions, given, strict=True)
            new = {record.id: marking.checked(record, answer) for record, answer in pairs}
            journal.append({"answers": new})
            answers.update(new)
            if on_progress is not None:
                on_progress(len(new))
    return answers


def stored_answers(
    stored: Mapping[str, Any], records: Sequence[Record], path: Path | None, marking: Marking
) -> dict[str, Any]:
    """The answers of a journal; raises ValueError if one is to another question, or cannot be scored."""
    asked = {record.id: record for record in records}
    answers = {}
    for key, answer in stored.items():
        if key not in asked:
            raise ValueError(f"{path} answers question {key}, which is not asked. {JOURNAL_REMEDY}")
        try:
            answers[key] = marking.checked(asked[key], marking.restored(asked[key], answer))
        except ValueError as error:
            raise ValueError(f"{path} holds what is no answer: {error} {JOURNAL_REMEDY}") from error
    return answers


def batches(records: Sequence[Record], size: int) -> list[list[Record]]:
    """Questions on one scene after another, those with marks after the others, cut into batches.

    Answerers remember the videos of the last batch, so each video is in batches that follow each other.
    """
    scenes: dict[tuple[str, str], int] = {}
    for record in records:
        scenes.setdefault((record.dataset, record.scene), len(scenes))

    def place(record: Record) -> tuple:
        return scenes[record.dataset, record.scene], *record.order

    ordered = sorted(records, key=place)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def summarise_debiased(questions: Sequence[dict], resamples: int, seed: int) -> dict | None:
    """The summary of the questions that the table keeps in VSI-Bench-Debiased; None if it names none as pruned."""
    left = [question for question in questions if question.get("pruned") is False]
    if not left or len(left) == len(questions):
        return None
    return {"questions": len(left), "summary": summarise(left, resamples, seed)}


def run_header(
    answerer: AnyAnswerer, records: Sequence[Record], benchmark: str, missing_videos: Sequence[str]
) -> dict:
    """All that the answers depend on, as JSON gives it back; raises ValueError for no questions or equal ids."""
    if not records or len({record.id for record in records}) < len(records):
        raise ValueError(f"Got {len(records)} questions; give at least one, each with an id of its own.")
    asked = [record.identity for record in records]
    header = {
        "format": FORMAT,
        "benchmark": benchmark,
        "settings": answerer.settings,
        "versions": versions(*LIBRARIES),
        "questions_sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        "missing_videos": list(missing_videos),
    }
    return json.loads(json.dumps(header, allow_nan=False))


def check_request(output: Path | None, batch_size: int, *inputs: str | Path | None) -> None:
    """What can be known before anything is loaded. `inputs` are files that are read, none of which may be written.

    Raises:
        ValueError: if the batches or the place of the output cannot be, what lies there is no result, or another run
            is writing it.
    """
    check_count("batch_size", batch_size)
    if output is None:
        return
    for path in (output, journal_path(output)):
        check_output(path, *inputs)
    with only_run(output):
        if output.exists():
            read_result(output)


def checked(record: AnnotatedQuestion, answer: Given) -> Given:
    """The answer; raises ValueError if it cannot be scored: bad probabilities, or of other letters, or no text."""
    text, probabilities, *reason = answer
    for written in (text, *reason):
        if not isinstance(written, str):
            raise ValueError(
                f"The answer to question {record.id} is {written!r:.80}, but must be text; empty text scores 0."
            )
    if probabilities is not None:
        if not isinstance(probabilities, dict) or "".join(probabilities) != record.letters:
            raise ValueError(
                f"Question {record.id} has the options {record.letters!r}, but the answer has probabilities of "
                f"{list(probabilities) if isinstance(probabilities, dict) else probabilities!r:.80}."
            )
        if not all(
            isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1
            for value in probabilities.values()
        ):
            raise ValueError(
                f"The option probabilities of question {record.id} are {probabilities}. Load the model in float32 or "
                "bfloat16, and check its weights."
            )
    return answer


def restored(record: AnnotatedQuestion, answer: Any) -> Raw:
    """The answer that a journal holds as a list; raises ValueError unless it has two values, or three."""
    if not isinstance(answer, list) or len(answer) not in (2, 3):
        raise ValueError(f"the answer {answer!r:.80} to question {record.id}, which must have two values, or three.")
    return answer[0], answer[1], *answer[2:]


def scored(record: AnnotatedQuestion, answer: Raw) -> dict:
    """A question of the result file. The likelihood score of a numeric question is its official score."""
    text, probabilities, *reason = answer
    parsed = {name: parse(text, record.question_type) for name, parse in PARSERS.items()}
    scores: dict[str, float | None] = {
        name: score_parsed(value, record.question_type, record.answer) for name, value in parsed.items()
    }
    scores["likelihood"] = scores["official"]
    if record.options:
        scores["likelihood"] = None if probabilities is None else score_likelihood(probabilities, record.answer)
    return {
        "id": record.id,
        "dataset": record.dataset,
        "scene": record.scene,
        "question_type": record.question_type,
        "question": record.question,
        "options": record.lettered,
        "ground_truth": record.answer,
        "prompt": record.prompt,
        "frame": record.frame,
        "marks": [list(mark) for mark in record.marks],
        "pruned": record.pruned,
        "answer": text,
        **({"reason": reason[0]} if reason else {}),
        "parsed": parsed,
        "option_probabilities": probabilities,
        "scores": scores,
    }


VSIBENCH_MARKING = Marking(
    checked,
    restored,
    lambda records, answers: [scored(*pair) for pair in zip(records, answers, strict=True)],
    lambda records, answers: {},
)
MARKINGS = {
    name: Marking(checked_answer, restored_answer, partial(scored_records, name), partial(corpus_values, name))
    for name in SCENE_RULES
}
