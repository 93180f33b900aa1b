"""The `vega3d` command. Argument parsing only: the package, which takes seconds to import, is imported in commands."""

import functools
import signal
import sys
from itertools import pairwise
from typing import Any, NoReturn

import typer
import typer.main

from vega3d_cli import (  # noqa: F401 (each adds its commands to the application)
    act,
    analyze,
    ask,
    checkpoints,
    data,
    demo,
    evaluate,
    ground,
    push,
    serve,
    train,
)
from vega3d_cli.common import app, one_line

UsageError: Any = typer.BadParameter.__mro__[1]  # typer brings its own copy of click, and does not export it
INTERRUPTED = 130


def debug_first(arguments: list[str]) -> list[str]:
    """`ask room Q --debug` -> `--debug ask room Q`: an option of all commands, wherever it is written."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--debug" not in options:
        return arguments
    at = options.index("--debug")
    return ["--debug", *arguments[:at], *arguments[at + 1 :]]


def end_on_signal(number: int, frame: object) -> NoReturn:
    """Lets what was half written be removed, and children end, before this process does."""
    raise SystemExit(128 + number)


@functools.cache
def parser(application: typer.Typer) -> Any:
    """What reads an application's command lines; `application(...)` would build it anew for each."""
    return typer.main.get_command(application)


def run(arguments: list[str], application: typer.Typer = app, name: str = "vega3d") -> int:
    """Runs a command line; the exit code. Whatever the user can get wrong ends with one line."""
    try:
        refuse_empty(arguments, name)
        code = parser(application)(debug_first(arguments), prog_name=name, standalone_mode=False) or 0
        if code == INTERRUPTED:  # so typer ends a command at Ctrl-C, without a word
            typer.echo("interrupted", err=True)
        return code
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a command without arguments shows its help
            error.show()
            return 2
        command = error.ctx.command_path if error.ctx is not None else name
        message = one_line(ValueError(error.format_message())).removesuffix(".").replace("Value error, ", "")
        given = given_value(error, arguments)
        if given is not None and repr(given) not in message:
            message += f", but got {given!r:.100}"
        typer.echo(f"error: {message}. See `{command} --help`.", err=True)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return INTERRUPTED


def refuse_empty(arguments: list[str], command: str) -> None:
    """An empty argument is a variable of the shell that is not set, and as a path it would be the working folder."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if argument and not (equals and not value and name.startswith("--")):
            continue
        before = name or " ".join(arguments[max(place - 1, 0) : place]) or command
        raise UsageError(f"The argument after {before!r} is empty. Give a value, or leave the option out.")


def given_value(error: Exception, arguments: list[str]) -> str | None:
    """What was given to the option that an error is about, which its message may leave out."""
    names = error.param.opts if isinstance(error, typer.BadParameter) and error.param is not None else []
    given = [value for name, value in pairwise(arguments) if name in names]
    return given[-1] if given else None


def main(application: typer.Typer = app, name: str = "vega3d") -> None:
    signal.signal(signal.SIGTERM, end_on_signal)
    sys.exit(run(sys.argv[1:], application, name))
