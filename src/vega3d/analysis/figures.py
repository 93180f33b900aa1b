"""Pictures of a sweep: heat maps over block and noise level, and curves over blocks with chance and controls."""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vega3d.analysis.summary import METRICS, Metric
from vega3d.extras import optional_module
from vega3d.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CURVES = 4  # noise levels drawn as curves; of more, these many are taken evenly
STYLES = {  # of controls and baselines
    "random": ("--", "#7f4fa0"),
    "noise": (":", "#008080"),
    "vae": ("-.", "#8c564b"),
    "mean": ("--", "#a0a0a0"),
    "position": ("-.", "#a0a0a0"),
}
SHIFT = 0.06  # [blocks] between the error bars of neighbouring curves


def draw_sweep(folder: Path, settings: Sequence[Mapping]) -> list[Path]:
    """Writes `heatmap_METRIC.png` and `curves_METRIC.png` for each metric that was measured; returns the files."""
    written = []
    for name, metric in METRICS.items():
        measured = [setting for setting in settings if setting["figures"].get(name, {}).get("score") is not None]
        if not measured:
            continue
        for kind, draw in (("heatmap", heat_maps), ("curves", curves)):
            path = folder / f"{kind}_{name}.png"
            write_whole(path, partial(save, draw(measured, name, metric)))
            written.append(path)
    return written


def save(figure: "Figure", path: Path) -> None:
    """Writes a picture, whatever the suffix of its temporary name."""
    figure.savefig(path, format="png", dpi=150)


def own_family(settings: Sequence[Mapping]) -> str:
    """The family of the generator itself: the first that is neither control nor baseline."""
    return next((setting["family"] for setting in settings if setting["family"] not in STYLES), settings[0]["family"])


def distinct_panels(settings: Sequence[Mapping]) -> list[tuple[str, int]]:
    """Modes and sizes, in their order."""
    return list(dict.fromkeys((setting["mode"], setting["max_area"]) for setting in settings))


def panel_title(panel: tuple[str, int], panels: Sequence[tuple[str, int]]) -> str:
    mode, area = panel
    return f"mode {mode}" + (f", {area} px" if len({size for _, size in panels}) > 1 else "")


def new_figure(width: float, height: float) -> "Figure":
    """An empty picture; its size is in inches."""
    return optional_module("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")


def heat_maps(settings: Sequence[Mapping], name: str, metric: Metric) -> "Figure":
    """A panel for each mode and size: blocks across, noise levels down, the metric in each place."""
    own = [setting for setting in settings if setting["family"] == own_family(settings)]
    panels = distinct_panels(own)
    blocks = sorted({setting["block"] for setting in own})
    timesteps = sorted({setting["timestep"] for setting in own})
    values = np.full((len(panels), len(timesteps), len(blocks)), np.nan)
    for setting in own:
        place = panels.index((setting["mode"], setting["max_area"]))
        value = metric.scale * setting["figures"][name]["score"]
        values[place, timesteps.index(setting["timestep"]), blocks.index(setting["block"])] = value
    width = 1.8 + 0.52 * len(blocks)
    height = 0.9 + len(panels) * (0.75 + 0.4 * len(timesteps))
    figure = new_figure(max(width, 5), max(height, 2.6))
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


def write_numbers(axis: "Axes", values: np.ndarray, norm, colours, digits: int) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = colours(norm(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            colour = "white" if dark else "black"
            axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=8, color=colour)


def curves(settings: Sequence[Mapping], name: str, metric: Metric) -> "Figure":
    """A panel for each mode and size: the metric over blocks with its interval, chance, controls and baselines."""
    own = own_family(settings)
    panels = distinct_panels([setting for setting in settings if setting["family"] == own])
    figure = new_figure(1.8 + 4.6 * len(panels), 4.4)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, panel in zip(axes, panels, strict=True):
        members = [setting for setting in settings if (setting["mode"], setting["max_area"]) == panel]
        blocks = sorted({setting["block"] for setting in members if setting["block"] is not None})
        draw_own(axis, [setting for setting in members if setting["family"] == own], name, metric)
        for family, style in STYLES.items():
            control = [setting for setting in members if setting["family"] == family]
            draw_control(axis, control, name, metric.scale, style)
        axis.set_title(panel_title(panel, panels), fontsize=9)
        axis.set_xlabel("block")
        axis.set_xticks(blocks if len(blocks) <= 16 else blocks[::2])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(metric.title)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def draw_own(axis: "Axes", settings: Sequence[Mapping], name: str, metric: Metric) -> None:
    """Curves over blocks of the generator itself, at no more than `MOST_CURVES` noise levels, and one of chance."""
    timesteps = sorted({setting["timestep"] for setting in settings})
    chosen = timesteps
    if len(timesteps) > MOST_CURVES:
        chosen = [timesteps[place] for place in np.linspace(0, len(timesteps) - 1, MOST_CURVES).round().astype(int)]
    for number, timestep in enumerate(chosen):
        level = noise_level(settings, timestep)
        shift = SHIFT * (number - (len(chosen) - 1) / 2)
        draw_line(axis, level, name, metric.scale, f"step {timestep}", ("-", f"C{number}"), shift)
        if metric.chance is not None and timestep == chosen[-1]:
            chance = [metric.scale * setting["figures"][metric.chance]["score"] for setting in level]
            blocks = [setting["block"] for setting in level]
            label = f"chance (step {timestep})"
            axis.plot(blocks, chance, color="black", linewidth=1.2, linestyle=(0, (1, 2)), label=label)


def draw_control(axis: "Axes", settings: Sequence[Mapping], name: str, scale: float, look: tuple[str, str]) -> None:
    """A curve over blocks, at the first noise level that the control has; a line if it has no blocks."""
    if not settings:
        return
    label = settings[0]["family"]
    if settings[0]["block"] is None:
        value = settings[0]["figures"][name]
        axis.axhline(scale * value["score"], linestyle=look[0], color=look[1], linewidth=1.3, label=label)
        if value["low"] is not None:
            axis.axhspan(scale * value["low"], scale * value["high"], color=look[1], alpha=0.08, linewidth=0)
        return
    levels = sorted({setting["timestep"] for setting in settings}, key=lambda step: -1 if step is None else step)
    level = noise_level(settings, levels[0])
    label += "" if levels[0] is None else f" (step {levels[0]})"
    draw_line(axis, level, name, scale, label, look, 0.0)


def noise_level(settings: Sequence[Mapping], timestep: int | None) -> list[Mapping]:
    """The settings of one noise level, in order of their blocks."""
    return sorted((setting for setting in settings if setting["timestep"] == timestep), key=itemgetter("block"))


def draw_line(
    axis: "Axes", settings: Sequence[Mapping], name: str, scale: float, label: str, look: tuple[str, str], shift: float
) -> None:
    """Scores over blocks, with error bars where there are intervals."""
    style, colour = look
    blocks = np.array([setting["block"] for setting in settings])
    values = [setting["figures"][name] for setting in settings]
    scores = scale * np.array([value["score"] for value in values])
    axis.plot(blocks + shift, scores, style, color=colour, linewidth=1.5, marker=".", markersize=4, label=label)
    if all(value["low"] is not None for value in values):
        ends = scale * np.array([[value["low"], value["high"]] for value in values]).T
        axis.vlines(blocks + shift, ends[0], ends[1], color=colour, linewidth=1, alpha=0.6)
