"""Curves of a run: loss, residual scale and gate by step."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from vega3d.files import whole_file


def save_curves(path: Path, log: Sequence[dict]) -> None:
    """Writes a PNG of loss (with that of the evaluation data), r, and the gate's mean and spread.

    Args:
        path: of the picture.
        log: entries of the Trainer's log.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    loss, scale, gate = figure.subplots(1, 3)
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        plot(loss, log, name, label)
    plot(scale, log, "residual_scale")
    plot(gate, log, "gate_mean")
    points = [entry for entry in log if "gate_mean" in entry]
    steps = [entry["step"] for entry in points]
    low, high = ([entry["gate_mean"] + sign * entry["gate_std"] for entry in points] for sign in (-1, 1))
    gate.fill_between(steps, low, high, alpha=0.25)
    titles = {
        loss: "loss [nats per token]",
        scale: "residual scale r",
        gate: "gate, mean ± spread",
    }
    for axes, title in titles.items():
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("step")
    if any("eval_loss" in entry for entry in log):
        loss.legend()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def plot(axes, log: Sequence[dict], name: str, label: str | None = None) -> None:
    points = [(entry["step"], entry[name]) for entry in log if name in entry]
    if points:
        axes.plot(*zip(*points, strict=True), label=label)
