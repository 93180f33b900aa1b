"""`python -m research.tiny.simulator train-generator`."""

import json
import math
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from research.tiny.simulator.commands import app
from vega3d_cli.common import one_line_errors, parse_settings, progress, quieten


class StageName(StrEnum):
    rooms = "rooms"
    vae = "vae"
    dit = "dit"


@app.command(
    epilog="""Examples:

    python -m research.tiny.simulator train-generator generator.yaml --stage vae

    python -m research.tiny.simulator train-generator generator.yaml --stage rooms   # beforehand, if rendering is slow

    python -m research.tiny.simulator train-generator generator.yaml --stage dit --max-minutes 9

    python -m research.tiny.simulator train-generator generator.yaml --stage dit --image-twin --set dit.steps=2000

A run that was killed, or that ended at --max-minutes, continues when the same command is given again."""
)
def train_generator(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML or JSON file.")],
    stage: Annotated[StageName, typer.Option(help="The VAE, the transformer on its latents, or rooms for both.")],
    image_twin: Annotated[
        bool, typer.Option("--image-twin", help="Transformer on single frames of the same clips, as a control.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting in place of the file's.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Write a checkpoint and end when so much time is gone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result, without the log, as one JSON object.")] = False,
) -> None:
    """Train a world simulator on rooms: first its VAE, then its diffusion transformer."""
    started = time.monotonic()
    with one_line_errors():
        given = parse_settings(settings or [])
        if image_twin and stage is not StageName.dit:
            raise ValueError("--image-twin is a transformer: give --stage dit. Both share the VAE.")
        if max_minutes is not None and not 0 < max_minutes < math.inf:
            raise ValueError(
                f"--max-minutes is {max_minutes}, but must be above 0 and finite. Leave it out for no limit."
            )
        quieten(as_json)
        from research.tiny.simulator.config import read_generator_config
        from research.tiny.simulator.run import Watch, make_rooms, train_dit, train_vae

        read = read_generator_config(config, given)
        title, unit = ("making rooms", "room") if stage is StageName.rooms else (f"training {stage.value}", "step")
        with progress(title, unit) as advance:
            watch = Watch(max_minutes, started, advance, None if as_json else tell)
            if stage is StageName.rooms:
                result: dict[str, Any] | None = make_rooms(read, watch)
            elif stage is StageName.vae:
                result = train_vae(read, watch)
            else:
                result = train_dit(read, image_twin, watch)
    if result is None:  # one of several processes, and not the first
        return
    if as_json:
        typer.echo(json.dumps({name: value for name, value in result.items() if name != "log"}, indent=2))
        return
    report(result)


def tell(entry: dict) -> None:
    """A line for each entry of the log, on standard error, beside the progress bar."""
    from tqdm import tqdm

    names = {"loss": "loss", "psnr": "PSNR [dB]", "clips_per_second": "clips/s", "waiting_for_clips": "waiting"}
    names |= {f"validation_loss_{kind}": f"validation, {kind}" for kind in ("clip", "views", "frame")}
    told = ", ".join(f"{shown} {entry[name]:.4g}" for name, shown in names.items() if name in entry)
    tqdm.write(f"step {entry['step']} of {entry['steps']}: {told}", file=sys.stderr)


def report(result: dict) -> None:
    state = "finished" if result["finished"] else "paused: give the same command again to continue"
    unit = "rooms" if "rooms" in result else "steps"
    parameters = result.get("parameters")
    lines = {
        "state": state,
        unit: f"{result[unit]} of {result[f'{unit}_wanted']}",
        "parameters": None if parameters is None else f"{parameters:,}",
        "clips a second": result["clips_per_second"],
        "PSNR of validation clips [dB]": result.get("psnr"),
    }
    for name, value in lines.items():
        if value is not None:
            typer.echo(f"{name:32} {f'{value:.4g}' if isinstance(value, float) else value}")
    if "gate" in result:
        told = "passed" if result["gate"]["passed"] else "FAILED"
        typer.echo(f"{'gate G1, PSNR >= 28 dB':32} {told}")
