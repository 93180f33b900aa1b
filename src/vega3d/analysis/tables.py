"""The tables that are printed."""

from collections.abc import Iterable, Mapping, Sequence

from vega3d.statistics import FEW_SCENES, LEAST_SCENES
from vega3d.tables import aligned


def cell_name(cell: Mapping) -> str:
    """Such as `wan, frame, block 20, step 300`."""
    parts = [cell["family"]]
    if cell["family"] not in ("mean", "position"):
        parts.append(cell["mode"])
    parts += [f"block {cell['block']}"] if cell["block"] is not None else []
    parts += [f"step {cell['timestep']}"] if cell["timestep"] is not None else []
    return ", ".join(parts)


def shown(figure: Mapping | None, digits: int = 3, scale: float = 1.0) -> str:
    """`0.712 [0.690, 0.733]`; `-` for what has no value, and no brackets for what has no interval."""
    if figure is None or figure["score"] is None:
        return "-"
    score, low, high = (
        None if value is None else scale * value for value in map(figure.get, ("score", "low", "high"))
    )
    return f"{score:.{digits}f}" + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def scenes_behind(cell: Mapping, figures: Iterable[str]) -> str:
    """How many scenes have these figures, such as `12`, or `9-12` where they differ; `-` for none."""
    counts = [cell["figure_scenes"].get(figure) for figure in figures]
    known = sorted({count for count in counts if count})
    return "-".join(map(str, dict.fromkeys((known[0], known[-1])))) if known else "-"


def table_of(cells: Iterable[Mapping], columns: Mapping[str, str], digits: int = 3) -> list[str]:
    """Lines of a table: one row a cell; `columns` maps headings to names of figures."""
    cells = list(cells)
    sizes = len({cell["max_area"] for cell in cells}) > 1
    rows = [["features", *columns, "scenes"]]
    for cell in cells:
        name = cell_name(cell) + (f", {cell['max_area']} px" if sizes else "")
        figures = [shown(cell["figures"].get(figure), digits) for figure in columns.values()]
        rows.append([name, *figures, scenes_behind(cell, columns.values())])
    return aligned(rows)


CORRESPONDENCE_COLUMNS = {
    "cosine": "cosine",
    "chance": "chance",
    "corrected": "corrected",
    "centred": "centred_cosine",
    "chance (centred)": "centred_chance",
}
RETRIEVAL_COLUMNS = {
    "retrieval@1": "retrieval_1",
    "@5": "retrieval_5",
    "centred @1": "centred_retrieval_1",
    "@5 ": "centred_retrieval_5",
}
PCK_COLUMNS = {
    "PCK": "centred_pck",
    "0-15 deg": "centred_pck_0_15",
    "15-30": "centred_pck_15_30",
    "30-60": "centred_pck_30_60",
    "60+": "centred_pck_60_180",
}
DIFFERENCE_COLUMNS = {
    "corrected": "corrected",
    "centred": "centred_cosine",
    "centred @1": "centred_retrieval_1",
    "PCK": "centred_pck",
}
DEPTH_COLUMNS = {"RMSE [m]": "depth_rmse", "abs rel": "depth_abs_rel", "delta1": "depth_delta1"}
NORMAL_COLUMNS = {
    "mean [deg]": "normal_mean",
    "median": "normal_median",
    "< 11.25": "normal_11",
    "< 22.5": "normal_22",
    "< 30": "normal_30",
}


def correspondence_table(result: Mapping) -> str:
    """Three tables: similarity, retrieval, and PCK by view angle, each beside what chance gives."""
    cells = result["cells"]
    figures = cells[0]["figures"]
    random_choice = ", ".join(
        f"{name} {shown(figures[figure])}"
        for name, figure in (("@1", "retrieval_1_chance"), ("@5", "retrieval_5_chance"), ("PCK", "pck_chance"))
    )
    return "\n".join(
        [
            head(result),
            "",
            "similarity of the features of one voxel in two views; chance: of different voxels of the same views",
            *table_of(cells, CORRESPONDENCE_COLUMNS),
            "",
            "the true match is the nearest neighbour, or among the five nearest, of all voxels of the other view",
            *table_of(cells, RETRIEVAL_COLUMNS),
            "",
            "PCK (centred features): the nearest within 0.1 of the frame's longer side, by angle between the views",
            *table_of(cells, PCK_COLUMNS),
            f"a random choice: {random_choice}",
            *difference_lines(result, DIFFERENCE_COLUMNS),
            *notes(result),
        ]
    )


def probe_table(result: Mapping) -> str:
    return "\n".join(
        [
            head(result),
            "",
            "depth",
            *table_of(result["cells"], DEPTH_COLUMNS),
            "",
            "surface normals",
            *table_of(result["cells"], NORMAL_COLUMNS),
            *difference_lines(result, {"RMSE [m]": "depth_rmse", "mean angle [deg]": "normal_mean"}),
            *notes(result),
        ]
    )


CHOICE_COLUMNS = {"depth RMSE [m]": "depth_rmse", "retrieval@1, centred": "centred_retrieval_1"}


def choice_table(result: Mapping) -> str:
    """The chosen cell, the best of each control, and the paired differences."""
    cells, against = result["cells"], result["own_against"]
    rows = [["best cell", *CHOICE_COLUMNS, "scenes"]]
    for name, cell in cells.items():
        side = "first" if name == "own" else "second"
        pair = next(iter(against.values())) if name == "own" else against[name]
        label = cell_name(cell) if name in ("own", cell["family"]) else f"{name}: {cell_name(cell)}"
        rows.append([label, *choice_cells(pair, side)])
    for name, pair in against.items():
        rows.append([f"own - {name}", *choice_cells(pair, "difference")])
    told = "better than all others, intervals apart from 0" if result["is_better"] else "NOT better than all others"
    counts = [figure["scenes"] for pair in against.values() for figure in pair.values()]
    return "\n".join([*aligned(rows), "", told, *scene_notes(counts)])


def choice_cells(pair: Mapping, side: str) -> list[str]:
    counts = {name: pair[name]["scenes"] for name in CHOICE_COLUMNS.values()}
    figures = [shown(pair[name][side]) for name in counts]
    return [*figures, scenes_behind({"figure_scenes": counts}, counts)]


def difference_lines(result: Mapping, columns: Mapping[str, str]) -> list[str]:
    """A table of the paired differences from controls and baselines, if there are any."""
    if not result["differences"]:
        return []
    rows = [["difference on the same clips", *columns, "scenes"]]
    for cell in result["differences"]:
        figures = [shown(cell["figures"].get(figure)) for figure in columns.values()]
        rows.append([f"{cell_name(cell)} - {cell['minus']}", *figures, scenes_behind(cell, columns.values())])
    return ["", *aligned(rows)]


def head(result: Mapping) -> str:
    cell = result["cells"][0]
    counts = f"{cell['clips']} clips of {cell['scenes']} scenes"
    return f"{result['model']}: {counts}; means over clips, 95 % intervals over scenes"


def notes(result: Mapping) -> list[str]:
    """What a reader of the figures has to know."""
    left_out = {row["clip"]: row["left_out"] for row in result["clips"] if row["left_out"]}
    lines = []
    if left_out:
        lines.append(
            f"note: frames without pose or depth were left out: {sum(left_out.values())} in {len(left_out)} clips"
        )
    lines += scene_notes([count for cell in result["cells"] for count in cell["figure_scenes"].values()])
    if result.get("notice"):
        lines.append(f"note: {result['notice']}")
    return lines


def scene_notes(counts: Sequence[int]) -> list[str]:
    """What is to be known of intervals that stand on so many scenes each; 0 is a figure that is not there."""
    least = min((count for count in counts if count), default=FEW_SCENES)
    if least < LEAST_SCENES:
        return [f"note: one scene has no interval; give {FEW_SCENES} or more"]
    if least < FEW_SCENES:
        return [f"note: intervals from {least} scenes are too narrow; give {FEW_SCENES} or more"]
    return []
