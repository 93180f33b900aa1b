"""`vega3d assemble`, `vega3d convert`, `vega3d info` and `vega3d env`."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vega3d_cli import common

PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "numpy", "av")  # whose versions a report needs


@common.command(
    "Train",
    """    vega3d assemble --vlm Qwen/Qwen2.5-VL-7B-Instruct --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers vega3d-7b

    vega3d assemble --vlm Qwen/Qwen3-VL-8B-Instruct --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers vega3d-8b

    vega3d assemble --vlm qwen --generator wan out --fusion token_gated --set clip_mode=views --set max_area=921600""",
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
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="auto is the VLM's.")
    ] = "auto",
    seed: Annotated[int, typer.Option(**common.SEED, help="Seed of the new weights of projector and fusion.")] = 0,
    grounding: Annotated[
        bool, typer.Option("--grounding", help="Make a model that finds boxes, with the tokens <ground> and <coord>.")
    ] = False,
) -> None:
    """Make a checkpoint from a pretrained VLM and a pretrained generator."""
    given = common.parse_settings(settings or [])
    for name in given.keys() & {"block", "timestep", "fusion", "dtype", "seed", "vlm", "generator", "grounding"}:
        raise ValueError(f"{name} has an option of its own: give --{name} in place of --set {name}=...")
    common.quieten(False)
    with common.loading("the two models"):
        from vega3d.hub.assemble import assemble as write_checkpoint
        from vega3d.hub.assemble import split_settings

    fields = {"block": block, "timestep": timestep, "fusion": fusion, **given}
    split_settings(fields)
    options = {"dtype": dtype, "seed": seed, "grounding": grounding, **fields}
    folder = write_checkpoint(vlm, generator, output, lambda line: typer.echo(line, err=True), **options)
    typer.echo(f"{folder}")


@common.command(
    "Train",
    """    vega3d convert official-vega3d-7b vega3d-7b --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers

    vega3d convert official-vega3d-7b vega3d-7b --generator Wan2.1-T2V-1.3B --restore

    vega3d convert official-scene-7b scene-parts

    vega3d convert Wan2.1-T2V-1.3B wan && vega3d assemble --vlm qwen --generator wan out

    vega3d convert taew2_1.safetensors tiny-wan --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers""",
)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Hub id or folder of an official VEGA-3D checkpoint or original Wan2.1, or a file with TAEHV.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for what is made of it.")],
    generator: Annotated[
        str | None,
        typer.Option(
            metavar="WAN",
            help="Hub id or folder of the checkpoint's Wan2.1 T2V, or of the one that TAEHV is for, in diffusers' or "
            "the original layout.",
        ),
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Take WAN's transformer in place of the one in the checkpoint.")
    ] = False,
) -> None:
    """Convert an official VEGA-3D checkpoint, the original Wan, or a tiny VAE to the layouts that are read here.

    Of a spatial-reasoning checkpoint a whole model is made. It says whether the generator in it is the pretrained one.
    Of one for 3D scenes projector, fusion and grounding head are taken. Of a Wan a generator for `assemble` is made,
    with TAEHV one whose VAE is tiny.
    """
    common.quieten(False)
    with common.loading(source):
        from vega3d.hub.convert import convert as write_converted

    folder = write_converted(source, output, generator, restore, lambda line: typer.echo(line, err=True))
    typer.echo(f"{folder}")


@common.command(
    "Share",
    """    vega3d info vega3d-tiny --json

    vega3d info org/vega3d --memory

    vega3d info Qwen/Qwen2.5-VL-7B-Instruct --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers --memory""",
)
def info(
    model: common.ModelArgument = common.MODEL,
    memory: Annotated[
        bool, typer.Option("--memory", help="Show what it needs in each way of holding it; nothing is loaded.")
    ] = False,
    generator: Annotated[
        str | None, typer.Option(help="With --memory, of a VLM: the generator that it is to be assembled with.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(**common.COUNT, help="With --memory: frames of a video.  [default: the processor's]")
    ] = None,
    as_json: common.AsJson = False,
) -> None:
    """Show the parts of a checkpoint: parameters, memory, block, step, fusion."""
    common.quieten(as_json)
    if memory:
        show_memory(model, generator, num_frames, as_json)
        return
    for name, value in (("--generator", generator), ("--num-frames", num_frames)):
        if value is not None:
            raise ValueError(f"{name} is {value}, but only --memory reads it. Give --memory, or leave it out.")
    from vega3d.shipped import model_folder

    folder = model_folder(model)
    with common.loading(model):
        from vega3d.hub.assemble import describe

        values = describe(folder)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    from vega3d.tables import two_columns

    parts = {part: f"{number / 1e6:12.2f} M parameters" for part, number in values.pop("parameters").items()}
    for name in values:
        if name.startswith(("parameters", "generator_parameters")):
            values[name] = f"{values[name] / 1e6:.2f} M"
    typer.echo("\n".join([*two_columns(parts), *two_columns(values)]))


def show_memory(model: str, generator: str | None, num_frames: int | None, as_json: bool) -> None:
    with common.loading(model):
        from dataclasses import replace

        from vega3d.hub.memory import read_shapes
        from vega3d.hub.memory_report import describe_memory, memory_table

        shapes = read_shapes(model, generator)
        if num_frames is not None:
            shapes = replace(shapes, num_frames=num_frames)
        values = {"model": model, "generator": generator, **describe_memory(shapes)}
    typer.echo(json.dumps(values, indent=2) if as_json else "\n".join(memory_table(values)))


@common.command("Share", "    vega3d env --json")
def env(as_json: common.AsJson = False) -> None:
    """Show what a report of a fault needs: versions, the GPU, and the extras that are installed."""
    values = environment()
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    from vega3d.tables import two_columns

    extras = {f"vega3d[{name}]": ", ".join(missing) or "installed" for name, missing in values.pop("missing").items()}
    lines = {name: f"without {shown}" if shown != "installed" else shown for name, shown in extras.items()}
    typer.echo("\n".join(two_columns({**values, **lines}, width=24)))


def environment() -> dict[str, Any]:
    """Versions, GPUs, and for each extra the packages that are missing."""
    from vega3d import __version__
    from vega3d.extras import EXTRAS

    with common.loading("torch"):
        import torch

    values: dict[str, Any] = {"vega3d": __version__, "python": platform.python_version()}
    values |= {"system": platform.platform()}
    for package in PACKAGES:
        try:
            values[package] = version(package)
        except PackageNotFoundError:
            values[package] = None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    values["gpu"] = ", ".join(gpus) or None
    missing: dict[str, list[str]] = {extra: [] for extra in EXTRAS.values()}
    for module, extra in EXTRAS.items():
        if find_spec(module) is None:
            missing[extra].append(module)
    return values | {"missing": missing}
