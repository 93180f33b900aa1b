"""The journal of a run that is not finished: its answers on disk while it goes on, so that a killed run continues."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vega3d.files import check_output
from vega3d.runs import check_same_run

JOURNAL_REMEDY = "Delete the file to start anew."


def journal_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial.jsonl")


def check_same_header(found: Mapping, header: Mapping, path: Path) -> None:
    """Raises ValueError, naming the differences, unless a file is of the run that `header` describes."""
    check_same_run(found, header, f"{path} is of another run", "Delete it, or write to another file.")


class Journal:
    """The answers of a run on disk, one line a batch; without a file it forgets them."""

    def __init__(self, file: IO[bytes] | None = None):
        self.file = file

    def append(self, values: Mapping) -> None:
        """One line, handed to the disk at once, so that no end of this process or machine loses an answered batch.

        One line for a whole batch: a batch is stored or asked again, so a run that was killed asks in the same batches
        as one that was not.
        """
        if self.file is not None:
            self.file.write(json.dumps(values, allow_nan=False).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())


@contextmanager
def open_journal(path: Path | None, header: Mapping) -> Iterator[tuple[dict[str, Any], Journal]]:
    """The answers of an earlier run by id, unchecked, and the journal to append to; what a kill cut off is cut away.

    The `header` is what the answers depend on; without a path nothing is stored.

    Raises:
        ValueError: if the file is of another run, or damaged otherwise than at its end.
    """
    if path is None:
        yield {}, Journal()
        return
    check_output(path)
    path.touch()
    with path.open("r+b") as file:
        whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]
        lines = [read_line(line, f"{path}, line {number},") for number, line in enumerate(whole.splitlines(), start=1)]
        if lines:
            check_same_header(lines[0], header, path)
        answers: dict[str, Any] = {}
        for number, line in enumerate(lines[1:], start=2):
            given = line.get("answers")
            if not isinstance(given, dict) or given.keys() & answers.keys():
                what = "answers a question again" if isinstance(given, dict) else "holds no answers"
                raise ValueError(f"{path}, line {number}, {what}. {JOURNAL_REMEDY}")
            answers |= given
        file.truncate(len(whole))
        file.seek(len(whole))
        journal = Journal(file)
        if not lines:
            journal.append(header)
        yield answers, journal


def read_line(line: bytes, place: str) -> dict[str, Any]:
    """The values of a line; raises ValueError if it holds none."""
    try:
        values = json.loads(line)
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{place} is damaged: {reason}. {JOURNAL_REMEDY}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{place} is damaged: it holds {type(values).__name__}. {JOURNAL_REMEDY}")
    return values
