"""Success rates in LIBERO and LIBERO-Plus: `python -m recipes.libero evaluate POLICY ...`.

LIBERO, or LIBERO-Plus in its place, must be installed with its assets as its page says.
"""

import functools
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from vega3d_cli import common, main

NAME = "python -m recipes.libero"
app = common.make_app("Closed-loop success rates in LIBERO and LIBERO-Plus, which you have installed.")


@app.callback()
def libero() -> None:
    """Keeps `evaluate` a command of its own."""


@common.command(
    None,
    f"""    MUJOCO_GL=egl {NAME} evaluate runs/actions/model --suite libero_spatial --output runs/spatial.json

    MUJOCO_GL=egl {NAME} evaluate OUT --suite libero_10 --tasks 0 1 2 --episodes 1 --output runs/plus.json""",
    app,
)
def evaluate(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A model's folder; nothing or random.")],
    suite: Annotated[
        Literal["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"],
        typer.Option(help="LIBERO-Plus has suites of the same names."),
    ],
    output: Annotated[Path, typer.Option(help="JSON file of the result; a run that was killed is continued.")],
    tasks: Annotated[
        list[int] | None, typer.Option(metavar=common.SEVERAL, min=0, help="Numbers in the suite.  [default: 0 to 9]")
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, max=50, help="Of each task, one an initial state; LIBERO-Plus takes 1.")
    ] = 50,
    gripper: Annotated[
        Literal["signed", "share"],
        typer.Option(help="Of the policy: -1 opens and 1 closes, as in LIBERO's own data; or 0 is closed and 1 open."),
    ] = "signed",
    execute: Annotated[
        int | None, typer.Option(**common.COUNT, help="Actions of a chunk before the next query.  [default: all]")
    ] = None,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Height and width of the images [px].")] = 256,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Simulators at a time; they change no result.")] = 1,
    device: common.Device = None,
    as_json: common.AsJson = False,
) -> None:
    """Measure how often a policy succeeds in the tasks of a suite, from their initial states."""
    common.quieten(False)
    from recipes.policies import measure
    from vega3d.robotics.libero import ACTION_NAMES, MOST_STEPS, STATE_NAMES, VIEWS, check_libero, libero_environment
    from vega3d.robotics.results import format_summary
    from vega3d.robotics.runners import Job

    check_libero()
    make = functools.partial(libero_environment, gripper=gripper, size=size)
    robot = {"views": tuple(VIEWS), "sizes": (len(STATE_NAMES), len(ACTION_NAMES))}
    settings = {"most_steps": MOST_STEPS[suite], "execute": execute, "size": size, "gripper": gripper}
    chosen = list(range(10)) if tasks is None else tasks
    jobs = [Job(f"{suite}/{task}", state) for task in chosen for state in range(episodes)]
    with common.progress(f"{policy} in {suite}", "episode", len(jobs)) as advance:
        header = {"benchmark": "libero", "settings": settings}
        result = measure(policy, jobs, lambda views, every: make, robot, header, output, processes, device, advance)
    typer.echo(json.dumps(result) if as_json else format_summary(result))


if __name__ == "__main__":  # not in the worker processes
    main(app, NAME)
