"""`vega3d synthesize`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vega3d_cli import common


@common.command(
    "Data",
    """    vega3d synthesize rooms-test --split test --scenes 20 --workers 2 --preview

    vega3d synthesize rooms --split train --scenes 1000 --trajectories 8 --size 128

    vega3d synthesize rooms-unseen --split test_unseen --furniture furniture_unseen.npz""",
)
def synthesize(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder, or one of an earlier run to continue.")],
    split: Annotated[
        Literal["train", "validation", "test", "test_unseen"], typer.Option(help="Splits share no room.")
    ] = "train",
    scenes: Annotated[int, typer.Option(**common.COUNT, help="Rooms.")] = 10,
    workers: Annotated[
        int, typer.Option(**common.COUNT, help="Processes; the result does not depend on their number.")
    ] = 1,
    trajectories: Annotated[
        int,
        typer.Option(
            "--trajectories", "--walks", **common.COUNT, help="Walkthroughs of a room, which share its light."
        ),
    ] = 1,
    size: Annotated[int, typer.Option(**common.COUNT, help="Edge of the frames [px].")] = 192,
    num_frames: Annotated[int, typer.Option(**common.COUNT, help="Frames of a walkthrough.")] = 17,
    questions_per_type: Annotated[
        int, typer.Option(**common.COUNT, help="Most questions of one type about a walkthrough.")
    ] = 2,
    furniture: Annotated[
        Path | None, typer.Option(help="Pack of furniture, for test_unseen.  [default: the CC0 pack]")
    ] = None,
    videos: Annotated[bool, typer.Option(help="Videos and arrays, or tables alone.")] = True,
    preview: Annotated[bool, typer.Option("--preview", help="Draw a contact sheet, OUT/preview.png.")] = False,
) -> None:
    """Make a data set of rooms: walkthroughs, their geometry, and questions in VSI-Bench's form."""
    from vega3d.rooms.dataset.settings import DatasetSettings

    settings = DatasetSettings(split, size, num_frames, trajectories, questions_per_type, videos)

    common.needs("embreex", "scipy", "pyarrow", *(["matplotlib"] if preview else []))
    from vega3d.rooms.dataset.dataset import synthesize as make_dataset  # heavy, so after the checks

    with common.progress("rooms", "room", scenes) as advance:
        table = make_dataset(
            output,
            settings,
            scenes,
            workers,
            on_progress=advance,
            furniture=furniture,
            preview=preview,
        )
    typer.echo(f"{table}")
