"""`python -m research.tiny.simulator trim`."""

from pathlib import Path
from typing import Annotated

import typer

from research.tiny.simulator.commands import app
from vega3d_cli.common import COUNT, one_line_errors


@app.command(
    epilog="""Examples:

    python -m research.tiny.simulator trim world-simulator/generator generator-to-read --blocks 6"""
)
def trim(
    generator: Annotated[Path, typer.Argument(help="Folder of a trained generator.")],
    output: Annotated[Path, typer.Argument(help="Folder that is made.")],
    blocks: Annotated[int, typer.Option(**COUNT, help="How many blocks are stored: 1 + the number of the last read.")],
) -> None:
    """Store what reading features needs: the first blocks, in 8 bits, and the VAE's encoder. It makes no videos."""
    with one_line_errors():
        from research.tiny.simulator.export import export_read

        export_read(generator, output, blocks)
        size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        typer.echo(f"{output}: {blocks} blocks, {size / 1e6:.1f} MB")
