"""The commands: demonstrations of scripted experts, success rates of policies, and the difference of two policies."""

import functools
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from vega3d_cli import common

NAME = "python -m recipes.metaworld"
TASKS = (  # the expert does them from nearly all initial states, and its actions from another state seldom do
    "button-press-topdown-v3",
    "coffee-button-v3",
    "coffee-push-v3",
    "door-lock-v3",
    "drawer-open-v3",
    "hammer-v3",
    "pick-place-v3",
    "push-v3",
    "reach-v3",
    "window-open-v3",
)
app = common.make_app("Demonstrations and closed-loop success rates in Meta-World; needs the extra `robot`.")

Tasks = Annotated[
    list[str] | None, typer.Option(metavar=common.SEVERAL, help="Such as push-v3.  [default: those of the recipe]")
]
Size = Annotated[int, typer.Option(min=16, max=1024, help="Height and width of the images, an even number [px].")]
Views = Annotated[list[str] | None, typer.Option(metavar=common.SEVERAL, help="Of front and wrist.  [default: both]")]
Renderer = Annotated[
    Literal["egl", "osmesa", "glfw"],
    typer.Option(help="EGL needs no display, OSMesa no graphics card either, GLFW a display."),
]
Processes = Annotated[int, typer.Option(min=1, max=256, help="Simulators at a time; they change no result.")]
MostSteps = Annotated[int, typer.Option(min=1, max=500, help="Steps after which an episode has failed.")]


def environments(
    views: tuple[str, ...], size: int, renderer: str, noise: float = 0, every: int = 1
) -> functools.partial:
    """Gives the environment of a task; it can be sent to other processes."""
    from vega3d.robotics.metaworld import MetaWorldEnvironment

    if size % 2:
        raise ValueError(f"--size is {size}, but must be an even number.")
    return functools.partial(MetaWorldEnvironment, size=size, views=views, renderer=renderer, noise=noise, every=every)


def checked_tasks(tasks: list[str] | None) -> list[str]:
    from vega3d.robotics.metaworld import check_task

    common.needs("metaworld", "mujoco")
    chosen = list(TASKS) if tasks is None else tasks
    for task in chosen:
        check_task(task)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"--tasks names {chosen}; name each once.")
    return chosen


def checked_views(views: list[str] | None) -> tuple[str, ...]:
    from vega3d.robotics.metaworld import VIEWS

    chosen = tuple(VIEWS) if views is None else tuple(views)
    if not set(chosen) <= VIEWS.keys() or len(set(chosen)) < len(chosen) or not chosen:
        raise ValueError(f"--views names {list(chosen)}, but must name some of {list(VIEWS)}, each once.")
    return chosen


@common.command(
    None,
    f"""    {NAME} demonstrations runs/metaworld --processes 2

    {NAME} demonstrations runs/two-tasks --tasks drawer-open-v3 window-close-v3 --episodes 10""",
    app,
)
def demonstrations(
    output: Annotated[Path, typer.Argument(help="Folder of the data set; one that was begun is continued.")],
    tasks: Tasks = None,
    episodes: Annotated[int, typer.Option(min=1, max=500, help="Of each task, all of them successes.")] = 50,
    views: Views = None,
    size: Size = 128,
    most_steps: MostSteps = 300,
    noise: Annotated[
        float,
        typer.Option(min=0, max=1, help="Standard deviation of what is added to x, y, z of the expert's actions."),
    ] = 0,
    every: Annotated[
        int, typer.Option(min=1, max=100, help="Steps from one image to the next: fewer images of more episodes.")
    ] = 1,
    renderer: Renderer = "egl",
    processes: Processes = 1,
) -> None:
    """Record scripted experts as a LeRobot data set: views, state, action, instruction."""
    chosen = checked_tasks(tasks)
    common.needs("pyarrow")
    from recipes.metaworld.demonstrations import record_demonstrations

    make = environments(checked_views(views), size, renderer, noise, every)
    with common.progress("demonstrations", "episode", episodes * len(chosen)) as advance:
        made = record_demonstrations(output, make, chosen, episodes, most_steps, processes, advance)
    for task, seeds in made["seeds"].items():
        typer.echo(f"{task:28}  {len(seeds['recorded'])} episodes, the expert failed from seeds {seeds['failed']}")
    size_on_disk = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    typer.echo(f"{output}: {made['steps']} steps, {size_on_disk / 1e6:.1f} MB")


@common.command(
    None,
    f"    {NAME} small-model runs/small",
    app,
)
def small_model(
    output: Annotated[Path, typer.Argument(help="New folder of the model.")],
    seed: Annotated[int, typer.Option(**common.SEED, help="Of the weights.")] = 0,
) -> None:
    """Make a small model of random weights without fusion, for `recipes/metaworld/small.yaml`."""
    common.quieten(False)
    from recipes.metaworld.small_model import make_small_model

    made = make_small_model(output, seed, fusion="none")
    typer.echo(f"{made}: {(made / 'model.safetensors').stat().st_size / 1e6:.1f} MB of weights")


@common.command(
    None,
    f"    {NAME} export runs/small-policy vega3d-metaworld",
    app,
)
def export(
    policy: Annotated[Path, typer.Argument(help="Folder of a trained policy.")],
    output: Annotated[Path, typer.Argument(help="New folder.")],
) -> None:
    """Write a policy in 16 bits and without code, as the embedded one is."""
    common.quieten(False)
    from recipes.metaworld.export import export_policy

    made = export_policy(policy, output)
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    typer.echo(f"{made}: {size / 1e6:.2f} MB")


@common.command(
    None,
    f"""    {NAME} evaluate expert --output runs/expert.json

    {NAME} evaluate runs/actions/model --output runs/fused.json --episodes 20 --processes 8""",
    app,
)
def evaluate(
    policy: Annotated[
        str,
        typer.Argument(metavar="POLICY", help="expert (the oracle), blind, nothing or random; or a model's folder."),
    ],
    output: Annotated[Path, typer.Option(help="JSON file of the result; a run that was killed is continued.")],
    tasks: Tasks = None,
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Of each task.")] = 10,
    seed: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Of the first initial state; those below 1000 are learned from.")
    ] = 1000,
    most_steps: MostSteps = 500,
    execute: Annotated[
        int | None, typer.Option(**common.COUNT, help="Actions of a chunk before the next query.  [default: all]")
    ] = None,
    size: Size = 128,
    renderer: Renderer = "egl",
    processes: Processes = 1,
    device: common.Device = None,
    as_json: common.AsJson = False,
) -> None:
    """Measure how often a policy succeeds, in the closed loop from given initial states."""
    common.quieten(False)
    chosen = checked_tasks(tasks)
    from recipes.policies import measure
    from vega3d.robotics.closed_loop import BASELINES
    from vega3d.robotics.metaworld import ACTION_NAMES, FIRST_SEED, STATE_NAMES, VIEWS
    from vega3d.robotics.results import format_summary
    from vega3d.robotics.runners import Job

    if policy not in BASELINES and seed < FIRST_SEED:
        raise ValueError(f"--seed is {seed}, but seeds below {FIRST_SEED} are of demonstrations. Give a larger one.")

    def make(views: tuple[str, ...], every: int) -> functools.partial:
        return environments(views, size, renderer, every=every)

    robot = {"views": tuple(VIEWS), "sizes": (len(STATE_NAMES), len(ACTION_NAMES))}
    settings = {"most_steps": most_steps, "execute": execute, "size": size, "renderer": renderer}
    header = {"benchmark": "metaworld", "settings": settings}
    jobs = [Job(task, seed + number) for task in chosen for number in range(episodes)]
    with common.progress(f"{policy} in Meta-World", "episode", len(jobs)) as advance:
        result = measure(policy, jobs, make, robot, header, output, processes, device, advance)
    typer.echo(json.dumps(result) if as_json else format_summary(result))


@common.command(
    None,
    f"    {NAME} compare --first runs/plain.json --second runs/fused.json",
    app,
)
def compare(
    first: Annotated[
        list[Path], typer.Option(metavar=common.SEVERAL, help="Result files of one policy, one a training seed.")
    ],
    second: Annotated[
        list[Path], typer.Option(metavar=common.SEVERAL, help="Result files of the other, on the same states.")
    ],
    as_json: common.AsJson = False,
) -> None:
    """Compare two policies on the same initial states: differences of success rates with 95 % intervals."""
    from vega3d.robotics.results import compare_policies, format_comparison, read_result

    sides = [{str(path): read_result(path) for path in side} for side in (first, second)]
    differences = compare_policies(*sides)
    typer.echo(json.dumps(differences) if as_json else format_comparison(differences))
