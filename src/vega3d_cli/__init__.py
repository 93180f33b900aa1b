"""The `vega3d` command. Argument parsing only: the package, which takes seconds to import, is imported in commands."""

import sys

from vega3d_cli import (  # noqa: F401 (each adds its commands to the application)
    analyze,
    ask,
    cache,
    checkpoints,
    demo,
    evaluate,
    sample,
    synthesize,
    train,
    train_generator,
)
from vega3d_cli.common import app

LISTS = ("--options", "--first", "--second")


def spread_lists(arguments: list[str]) -> list[str]:
    """`--options A B C` -> `--options A --options B --options C`: the parser takes one value an option."""
    spread: list[str] = []
    taking = None
    for argument in arguments:
        if argument in LISTS:
            taking = argument
        elif taking is not None and not argument.startswith("--"):
            spread += [taking, argument]
        else:
            taking = None
            spread.append(argument)
    return spread


def main() -> None:
    app(spread_lists(sys.argv[1:]))
