"""Tables as plain text, for a terminal: `aligned` of many columns, `two_columns` of names with values."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 100_000  # characters of a line; a terminal wraps, a file does not
NAME_WIDTH = 38  # characters


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, two spaces between its columns: the first column to the left, the others to the right.

    Widths are those that a terminal shows, so that Chinese names, for one, keep the columns straight.
    """
    table = Table.grid(padding=(0, 2))
    for number, _ in enumerate(rows[0]):
        table.add_column(justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # a Text is shown as it is: `[0.1, 0.2]` would be markup
    console = Console(width=WIDEST, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def two_columns(values: Mapping[str, Any], width: int = NAME_WIDTH) -> list[str]:
    """The lines of a table of names and values: floats to four digits, `-` for None, `_` in names as a space.

    Args:
        values: what is shown; text as it is.
        width: of the column of names [characters]; a longer name moves its value to the right.
    """
    return [f"{name.replace('_', ' '):{width}} {shown_value(value)}" for name, value in values.items()]


def shown_value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
