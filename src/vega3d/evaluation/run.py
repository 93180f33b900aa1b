"""Asks an answerer every question of a benchmark and writes one result file; a killed run continues.

Answers go line by line into `OUTPUT.partial.jsonl`, and at the end, scored, into OUTPUT, as one file.
"""

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO

from vega3d import __version__
from vega3d.evaluation.answerers import Answer, Answerer
from vega3d.evaluation.bootstrap import RESAMPLES
from vega3d.evaluation.metrics import PARSERS, score_likelihood, score_parsed
from vega3d.evaluation.report import FORMAT, read_result, summarise, write_json
from vega3d.evaluation.vsibench import QuestionRecord

LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "av")


def evaluate(
    answerer: Answerer,
    records: Sequence[QuestionRecord],
    output: str | Path,
    benchmark: str = "vsibench",
    missing_videos: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
    on_question: Callable[[int], None] | None = None,
) -> dict:
    """Answers, scores and writes; what an earlier run answered is not asked again.

    Args:
        answerer: model or baseline.
        records: questions, with their videos where the answerer needs them.
        output: JSON file of the result. If it is there already, and of the same run, it is returned as it is.
        benchmark: name for the result file.
        missing_videos: videos whose questions were left out, for the result file.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        on_question: called with the number of questions that are newly done, at first with those of an earlier run.

    Returns:
        The values of the file: `format`, `benchmark`, `settings`, `versions`, `questions_sha256`, `missing_videos`,
        `bootstrap`, `summary` (see `report.summarise`), and `questions` in the order of `records`, each with prompt,
        raw answer, both parses, option probabilities and scores.

    Raises:
        ValueError: if there are no questions, the output cannot be written, or it or its partial file is of another
            run; or as the answerer does.
    """
    output = Path(output)
    header = describe_run(answerer, records, benchmark, missing_videos)
    journal = output.with_name(f"{output.name}.partial.jsonl")
    check_output(output)
    if output.exists():
        result = read_result(output)
        check_same_run({name: result.get(name) for name in header}, header, output)
        return result
    report = on_question or (lambda _: None)
    with open_journal(journal, header) as (answers, file):
        report(len(answers))
        for record in grouped_by_scene(records):
            if record.id not in answers:
                answers[record.id] = checked(record, answerer.answer(record))
                append(file, {"id": record.id, "answer": answers[record.id]})
                report(1)
    questions = [scored(record, answers[record.id]) for record in records]
    result = {
        **header,
        "bootstrap": {"seed": seed, "resamples": resamples},
        "summary": summarise(questions, resamples, seed),
        "questions": questions,
    }
    write_json(output, result)
    journal.unlink()
    return result


def describe_run(
    answerer: Answerer, records: Sequence[QuestionRecord], benchmark: str, missing_videos: Sequence[str]
) -> dict:
    """All that the answers depend on, as JSON gives it back; raises ValueError for no questions or equal ids."""
    if not records or len({record.id for record in records}) < len(records):
        raise ValueError(f"Got {len(records)} questions; give at least one, each with an id of its own.")
    asked = [[record.id, record.dataset, record.scene, record.prompt, record.ground_truth] for record in records]
    header = {
        "format": FORMAT,
        "benchmark": benchmark,
        "settings": answerer.settings,
        "versions": {
            "vega3d": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "questions_sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        "missing_videos": list(missing_videos),
    }
    return json.loads(json.dumps(header, allow_nan=False))


def check_output(output: Path) -> None:
    """Raises ValueError unless the folder of the output is there and the output no folder."""
    if output.is_dir():
        raise ValueError(f"{output} is a folder. Give a file for the result, such as {output / 'result.json'}.")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {output.absolute().parent} to write {output.name} into.")


def flattened(values: Mapping, prefix: str = "") -> dict:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def check_same_run(found: Mapping, header: Mapping, path: Path) -> None:
    """Raises ValueError, naming the differences, unless a file is of the run that `header` describes."""
    theirs, ours = flattened(found), flattened(header)
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if names:
        differences = "; ".join(f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r}" for name in names)
        raise ValueError(f"{path} is of another run: {differences}. Delete it, or write to another file.")


@contextmanager
def open_journal(path: Path, header: Mapping) -> Iterator[tuple[dict[str, Answer], IO[bytes]]]:
    """The answers of an earlier run by id, and the file to append to; what a kill cut off is cut away.

    Raises:
        ValueError: if the file is of another run, or damaged otherwise than at its end.
    """
    path.touch()
    with path.open("r+b") as file:
        whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}, is damaged: {error}. Delete the file to start anew."
                ) from error
        if lines:
            check_same_run(lines[0], header, path)
        file.truncate(len(whole))
        file.seek(len(whole))
        if not lines:
            append(file, header)
        yield {line["id"]: (line["answer"][0], line["answer"][1]) for line in lines[1:]}, file


def append(file: IO[bytes], values: Mapping) -> None:
    """One line, handed to the system at once, so that killing this process loses no answer."""
    file.write(json.dumps(values, allow_nan=False).encode() + b"\n")
    file.flush()


def grouped_by_scene(records: Sequence[QuestionRecord]) -> list[QuestionRecord]:
    """Questions on one scene after another, for answerers that keep what they know of the last video."""
    scenes: dict[tuple[str, str], list[QuestionRecord]] = {}
    for record in records:
        scenes.setdefault((record.dataset, record.scene), []).append(record)
    return [record for group in scenes.values() for record in group]


def checked(record: QuestionRecord, answer: Answer) -> Answer:
    """The answer; raises ValueError if it cannot be scored: NaN probabilities, or of other letters, or no text."""
    text, probabilities = answer
    if not isinstance(text, str):
        raise ValueError(f"The answer to question {record.id} is {text!r}, but must be text; empty text scores 0.")
    if probabilities is not None:
        if "".join(probabilities) != record.letters:
            raise ValueError(
                f"Question {record.id} has the options {record.letters!r}, but the answer has probabilities of "
                f"{list(probabilities)}."
            )
        if not all(math.isfinite(value) for value in probabilities.values()):
            raise ValueError(
                f"The option probabilities of question {record.id} are {probabilities}. Load the model in float32 or "
                "bfloat16, and check its weights."
            )
    return text, probabilities


def scored(record: QuestionRecord, answer: Answer) -> dict:
    """A question of the result file. The likelihood score of a numeric question is its official score."""
    text, probabilities = answer
    parsed = {name: parse(text, record.question_type) for name, parse in PARSERS.items()}
    scores: dict[str, float | None] = {
        name: score_parsed(value, record.question_type, record.ground_truth) for name, value in parsed.items()
    }
    scores["likelihood"] = scores["official"]
    if record.options:
        scores["likelihood"] = None if probabilities is None else score_likelihood(probabilities, record.ground_truth)
    return {
        "id": record.id,
        "dataset": record.dataset,
        "scene": record.scene,
        "question_type": record.question_type,
        "question": record.question,
        "options": list(record.options),
        "ground_truth": record.ground_truth,
        "prompt": record.prompt,
        "answer": text,
        "parsed": parsed,
        "option_probabilities": probabilities,
        "scores": scores,
    }
