"""`vega3d assemble` and `vega3d info`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vega3d_cli.common import SEED, app, one_line_errors, parse_settings, quieten


@app.command(
    epilog="""Examples:

    vega3d assemble --vlm Qwen/Qwen2.5-VL-7B-Instruct --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers vega3d-7b

    vega3d assemble --vlm Qwen/Qwen3-VL-8B-Instruct --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers vega3d-8b

    vega3d assemble --vlm qwen --generator wan out --fusion token_gated --set clip_mode=views --set max_area=921600"""
)
def assemble(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the checkpoint.")],
    vlm: Annotated[str, typer.Option(help="Hub id or folder of the vision-language model (Qwen2.5-VL, Qwen3-VL).")],
    generator: Annotated[str, typer.Option(help="Hub id or folder of the generator (Wan2.1 T2V, diffusers layout).")],
    block: Annotated[
        int, typer.Option(help="Block whose output is read, 0-based; negative counts from the end.")
    ] = 20,
    timestep: Annotated[int, typer.Option(help="Noise level asked for, in [0, 1000).")] = 300,
    fusion: Annotated[str, typer.Option(help="How the two streams are fused.")] = "token_gated_residual",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other field of the two configs, or max_area, frame_fit or frame_size.",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto (the VLM's), float32, bfloat16 or float16.")] = "auto",
    seed: Annotated[int, typer.Option(**SEED, help="Seed of the new weights of projector and fusion.")] = 0,
) -> None:
    """Make a checkpoint from a pretrained VLM and a pretrained generator."""
    with one_line_errors():
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"--dtype is {dtype!r}, but must be auto, float32, bfloat16 or float16.")
        given = parse_settings(settings or [])
        for name in given.keys() & {"block", "timestep", "fusion", "dtype", "seed", "vlm", "generator"}:
            raise ValueError(f"{name} has an option of its own: give --{name} in place of --set {name}=...")
        quieten(False)
        from vega3d.hub.assemble import assemble as write_checkpoint
        from vega3d.hub.assemble import split_settings

        fields = {"block": block, "timestep": timestep, "fusion": fusion, **given}
        split_settings(fields)
        folder = write_checkpoint(
            vlm, generator, output, lambda line: typer.echo(line, err=True), dtype=dtype, seed=seed, **fields
        )
    typer.echo(f"{folder}")


@app.command(epilog="Example:\n\n    vega3d info vega3d-tiny --json")
def info(
    model: Annotated[str, typer.Argument(help="vega3d-tiny (embedded), a folder, or a Hub id.")] = "vega3d-tiny",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show the parts of a checkpoint: parameters, memory, block, step, fusion."""
    with one_line_errors():
        quieten(as_json)
        from vega3d.hub.assemble import describe
        from vega3d.hub.load import model_folder

        facts = describe(model_folder(model))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for part, number in facts.pop("parameters").items():
        typer.echo(f"{part:38} {number / 1e6:12.2f} M parameters")
    for name, value in facts.items():
        shown = f"{value / 1e6:.2f} M" if name.startswith(("parameters", "generator_parameters")) else value
        typer.echo(f"{name.replace('_', ' '):38} {shown if shown is not None else '-'}")
