"""`vega3d synthesize`."""

from pathlib import Path
from typing import Annotated

import typer

from vega3d.rooms.dataset import DatasetSettings
from vega3d_cli import common


@common.command(
    "Data",
    """    vega3d synthesize rooms-test --split test --scenes 20 --workers 2 --preview

    vega3d synthesize rooms --split train --scenes 1000 --trajectories 8 --size 128

    vega3d synthesize rooms-unseen --split test_unseen --furniture furniture_unseen.npz""",
)
def synthesize(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder, or one of an earlier run to continue.")],
    settings: DatasetSettings,
    scenes: Annotated[int, typer.Option(**common.COUNT, help="Rooms.")] = 10,
    workers: Annotated[
        int, typer.Option(**common.COUNT, help="Processes; the result does not depend on their number.")
    ] = 1,
    furniture: Annotated[
        Path | None, typer.Option(help="Pack of furniture, for test_unseen.  [default: the CC0 pack]")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Draw a contact sheet, OUT/preview.png.")] = False,
) -> None:
    """Make a data set of rooms: walkthroughs, their geometry, and questions in VSI-Bench's form."""
    common.needs("embreex", "scipy", "pyarrow", *(["matplotlib"] if preview else []))
    from vega3d.rooms.dataset.dataset import synthesize as make_dataset  # heavy, so after the checks

    with common.progress("rooms", "room", scenes) as advance:
        table = make_dataset(
            output, settings, scenes, workers, on_progress=advance, furniture=furniture, preview=preview
        )
    typer.echo(f"{table}")
