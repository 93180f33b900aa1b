"""What the commands share: the application, one-line errors, progress bars."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

LONGEST_MESSAGE = 2000  # characters
DEBUG: set[str] = set()  # `--debug`, once it is given


def show_tracebacks(given: bool) -> None:
    (DEBUG.add if given else DEBUG.discard)("--debug")


def common_options(
    debug: Annotated[
        bool, typer.Option("--debug", callback=show_tracebacks, help="Show where an error arose. Goes anywhere.")
    ] = False,
) -> None:
    pass


def make_app(help: str) -> typer.Typer:
    """An application without commands, with the options that all commands have."""
    made = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help=help,
    )
    made.callback()(common_options)
    return made


app = make_app("Questions about the space that a video shows, answered with a frozen video diffusion model at work.")


MOST = 2**31 - 1  # of anything that is counted; numpy and torch take no seeds that are much larger
COUNT: dict = {"min": 1, "max": MOST}  # limits of an option, checked before anything is imported
SEED: dict = {"min": 0, "max": MOST}

NumFrames = Annotated[int | None, typer.Option(**COUNT, help="Frames sampled evenly.  [default: the processor's]")]
Workers = Annotated[int, typer.Option(**COUNT, help="Processes that make rooms.")]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder in which the generator's features are looked up and kept.")
]


def open_cache(folder: Path | None):
    """The feature cache in a folder, if one was asked for."""
    if folder is None:
        return None
    from vega3d.features.cache import FeatureCache

    return FeatureCache(folder)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input ends with one line and exit code 2, never a traceback, but with `--debug`.

    A ValueError or OSError is worded for the user. Anything else came out of a library, or is a fault of ours: its
    type is named, and how to see where it arose.
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
    said = " ".join(str(error).split())
    if len(said) > LONGEST_MESSAGE:
        said = f"{said[:LONGEST_MESSAGE]}..."
    if isinstance(error, (ValueError, OSError)) and said:
        return said
    return f"{type(error).__name__}{': ' if said else ''}{said} (--debug shows where it arose)"


@contextmanager
def frame_bar(total: int | None, quiet: bool) -> Iterator:
    """A progress bar over the frames that the generator encodes, on standard error."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and not quiet
    with tqdm(total=total, desc="world simulator", unit="frame", disable=not shown, leave=False) as bar:
        yield lambda frames: bar.update(frames)


@contextmanager
def progress(name: str, unit: str, total: int | None = None) -> Iterator:
    """A progress bar on standard error; yields a function of how much is newly done, and of how much is wanted."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit=unit, disable=not sys.stderr.isatty(), leave=False) as bar:

        def advance(count: int, wanted: int | None = total) -> None:
            bar.total = wanted
            bar.update(count)

        yield advance


def quieten(quiet: bool) -> None:
    """Errors of the user are ours to tell; the libraries' hints to developers are not for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


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
