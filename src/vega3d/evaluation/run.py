"""Asks an answerer every question of a benchmark and writes one result file; a killed run continues.

Answers go batch by batch into `OUTPUT.partial.jsonl`, and at the end, scored, into OUTPUT, as one file.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vega3d.configs import check_count
from vega3d.evaluation.metrics import PARSERS, score_likelihood, score_parsed
from vega3d.evaluation.report import summarise
from vega3d.evaluation.result_files import FORMAT, JOURNAL_REMEDY, check_same_header, open_journal, read_result
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.files import check_output, only_run, write_json
from vega3d.questions import RawAnswer, ReasonedAnswer
from vega3d.runs import versions
from vega3d.statistics import RESAMPLES

if TYPE_CHECKING:
    from vega3d.evaluation.answerers import Answerer  # imports torch

LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "av")
BATCH_SIZE = 8
Raw = RawAnswer | ReasonedAnswer
Given = TypeVar("Given", bound=Raw)


def evaluate(
    answerer: "Answerer",
    records: Sequence[AnnotatedQuestion],
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
        records: questions, with their videos where the answerer needs them.
        output: JSON file of the result. If it is there already, and of the same run, it is returned as it is. None
            stores nothing, so that a killed run starts anew.
        benchmark: its name in the result file.
        missing_videos: videos whose questions were left out, for the result file.
        seed: decides the draws of the bootstrap, of which there are `resamples`.
        batch_size: questions answered at a time. The answers do not depend on it but for rounding, so a run may be
            continued with another one.
        on_progress: called with the number of questions that are newly done, at first with those of an earlier run.

    Returns:
        The values of the file: `format`, `benchmark`, `settings`, `versions`, `questions_sha256`, `missing_videos`,
        `batch_size`, `bootstrap`, `summary` (see `report.summarise`), `debiased` (the summary without the questions
        that the table says are pruned; None if it does not say), and `questions` in the order of `records`, each with
        prompt, raw answer, what it stands on (`reason`) if the answerer gives it, both parses, option probabilities
        and scores.

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
        answers = ask(answerer, records, batch_size, journal, header, on_progress)
        questions = [scored(record, answers[record.id]) for record in records]
        result = {
            **header,
            "batch_size": batch_size,
            "bootstrap": {"seed": seed, "resamples": resamples},
            "summary": summarise(questions, resamples, seed),
            "debiased": summarise_debiased(questions, resamples, seed),
            "questions": questions,
        }
        if output is not None and journal is not None:
            write_json(output, result)
            journal.unlink()
        return result


def journal_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial.jsonl")


def ask(
    answerer: "Answerer",
    records: Sequence[AnnotatedQuestion],
    batch_size: int,
    journal_file: Path | None,
    header: dict,
    on_progress: Callable[[int], None] | None,
) -> dict[str, Raw]:
    """Answers by id; each batch is in the journal before the next one is asked."""
    with open_journal(journal_file, header) as (stored, journal):
        answers = stored_answers(stored, records, journal_file)
        if on_progress is not None:
            on_progress(len(answers))
        for batch in batches(records, batch_size):
            open_questions = [record for record in batch if record.id not in answers]
            if not open_questions:
                continue
            given = answerer.answer(open_questions)
            pairs = zip(open_questions, given, strict=True)
            new = {record.id: checked(record, answer) for record, answer in pairs}
            journal.append({"answers": new})
            answers.update(new)
            if on_progress is not None:
                on_progress(len(new))
    return answers


def stored_answers(
    stored: Mapping[str, Any], records: Sequence[AnnotatedQuestion], path: Path | None
) -> dict[str, Raw]:
    """The answers of a journal; raises ValueError if one is to another question, or cannot be scored."""
    asked = {record.id: record for record in records}
    answers = {}
    for key, answer in stored.items():
        if key not in asked:
            raise ValueError(f"{path} answers question {key}, which is not asked. {JOURNAL_REMEDY}")
        if not isinstance(answer, list) or len(answer) not in (2, 3):
            raise ValueError(
                f"{path} has the answer {answer!r:.80} to question {key}, but must have two values, or three. "
                f"{JOURNAL_REMEDY}"
            )
        try:
            answers[key] = checked(asked[key], (answer[0], answer[1], *answer[2:]))
        except ValueError as error:
            raise ValueError(f"{path} holds what is no answer: {error} {JOURNAL_REMEDY}") from error
    return answers


def batches(records: Sequence[AnnotatedQuestion], size: int) -> list[list[AnnotatedQuestion]]:
    """Questions on one scene after another, those with marks after the others, cut into batches.

    Answerers remember the videos of the last batch, so each video is in batches that follow each other.
    """
    scenes: dict[tuple[str, str], int] = {}
    for record in records:
        scenes.setdefault((record.dataset, record.scene), len(scenes))

    def place(record: AnnotatedQuestion) -> tuple:
        return scenes[record.dataset, record.scene], record.frame is not None, record.frame or 0, record.marks

    ordered = sorted(records, key=place)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def summarise_debiased(questions: Sequence[dict], resamples: int, seed: int) -> dict | None:
    """The summary of the questions that the table keeps in VSI-Bench-Debiased; None if it names none as pruned."""
    left = [question for question in questions if question["pruned"] is False]
    if not left or len(left) == len(questions):
        return None
    return {"questions": len(left), "summary": summarise(left, resamples, seed)}


def run_header(
    answerer: "Answerer", records: Sequence[AnnotatedQuestion], benchmark: str, missing_videos: Sequence[str]
) -> dict:
    """All that the answers depend on, as JSON gives it back; raises ValueError for no questions or equal ids."""
    if not records or len({record.id for record in records}) < len(records):
        raise ValueError(f"Got {len(records)} questions; give at least one, each with an id of its own.")
    asked = [[item.id, item.dataset, item.scene, item.prompt, item.answer, item.frame, item.marks] for item in records]
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
