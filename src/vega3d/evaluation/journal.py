"""The answers of a run on disk while it runs, so that a killed run continues."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vega3d.evaluation.answerers import Answer


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


class Journal:
    """A file that takes the answers of one batch after another; without a file it forgets them."""

    def __init__(self, file: IO[bytes] | None = None):
        self.file = file

    def append(self, values: Mapping) -> None:
        """One line, handed to the system at once, so that killing this process loses no batch that was answered.

        One line for a whole batch: a batch is kept or asked again, so a run that was killed asks in the same batches
        as one that was not.
        """
        if self.file is not None:
            self.file.write(json.dumps(values, allow_nan=False).encode() + b"\n")
            self.file.flush()


@contextmanager
def open_journal(path: Path | None, header: Mapping) -> Iterator[tuple[dict[str, Answer], Journal]]:
    """The answers of an earlier run by id, and the journal to append to; what a kill cut off is cut away.

    Args:
        path: of the file; None keeps nothing.
        header: what the answers depend on.

    Raises:
        ValueError: if the file is of another run, or damaged otherwise than at its end.
    """
    if path is None:
        yield {}, Journal()
        return
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
        journal = Journal(file)
        if not lines:
            journal.append(header)
        answers = {key: (text, letters) for line in lines[1:] for key, (text, letters) in line["answers"].items()}
        yield answers, journal
