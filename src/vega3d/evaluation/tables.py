"""Tables of questions: `.jsonl`, `.parquet`, and folders that `datasets.load_dataset` reads."""

import json
from pathlib import Path

DEFAULT_TABLES = ("test.jsonl", "test.parquet")
SUFFIXES = (".jsonl", ".parquet")


def read_questions(folder: Path, table: str | Path | None) -> tuple[list[dict], str]:
    """Rows of the table that is meant, and its name for messages.

    Args:
        folder: of the benchmark.
        table: a file, as a path or a name in `folder`, or a split where `folder` has no table of its own but is one
            that `datasets.load_dataset` reads (such as `data/test-00000-of-00001.parquet`). By default `test.jsonl`,
            `test.parquet`, the only table, or the split `test` or the only split.

    Raises:
        ValueError: if there is no table, or several may be meant, or it is broken.
    """
    candidates = [Path(table), folder / table] if table is not None else [folder / name for name in DEFAULT_TABLES]
    own = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if table is None and not any(path.is_file() for path in candidates):
        if len(own) > 1:
            names = ", ".join(path.name for path in own)
            raise ValueError(f"{folder} has several tables of questions: {names}. Say which one with --table.")
        candidates += own
    for path in candidates:
        if path.is_file():
            return read_table(path), str(path)
    if not own and any(folder.rglob("*.parquet")):
        return read_dataset(folder, None if table is None else str(table))
    looked = ", ".join(str(path) for path in candidates)
    raise ValueError(f"There is no table of questions; looked for {looked}. Give the file of the variant you mean.")


def read_table(path: Path) -> list[dict]:
    """Rows of a `.jsonl` or `.parquet` file; raises ValueError if it is neither or broken."""
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ValueError(f"{path} is no table of questions. Give a .jsonl or a .parquet file.")
    return read_parquet(path) if path.suffix == ".parquet" else read_jsonl(path)


def read_jsonl(path: Path) -> list[dict]:
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}, is no JSON: {error}. Download it again.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}, is a {type(row).__name__}, but must be a JSON object.")
            rows.append(row)
    return rows


def read_parquet(path: Path) -> list[dict]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"Reading {path.name} needs pyarrow: `pip install pyarrow`, or use test.jsonl.") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}. Download it again.") from error


def read_dataset(folder: Path, split: str | None) -> tuple[list[dict], str]:
    """Rows and name of a split of a folder in a layout of `datasets`; streamed, so that no copy fills its cache."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"Reading {folder} needs datasets: `pip install datasets`, or give a file.") from error
    try:
        splits = datasets.load_dataset(str(folder), streaming=True)
        if split is None and len(splits) > 1 and "test" not in splits:
            raise ValueError(f"it has several splits, {', '.join(splits)}; say which one with --table")
        chosen = split or ("test" if "test" in splits else next(iter(splits)))
        if chosen not in splits:
            raise ValueError(f"it has no split {chosen!r}, only {', '.join(splits)}")
        return list(splits[chosen]), f"{folder}, split {chosen}"
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{folder} cannot be read as a data set: {error}. Give the file of a table.") from error
