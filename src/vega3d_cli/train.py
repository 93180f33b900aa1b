"""`vega3d train`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vega3d.training.presets import PresetName
from vega3d_cli import common


@common.command(
    "Train",
    """    vega3d train gate.yaml

    vega3d train gate.yaml --preset qlora --set output=qlora

    vega3d train gate.yaml --set steps=200 --set tune=gate,projector,llm-lora --set output=lora

A config, which `--set` changes value by value (docs/training.md has all settings):

    model: vega3d-tiny
    data: {path: rooms, split: train}
    output: gate
    tune: [gate, projector]
    steps: 100

A run that was killed continues when the same command is given again.""",
)
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML or JSON file.")],
    preset: Annotated[
        PresetName | None,
        typer.Option(help="Settings that go together, where the file does not say otherwise (docs/training.md)."),
    ] = None,
    settings: common.Settings = None,
    as_json: common.AsJson = False,
) -> None:
    """Fine-tune a model: the gate, the projector, the language model (whole or by LoRA), the vision tower."""
    given = common.parse_settings(settings or [])
    if preset is not None:
        given = with_option(given, preset)
    common.quieten(as_json)
    from vega3d.training.config import read_config

    read = read_config(config, given)
    read.check_data()
    from vega3d.shipped import model_folder

    folder = model_folder(read.model)
    with common.loading(read.model):
        from vega3d.hub.load import load_task, task_class
        from vega3d.training.run import train as run
    with common.progress("training", "step") as advance:
        result = run(
            read,
            lambda device: load_task(task_class(folder), folder, read.four_bit, device, read.dtype),
            folder,
            on_progress=advance,
            on_log=None if as_json else log_line,
        )
    if result is None:  # one of several processes, and not the first
        return
    if as_json:
        typer.echo(json.dumps({name: value for name, value in result.items() if name != "log"}, indent=2))
        return
    report(result)


def with_option(settings: dict, preset: str) -> dict:
    """The settings with the preset of the option; raises ValueError if they name another one."""
    if settings.get("preset", preset) != preset:
        raise ValueError(f"--preset is {preset!r}, but --set preset is {settings['preset']!r}. Give one of them.")
    return {**settings, "preset": preset}


def log_line(entry: dict) -> None:
    """A line for each entry of the log, on standard error, beside the progress bar."""
    from tqdm import tqdm

    names = {"loss": "loss", "eval_loss": "evaluation loss", "residual_scale": "r", "gate_mean": "gate"}
    names["clips_per_second"] = "clips/s"
    if "trainable_parameters" in entry:
        tqdm.write(f"{entry['trainable_parameters']:,} parameters are trained", file=sys.stderr)
    values = [f"{shown} {entry[name]:.4g}" for name, shown in names.items() if name in entry]
    if values:
        tqdm.write(f"step {entry['step']} of {entry['steps']}: {', '.join(values)}", file=sys.stderr)


def report(result: dict) -> None:
    from vega3d.tables import two_columns

    few = result["loss_averaged_over"]
    rows = {
        "steps": result["steps"],
        "trained parameters": ", ".join(f"{name} {count:,}" for name, count in result["trainable_parameters"].items()),
        f"loss, first {few} and last {few}": f"{result['loss_first']:.4f} -> {result['loss_last']:.4f}",
        "residual scale r": result["residual_scale"],
        "clips a second": result["clips_per_second"],
        "model, training.json, training.png": result["output"],
    }
    typer.echo("\n".join(two_columns(rows)))
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
