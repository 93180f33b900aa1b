"""Questions of the five benchmarks, from their own files or from rows of the `*_llava_style.json` that VEGA-3D reads.

Both have the same questions in the same order with the same ids, so results on either may be compared: the place of a
row in the file for ScanRefer, Multi3DRefer and Scan2Cap, `question_id` for SQA3D, and `question_id` with `_0` for
ScanQA. A row whose scan or object is missing is named, and left out only where that is allowed.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vega3d.configs import shown
from vega3d.evaluation.rules import SCENE_RULES
from vega3d.evaluation.scenes.own_files import OWN, own_rows
from vega3d.evaluation.scenes.published_rows import published_record, published_rows
from vega3d.evaluation.scenes.records import SceneRecord
from vega3d.evaluation.scenes.sources import MissingDataError, open_source
from vega3d.evaluation.scenes.tables import read_table
from vega3d.evaluation.vsibench import balanced_places

TABLES = {  # names of the files of each benchmark, as they are published; SQA3D's answers are in a second one
    "scanrefer": (
        "ScanRefer_filtered_val.json",
        "scanrefer_val_llava_style.json",
        "scanrefer_vg_val_llava_style.json",
    ),
    "multi3drefer": ("multi3drefer_val.json", "multi3drefer_val_llava_style.json"),
    "scan2cap": ("ScanRefer_filtered_val.json", "scan2cap_val_llava_style.json"),
    "scanqa": ("ScanQA_v1.0_val.json", "scanqa_val_llava_style.json"),
    "sqa3d": ("v1_balanced_questions_test_scannetv2.json", "sqa3d_test_llava_style.json"),
}


def load_scenes(
    benchmark: str,
    data: str | Path,
    table: str | Path | None = None,
    proposals: str | Path | None = None,
    limit: int | None = None,
    allow_missing: bool = False,
    needs_scans: bool = True,
    seed: int = 0,
) -> tuple[list[SceneRecord], list[str]]:
    """The questions of a benchmark.

    Args:
        benchmark: one of `OWN`.
        data: folder with the questions, the scans, `objects.json` and the proposals (see `scans`).
        table: file of questions, as a path or a name in `data`; the one of `TABLES` that is there by default.
        proposals: file of proposals; `none` for a model that needs none, `objects` for the true boxes; the one of
            `PROPOSAL_FILES` that is there by default.
        limit: most questions, balanced over the kinds and drawn by `seed`; None for all.
        allow_missing: whether rows whose scan, object or proposals are missing are left out, or are an error.
        needs_scans: whether a row is of use without its scan on disk.

    Returns:
        The questions, and what is missing, sorted, as `SCAN: what (questions ID, ID)`; those questions are left out.

    Raises:
        ValueError: if a file is missing or broken, several may be meant, a row is none of the benchmark, or data is
            missing and may not be.
    """
    data = Path(data)
    if not data.is_dir():
        raise ValueError(f"There is no folder {data}. Give the one with the files of {benchmark}.")
    path = find_table(benchmark, data, table)
    rows = read_table(path)
    published = all("conversations" in row for row in rows)
    source = open_source(benchmark, data, proposals, published)
    prepared = published_rows(benchmark, rows, path) if published else own_rows(benchmark, rows, path)
    make = partial(published_record, benchmark) if published else OWN[benchmark].record
    records: list[SceneRecord] = []
    missing: dict[str, list[str]] = {}
    for id, row, place in prepared:
        try:
            record = make(row, id, source)
            if needs_scans and record.folder is None:
                raise MissingDataError(f"{record.scan}: no scan")
            check_kind(benchmark, record.kind)
            records.append(record)
        except MissingDataError as error:
            missing.setdefault(str(error), []).append(id)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place} cannot be read: {error!r}. Download it again.") from error
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    named = [f"{what} (questions {', '.join(ids)})" for what, ids in sorted(missing.items())]
    check_missing(records, named, path, allow_missing)
    if limit is not None:
        kinds = [record.kind for record in records]
        records = [records[place] for place in balanced_places(kinds, SCENE_RULES[benchmark].types, limit, seed)]
    return records, named


def find_table(benchmark: str, data: Path, table: str | Path | None) -> Path:
    """The file of questions that is meant; raises ValueError if there is none, or several may be meant."""
    names = [table] if table is not None else TABLES[benchmark]
    candidates = [Path(table)] if table is not None else []
    candidates += [data / name for name in names]
    found = list(dict.fromkeys(path for path in candidates if path.is_file()))
    if table is None and len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise ValueError(f"{data} has several files of questions: {listed}. Say which one with --table.")
    if not found:
        looked = ", ".join(map(str, candidates))
        raise ValueError(f"There are no questions of {benchmark}; looked for {looked}. Give the file with --table.")
    return found[0]


def check_kind(benchmark: str, kind: object) -> None:
    kinds = SCENE_RULES[benchmark].types
    if kind not in kinds:
        raise ValueError(
            f"the question is of the kind {shown(kind)}, but those of {benchmark} are {', '.join(kinds)}."
        )


def check_missing(records: Sequence, missing: Sequence[str], path: Path, allow_missing: bool) -> None:
    """Raises ValueError if something is missing and may not be, or nothing is left."""
    listed = f"{'; '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}"
    if missing and not allow_missing:
        raise ValueError(
            f"The questions of {path.name} need {len(missing)} things that are missing: {listed}. Add them, or allow "
            "missing ones to evaluate the rest."
        )
    if not records:
        raise ValueError(f"No question of {path.name} is left, because of what is missing: {listed}. Add it.")
