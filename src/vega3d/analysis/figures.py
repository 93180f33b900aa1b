"""Pictures of a sweep: heat maps over block and noise level, and curves over blocks with chance and controls."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vega3d.files import write_whole

MOST_CURVES = 4  # noise levels drawn as curves; of more, these many are taken evenly
CONTROL_STYLES = {"random": ("--", "#7f4fa0"), "noise": (":", "#008080"), "vae": ("-.", "#8c564b")}
BASELINE_STYLES = {"mean": ("--", "#a0a0a0"), "position": ("-.", "#a0a0a0")}
SHIFT = 0.06  # [blocks] between the error bars of neighbouring curves


class Metric(NamedTuple):
    """
    Args:
        title: for the axis.
        chance: name of the figure that chance reaches, if there is one.
        lower_is_better: as for errors.
        digits: after the point, in the cells of heat maps.
        scale: 100 for shares that are shown in percent.
    """

    title: str
    chance: str | None = None
    lower_is_better: bool = False
    digits: int = 2
    scale: float = 1.0


METRICS = {
    "corrected": Metric("correspondence, corrected for chance"),
    "cosine": Metric("cosine of corresponding voxels", "chance"),
    "centred_cosine": Metric("cosine of corresponding voxels, centred", "centred_chance"),
    "centred_retrieval_1": Metric("retrieval at 1, centred [%]", "retrieval_1_chance", digits=1, scale=100),
    "depth_rmse": Metric("depth probe, RMSE [m]", lower_is_better=True),
    "normal_mean": Metric("normal probe, mean angle [deg]", lower_is_better=True, digits=1),
}


def draw_sweep(folder: Path, cells: Sequence[Mapping]) -> list[Path]:
    """Writes `heatmap_METRIC.png` and `curves_METRIC.png` for each metric that the cells have; returns the files."""
    written = []
    for name, metric in METRICS.items():
        measured = [cell for cell in cells if cell["figures"].get(name, {}).get("score") is not None]
        if not measured:
            continue
        for kind, draw in (("heatmap", heat_maps), ("curves", curves)):
            path = folder / f"{kind}_{name}.png"
            write_whole(path, partial(save, draw(measured, name, metric)))
            written.append(path)
    return written


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=150)


def own_family(cells: Sequence[Mapping]) -> str:
    known = (*CONTROL_STYLES, *BASELINE_STYLES)
    return next((cell["family"] for cell in cells if cell["family"] not in known), cells[0]["family"])


def panels_of(cells: Sequence[Mapping]) -> list[tuple[str, int]]:
    """Modes and sizes, in their order."""
    return list(dict.fromkeys((cell["mode"], cell["max_area"]) for cell in cells))


def panel_title(panel: tuple[str, int], panels: Sequence[tuple[str, int]]) -> str:
    mode, area = panel
    return f"mode {mode}" + (f", {area} px" if len({size for _, size in panels}) > 1 else "")


def heat_maps(cells: Sequence[Mapping], name: str, metric: Metric) -> Figure:
    """A panel for each mode and size: blocks across, noise levels down, the figure in each cell."""
    own = [cell for cell in cells if cell["family"] == own_family(cells)]
    panels = panels_of(own)
    blocks = sorted({cell["block"] for cell in own})
    timesteps = sorted({cell["timestep"] for cell in own})
    values = np.full((len(panels), len(timesteps), len(blocks)), np.nan)
    for cell in own:
        place = panels.index((cell["mode"], cell["max_area"]))
        value = metric.scale * cell["figures"][name]["score"]
        values[place, timesteps.index(cell["timestep"]), blocks.index(cell["block"])] = value
    width = 1.8 + 0.52 * len(blocks)
    height = 0.9 + len(panels) * (0.75 + 0.4 * len(timesteps))
    figure = Figure(figsize=(max(width, 5), max(height, 2.6)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    low, high = np.nanmin(values), np.nanmax(values)
    for axis, panel, panel_values in zip(axes, panels, values, strict=True):
        colours = "viridis_r" if metric.lower_is_better else "viridis"
        image = axis.imshow(panel_values, cmap=colours, vmin=low, vmax=high, aspect="auto")
        write_numbers(axis, panel_values, image.norm, image.cmap, metric.digits)
        axis.set_xticks(range(len(blocks)), [str(block) for block in blocks])
        axis.set_yticks(range(len(timesteps)), [str(timestep) for timestep in timesteps])
        axis.set_title(panel_title(panel, panels), fontsize=9)
        axis.set_ylabel("timestep")
    axes[-1].set_xlabel("block")
    figure.colorbar(image, ax=list(axes), pad=0.02)
    figure.suptitle(metric.title + (" (lower is better)" if metric.lower_is_better else ""), fontsize=11)
    return figure


def write_numbers(axis: Axes, values: np.ndarray, norm, colours, digits: int) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = colours(norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            colour = "white" if dark else "black"
            axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=8, color=colour)


def curves(cells: Sequence[Mapping], name: str, metric: Metric) -> Figure:
    """A panel for each mode and size: the figure over blocks with its interval, chance, controls and baselines."""
    own = own_family(cells)
    panels = panels_of([cell for cell in cells if cell["family"] == own])
    figure = Figure(figsize=(1.8 + 4.6 * len(panels), 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, panel in zip(axes, panels, strict=True):
        members = [cell for cell in cells if (cell["mode"], cell["max_area"]) == panel]
        blocks = sorted({cell["block"] for cell in members if cell["block"] is not None})
        draw_own(axis, [cell for cell in members if cell["family"] == own], name, metric)
        for family, look in {**CONTROL_STYLES, **BASELINE_STYLES}.items():
            draw_control(axis, [cell for cell in members if cell["family"] == family], name, metric.scale, look)
        axis.set_title(panel_title(panel, panels), fontsize=9)
        axis.set_xlabel("block")
        axis.set_xticks(blocks if len(blocks) <= 16 else blocks[::2])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(metric.title)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def draw_own(axis: Axes, cells: Sequence[Mapping], name: str, metric: Metric) -> None:
    timesteps = sorted({cell["timestep"] for cell in cells})
    chosen = timesteps
    if len(timesteps) > MOST_CURVES:
        chosen = [timesteps[place] for place in np.linspace(0, len(timesteps) - 1, MOST_CURVES).round().astype(int)]
    for number, timestep in enumerate(chosen):
        level = sorted((cell for cell in cells if cell["timestep"] == timestep), key=lambda cell: cell["block"])
        shift = SHIFT * (number - (len(chosen) - 1) / 2)
        draw_line(axis, level, name, metric.scale, f"step {timestep}", ("-", f"C{number}"), shift)
        if metric.chance is not None and timestep == chosen[-1]:
            chance = [metric.scale * cell["figures"][metric.chance]["score"] for cell in level]
            blocks = [cell["block"] for cell in level]
            label = f"chance (step {timestep})"
            axis.plot(blocks, chance, color="black", linewidth=1.2, linestyle=(0, (1, 2)), label=label)


def draw_control(axis: Axes, cells: Sequence[Mapping], name: str, scale: float, look: tuple[str, str]) -> None:
    """A curve over blocks, at the first noise level that the control has; a line if it has no blocks."""
    if not cells:
        return
    label = cells[0]["family"]
    if cells[0]["block"] is None:
        figure = cells[0]["figures"][name]
        axis.axhline(scale * figure["score"], linestyle=look[0], color=look[1], linewidth=1.3, label=label)
        if figure["low"] is not None:
            axis.axhspan(scale * figure["low"], scale * figure["high"], color=look[1], alpha=0.08, linewidth=0)
        return
    levels = sorted({cell["timestep"] for cell in cells}, key=lambda step: -1 if step is None else step)
    level = sorted((cell for cell in cells if cell["timestep"] == levels[0]), key=lambda cell: cell["block"])
    label += "" if levels[0] is None else f" (step {levels[0]})"
    draw_line(axis, level, name, scale, label, look, 0.0)


def draw_line(
    axis: Axes, cells: Sequence[Mapping], name: str, scale: float, label: str, look: tuple[str, str], shift: float
) -> None:
    """Scores over blocks, with error bars where there are intervals."""
    style, colour = look
    blocks = np.array([cell["block"] for cell in cells])
    figures = [cell["figures"][name] for cell in cells]
    scores = scale * np.array([figure["score"] for figure in figures])
    axis.plot(blocks + shift, scores, style, color=colour, linewidth=1.5, marker=".", markersize=4, label=label)
    if all(figure["low"] is not None for figure in figures):
        ends = scale * np.array([[figure["low"], figure["high"]] for figure in figures]).T
        axis.vlines(blocks + shift, ends[0], ends[1], color=colour, linewidth=1, alpha=0.6)
