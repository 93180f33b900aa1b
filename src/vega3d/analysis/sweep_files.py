"""A sweep in its folder.

OUT/parts/*.json         finished parts, named by what they depend on; a killed run continues from them
OUT/clips.parquet        a row for each clip and cell (`summary.read_rows`)
OUT/summary.json         each cell with intervals over scenes, and how the run was made
OUT/heatmap_*.png, curves_*.png
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow

from vega3d.analysis.cells import Plan, Reader
from vega3d.analysis.clips import ClipSource, ReadOptions
from vega3d.analysis.figures import METRICS, draw_sweep
from vega3d.analysis.probing import check_scenes, probe_rows
from vega3d.analysis.summary import CELL, read_rows, result_of, write_result, write_rows
from vega3d.analysis.sweep import correspondence_rows
from vega3d.analysis.tables import cell_name, head, notes, scenes_behind, shown
from vega3d.files import check_input, is_free, only_run
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.tables import aligned

BEST = 5  # cells shown for each metric


def run_sweep(
    generator: VegaGenerator,
    test: Sequence[ClipSource],
    train: Sequence[ClipSource],
    plan: Plan,
    output: Path,
    facts: Mapping,
    options: ReadOptions | None = None,
    reader: Reader = VegaGenerator.read,
    on_part: Callable[[int], None] | None = None,
) -> dict:
    """Measures, and writes table, summary and pictures.

    Args:
        generator: loaded from files.
        test: clips.
        train: clips of other scenes, to train probes on; none leaves probes out.
        plan: what is measured.
        output: folder; new, or of an earlier sweep, whose parts are used where they are of the same.
        facts: for the summary: model, data, command.
        options, reader, on_part: see `correspondence_rows` and `probe_rows`.

    Returns:
        The values of `summary.json`, and `clips`, the rows.

    Raises:
        ValueError: if the folder holds something else, another run writes it, or a clip cannot be used.
    """
    check_free(output)
    if train:
        check_scenes(train, test)
    parts = output / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with only_run(output):
        rows = correspondence_rows(generator, test, plan, options, parts, reader, on_part)
        if train:
            rows = joined(rows, probe_rows(generator, train, test, plan, options, parts, reader, on_part))
        result = result_of(rows, "sweep", facts, seed=plan.seed)
        write_rows(output / "clips.parquet", rows)
        write_result(output / "summary.json", {name: value for name, value in result.items() if name != "clips"})
        draw_sweep(output, result["cells"])
    return result


def sweep_rows(folder: Path) -> list[dict]:
    """A row for each clip and cell of a sweep; raises ValueError if the folder holds none that is finished."""
    path = folder / "clips.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is not there. Give the folder of a finished sweep.")
    try:
        return read_rows(check_input(path))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}. Run the sweep again.") from error


def check_free(output: Path) -> None:
    """Raises ValueError unless the folder is free, or of a sweep."""
    if (output / "parts").is_dir():
        return
    if not is_free(output):
        raise ValueError(f"{output} is not empty and holds no sweep. Choose another folder.")


def joined(rows: Sequence[dict], more: Sequence[dict]) -> list[dict]:
    """One row for each clip and cell, with the figures of both."""
    merged: dict[tuple, dict] = {}
    for row in (*rows, *more):
        place = (*(row[name] for name in CELL), row["clip"])
        merged[place] = {**merged.get(place, {}), **row}
    return list(merged.values())


def sweep_table(result: Mapping, output: Path) -> str:
    """The best cells by each metric, with the controls below them."""
    cells = result["cells"]
    own = result["plan"]["families"][0]
    lines = [head(result)]
    for name, metric in METRICS.items():
        measured = [cell for cell in cells if cell["figures"].get(name, {}).get("score") is not None]
        if not measured:
            continue
        sign = 1 if metric.lower_is_better else -1
        ordered = sorted(measured, key=lambda cell: sign * cell["figures"][name]["score"])
        best = [cell for cell in ordered if cell["family"] == own][:BEST]
        others = {cell["family"]: cell for cell in reversed(ordered) if cell["family"] != own}
        table = [["", metric.title, *(["chance"] if metric.chance else []), "scenes"]]
        for cell in [*best, *others.values()]:
            wanted = [name, *([metric.chance] if metric.chance else [])]
            digits = 3 if metric.scale == 1 else metric.digits
            values = [shown(cell["figures"].get(figure), digits, metric.scale) for figure in wanted]
            table.append([row_name(cell, cells), *values, scenes_behind(cell, [name])])
        lines += ["", *aligned(table)]
    lines += ["", f"the best {BEST} cells, and the best of each control; all cells and pictures are in {output}"]
    return "\n".join([*lines, *notes(result)])


def row_name(cell: Mapping, cells: Sequence[Mapping]) -> str:
    sizes = len({other["max_area"] for other in cells}) > 1
    return cell_name(cell) + (f", {cell['max_area']} px" if sizes else "")
