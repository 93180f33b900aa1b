"""What the commands share: the application, one-line errors, options from dataclasses, progress, loading."""

import dataclasses
import functools
import inspect
import json
import logging
import os
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_origin, get_type_hints

import typer
import typer.core

from vega3d.hub.memory_choices import CHOICES, Memory, memory_choice

LONGEST_MESSAGE = 2000  # characters
LINE_EVERY = 10  # [s] between lines of progress where there is no terminal
LOADING_AFTER = 2  # [s] of loading, after which a line says so where there is no terminal
MODEL = "vega3d-tiny"  # the default of every command
PANELS = ("Ask", "Data", "Train", "Measure", "Share")  # of the help, in this order
OPTION_NAMES = {"trajectories": ("--trajectories", "--walks")}  # of fields that had another name
SEVERAL = "A B ..."  # metavar of options that take several values after their name
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu")
DEBUG: set[str] = set()  # `--debug`, once it is given

MOST = 2**31 - 1  # of anything that is counted; numpy and torch take no seeds that are much larger
COUNT: dict = {"min": 1, "max": MOST}  # limits of an option, checked before anything is imported
SEED: dict = {"min": 0, "max": MOST}

MODEL_HELP = "vega3d-tiny (embedded), a folder, or a Hub id."
ModelOption = Annotated[str, typer.Option("--model", help=MODEL_HELP)]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP} --model names it as well.")]
NumFrames = Annotated[int | None, typer.Option(**COUNT, help="Frames sampled evenly.  [default: the processor's]")]
Fps = Annotated[float | None, typer.Option(help="Frames sampled a second, instead of --num-frames.")]
Workers = Annotated[int, typer.Option(**COUNT, help="Processes that make rooms.")]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder in which the generator's features are looked up and stored.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [default: the GPU, if any]")]
FourBit = Annotated[bool, typer.Option("--4bit", help="Language model in 4 bits.")]
MemoryOption = Annotated[
    Memory,
    typer.Option(
        help="How the model is held: low is for small GPUs. What each takes: vega3d info MODEL --memory.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object on standard output.")]
Layout = Annotated[
    Literal["rooms", "scannet", "7scenes", "tum"] | None,
    typer.Option(help="Of the posed clips.  [default: by the files]"),
]
SkipLost = Annotated[bool, typer.Option("--skip-lost", help="Leave out frames whose pose was lost.")]
Intrinsics = Annotated[str | None, typer.Option(help="fx,fy,cx,cy [px], where the layout stores none.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting in place of the file's.")
]


class Command(typer.core.TyperCommand):
    """A command whose examples are printed as they are written, and whose list options take several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = [name for param in self.params if getattr(param, "metavar", None) == SEVERAL for name in param.opts]
        return super().parse_args(ctx, spread_lists(args, lists))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")  # wrapped, an example could not be copied


class Group(typer.core.TyperGroup):
    """A group whose help shows its commands in panels, each with its whole description."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in (*PANELS, "Commands")}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            panel = getattr(command, "rich_help_panel", None)
            text = " ".join((command.help or "").partition("\n\n")[0].split())
            panels[panel if panel in PANELS else "Commands"].append((name, text))
        for panel, rows in panels.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)


def spread_lists(arguments: list[str], lists: list[str]) -> list[str]:
    """`--options A B C` -> `--options A --options B --options C`: the parser takes one value an option."""
    spread: list[str] = []
    taking = None
    for argument in arguments:
        if argument in lists:
            taking = argument
        elif taking is not None and not argument.startswith("--"):
            spread += [taking, argument]
        else:
            taking = None
            spread.append(argument)
    return spread


def show_tracebacks(given: bool) -> None:
    (DEBUG.add if given else DEBUG.discard)("--debug")


def show_version(given: bool) -> None:
    if given:
        from vega3d import __version__

        typer.echo(f"vega3d {__version__}")
        raise typer.Exit


def common_options(
    debug: Annotated[
        bool, typer.Option("--debug", callback=show_tracebacks, help="Show where an error arose. Goes anywhere.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version, and stop.")
    ] = False,
) -> None:
    pass


def make_app(help: str) -> typer.Typer:
    """An application without commands, with the options that all commands have."""
    made = make_group(help, add_completion=False, pretty_exceptions_enable=False)
    made.callback()(common_options)
    return made


def make_group(help: str, **options: Any) -> typer.Typer:
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    return typer.Typer(
        cls=Group, no_args_is_help=True, context_settings=settings, rich_markup_mode=None, help=help, **options
    )


app = make_app("Answers questions about the space that a video shows, with a frozen video diffusion model's features.")


def command(panel: str | None, examples: str, application: typer.Typer = app, **options: Any) -> Callable:
    """Adds a function to an application: what goes wrong in it ends with one line and exit code 2.

    A parameter that is annotated with a dataclass stands for one option for each of its fields. A command whose model
    is an argument takes it as `--model` too.

    Args:
        panel: of the help, one of `PANELS`.
        examples: command lines, printed as they are.
        application: that gets the command.
        options: of `Typer.command`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        groups = {}
        hints = get_type_hints(function, include_extras=True)
        for name, parameter in inspect.signature(function).parameters.items():
            if dataclasses.is_dataclass(hints[name]):
                groups[name] = hints[name]
                parameters += field_parameters(hints[name])
            else:
                parameters.append(keyword(name, hints[name], parameter.default))
        named = hints.get("model") == ModelArgument
        if named:
            option = Annotated[str | None, typer.Option("--model", help="The same, as an option.")]
            parameters.append(keyword("model_option", option, None))

        @functools.wraps(function)
        def run(**values: Any) -> None:
            with one_line_errors():
                if named:
                    values["model"] = chosen_model(values["model"], values.pop("model_option"))
                check_device(values.get("device"))
                needs(*quantising_packages(values.get("memory", "full"), values.get("four_bit", False)))
                for name, kind in groups.items():
                    own = {field.name: values.pop(field.name) for field in dataclasses.fields(kind)}
                    values[name] = kind(**own)
                function(**values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        epilog = f"Examples:\n\n{examples}"
        application.command(cls=Command, epilog=epilog, rich_help_panel=panel, **options)(run)
        return function

    return register


def field_parameters(kind: type) -> Iterator[inspect.Parameter]:
    """A parameter for each field of a dataclass, with the field's type, default, and `typer.Option`.

    A field that is annotated with no option gets one whose help is the field's line of the docstring's `Attributes`.
    """
    _, _, attributes = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")
    documented = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE))
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            help = " ".join(documented.get(name, "").split())
            hint = Annotated[hint, typer.Option(*OPTION_NAMES.get(name, ()), help=help[:1].upper() + help[1:])]
        yield keyword(name, hint, getattr(kind, name, inspect.Parameter.empty))


def keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def chosen_model(argument: str, option: str | None) -> str:
    """The model that is named as an argument or by `--model`; raises ValueError if two are named."""
    if option is None:
        return argument
    if argument not in ("", MODEL, option):
        raise ValueError(f"Two models are named, {argument!r} and --model {option!r}. Give one of them.")
    return option


def quantising_packages(memory: Memory | bool, four_bit: bool) -> list[str]:
    """The packages that load a model so; raises ValueError if the two options contradict each other."""
    name = memory if isinstance(memory, str) else "full"  # `--memory` of `info` is a flag
    package = CHOICES[memory_choice(name, four_bit)].package
    return [] if package is None else [package]


def check_device(device: str | None) -> None:
    """Raises ValueError for what cannot be the name of a device; whether it is there, torch says later."""
    if device is not None and not re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", device):
        raise ValueError(
            f"The device {device!r} cannot be used: it is none of {', '.join(DEVICES)}, with or without a number as "
            "in cuda:1. Leave it out, or use 'cpu'."
        )


def check_port(host: str, port: int) -> None:
    """Raises ValueError, before the model is loaded, if the address cannot be listened on."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        reason = error if error.errno is None else os.strerror(error.errno)
        raise ValueError(f"Cannot listen on {host}:{port} ({reason}). Choose another --host or --port.") from error


def needs(*packages: str) -> None:
    """Raises MissingExtraError, before anything is loaded or written, if one of these packages is not installed."""
    from vega3d.extras import check_installed

    check_installed(*packages)


def open_cache(folder: Path | None):
    """The feature cache in a folder, if one was asked for."""
    if folder is None:
        return None
    from vega3d.features.cache import FeatureCache

    return FeatureCache(folder)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input ends with one line and exit code 2, never a traceback, but with `--debug`.

    A ValueError or OSError is worded for the user, and so is the error of a missing extra. Anything else came out of a
    library, or is a fault of ours: its type is named, and how to see where it arose.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if "--debug" in DEBUG:
            raise
        typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(2) from error


def one_line(error: Exception) -> str:
    """What an error says, in one line of a length that can be read."""
    from vega3d.extras import MissingExtraError

    said = " ".join(str(error).split())
    if len(said) > LONGEST_MESSAGE:
        said = f"{said[:LONGEST_MESSAGE]}..."
    if isinstance(error, (ValueError, OSError, MissingExtraError)) and said:
        return said
    return f"{type(error).__name__}{': ' if said else ''}{said} (--debug shows where it arose)"


@contextmanager
def progress(name: str, unit: str, total: int | None = None, quiet: bool = False) -> Iterator[Callable]:
    """Shows progress on standard error: a bar in a terminal, else a line every 10 s, unless `quiet`.

    Yields a function of how much is newly done, and of how much is wanted.
    """
    if sys.stderr.isatty() and not quiet:
        from tqdm import tqdm

        with tqdm(total=total, desc=name, unit=unit, leave=False) as bar:

            def advance(count: int = 1, wanted: int | None = total) -> None:
                bar.total = wanted
                bar.update(count)

            yield advance
        return
    began = shown = time.monotonic()
    done = 0

    def advance_lines(count: int = 1, wanted: int | None = total) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown >= LINE_EVERY and not quiet:
            shown = now
            of = f" of {wanted}" if wanted is not None else ""
            units = f"{unit}es" if unit.endswith("s") else f"{unit}s"
            typer.echo(f"{name}: {done}{of} {units} after {now - began:.0f} s", err=True)

    yield advance_lines


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Says what is being loaded, for imports alone take seconds: in a terminal at once, and the line is cleared.

    Elsewhere it says so after 2 s: what is refused sooner is refused in one line.
    """
    text = f"loading {name} ..."
    if sys.stderr.isatty():
        typer.echo(text, err=True, nl=False)
        try:
            yield
        finally:
            typer.echo("\r\x1b[K", err=True, nl=False)
        return
    timer = threading.Timer(LOADING_AFTER, typer.echo, [text], {"err": True})
    timer.start()
    try:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        yield
    finally:
        timer.cancel()


def quieten(quiet: bool) -> None:
    """Errors of the user are ours to report; the libraries' hints to developers are not for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    for library in ("bitsandbytes", "accelerate.big_modeling"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


class LoadedGenerator(NamedTuple):
    """A generator, how frames are prepared for it, and the notice of the model that it is part of, if there is one."""

    notice: str | None
    generator: Any
    frames: Any


def load_generator(model: str, device: str | None) -> LoadedGenerator:
    """The generator of a model, or one alone, without a VLM."""
    with loading(model):
        from vega3d import VegaGenerator
        from vega3d.hub.load import generator_frames, load_vega, published_generator, usable_device
        from vega3d.modeling.files_vega3d import PARTS, is_generator

        folder = Path(model)
        if is_generator(folder):
            generator = VegaGenerator.from_folder(folder, device=usable_device(device))
            return LoadedGenerator(None, generator, generator_frames(folder, generator.config))
        if all((folder / part / "config.json").is_file() for part in PARTS):
            return LoadedGenerator(None, *published_generator(folder, usable_device(device)))
        checkpoint, processor = load_vega(model, device=device)
        return LoadedGenerator(checkpoint.config.notice, checkpoint.generator_module, processor.frame_settings)


def grounding_folder(model: str, token: str = "ground_token_id") -> Path:
    """The folder of a model whose config has a token of grounding; raises ValueError, before it is loaded, if not."""
    from vega3d.shipped import model_folder

    folder = model_folder(model)
    from vega3d import VegaConfig
    from vega3d.modeling.grounding_vega3d import HOW_TO_MAKE

    if VegaConfig.from_pretrained(folder).to_dict()[token] is None:
        raise ValueError(f"The model {model!r} is not made for grounding: its config has no {token}. {HOW_TO_MAKE}")
    return folder


def parse_settings(settings: list[str]) -> dict:
    """`NAME=VALUE` with JSON values; what is not JSON is text. The configs check names and types."""
    parsed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {setting!r} is not NAME=VALUE, such as --set clip_mode=views.")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return parsed


def numbers(name: str, text: str | None) -> list[int] | None:
    """`1,2,3`; raises ValueError for anything else."""
    if text is None:
        return None
    try:
        return [int(value) for value in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{name} is {text!r}, but must be whole numbers with commas, such as 10,20.") from error


def intrinsics(text: str | None) -> tuple[float, ...] | None:
    """Of `--intrinsics`; raises ValueError, before anything is read, for what is no fx, fy, cx, cy."""
    from vega3d.analysis.clips import checked_intrinsics

    if text is None:
        return None
    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError as error:
        raise ValueError(f"--intrinsics is {text!r}, but must be fx,fy,cx,cy [px].") from error
    checked_intrinsics(values)
    return values
