"""`vega3d act`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vega3d_cli import common

if TYPE_CHECKING:
    from vega3d import VegaConfig
    from vega3d.inference.acting import Attempt

FPS = 20  # frames a second of a video of the closed loop, a quarter of the simulator's steps
LARGEST = 128  # side of the simulator's images [px], unless the policy takes smaller ones
MOST_STEPS = 500  # of an episode of Meta-World


@common.command(
    "Ask",
    """    vega3d act vega3d-metaworld window-open-v3 --output episode.mp4

    vega3d act OUT push-v3 --output episodes.mp4 --episodes 5 --seed 1000 --json

    vega3d act OUT --replay runs/metaworld --episode 3 --output replay.mp4

A policy is trained by `vega3d train` with `actions` (docs/manipulation.md).""",
)
def act(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A policy: vega3d-metaworld (embedded), a folder or a Hub id.")
    ],
    output: Annotated[Path, typer.Option(help="MP4 file of the video.")],
    task: Annotated[
        str | None, typer.Argument(metavar="[TASK]", help="Of Meta-World, such as push-v3; needs the extra robot.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Folder of demonstrations: show what the policy predicts for one of them.")
    ] = None,
    episode: Annotated[
        int | None, typer.Option(min=0, max=common.MOST, help="Number of the demonstration.  [default: 0]")
    ] = None,
    seed: Annotated[
        int, typer.Option(**common.SEED, help="Of the first initial state; those below 1000 are of demonstrations.")
    ] = 1000,
    episodes: Annotated[int, typer.Option(min=1, max=1000, help="Attempts, from one initial state each.")] = 1,
    most_steps: Annotated[
        int, typer.Option(min=1, max=MOST_STEPS, help="Steps after which an attempt has failed.")
    ] = MOST_STEPS,
    execute: Annotated[
        int | None, typer.Option(**common.COUNT, help="Actions of a chunk before the next query.  [default: all]")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=1024,
            help="Height and width of the simulator's images, an even number [px].  [default: 128, or what the policy "
            "takes at most]",
        ),
    ] = None,
    renderer: Annotated[
        Literal["egl", "osmesa", "glfw"],
        typer.Option(help="EGL needs no display, OSMesa no graphics card either, GLFW a display."),
    ] = "egl",
    device: common.Device = None,
    as_json: common.AsJson = False,
) -> None:
    """Let a policy act in the simulator, and write a video of it with the gate map beside the cameras.

    Prints whether each attempt succeeded, and after how many steps.
    """
    common.quieten(as_json)
    target = checked_video(output)
    if (task is None) == (replay is None):
        raise ValueError("Give either a task of Meta-World, such as push-v3, or --replay with a folder.")
    for name, value, other in (("episode", episode, task), ("execute", execute, replay), ("size", size, replay)):
        if value is not None and other is not None:
            where = "without" if name == "episode" else "with"
            raise ValueError(f"--{name} is {value}, which has no effect {where} --replay. Leave it out.")
    if size is not None and size % 2:
        raise ValueError(f"--size is {size}, but must be an even number.")
    if task is not None:
        from vega3d.robotics.metaworld import check_task

        check_task(task)
        common.needs("metaworld", "mujoco")
    data = None if replay is None else demonstrations(replay, episode or 0)
    config = policy_config(model)
    check_fit(config, model, data, execute)
    with common.loading(model):
        from vega3d import VegaForActionPrediction
        from vega3d.hub.load import load_task
        from vega3d.inference.acting import watch_replay
        from vega3d.inference.action_video import save_action_video

        loaded, processor = load_task(VegaForActionPrediction, model, device=device)
    values: dict[str, Any] = {"model": model, "task": task, "replay": None if replay is None else str(replay)}
    if data is not None:
        with common.progress(f"{replay}", "step", data.lengths[episode or 0]) as advance:
            attempts = [watch_replay(data, episode or 0, loaded, processor, advance)]
        fps = max(1, round(data.fps))
    else:
        assert task is not None
        side = size or largest_side(processor)
        environment = (task, side, renderer, tuple(config.action_cameras))
        attempts = attempts_in(environment, loaded, processor, (seed, episodes), most_steps, execute, as_json)
        fps = FPS
        values["size"] = side
    scale = save_action_video(target, attempts, fps)
    gates = None if scale is None else {"low": scale[0], "high": scale[1]}
    report(values | {"instruction": attempts[0].instruction, "gates": gates, "output": str(output)}, attempts, as_json)


def checked_video(output: Path) -> Path:
    """The file for the video; raises ValueError for another suffix, or a file of another making."""
    from vega3d.files import check_output
    from vega3d.inference.action_video import MARK

    if output.suffix.lower() != ".mp4":
        raise ValueError(f"{output} must end in .mp4. Give another name.")
    return check_output(output, mark=MARK.encode())


def demonstrations(folder: Path, episode: int) -> Any:
    """The demonstrations in a folder; raises ValueError if there are none, or not this episode."""
    from vega3d.robotics.demonstrations import check_replay
    from vega3d.robotics.episode_folder import open_demonstrations

    data = open_demonstrations(folder)
    check_replay(data, episode)
    return data


def policy_config(model: str) -> "VegaConfig":
    """The config of a policy; raises ValueError, before it is loaded, if there is none of this name."""
    from vega3d.shipped import model_folder

    folder = model_folder(model)
    from vega3d import VegaConfig
    from vega3d.inference.acting import check_policy

    config = VegaConfig.from_pretrained(folder)
    check_policy(config, model)
    return config


def check_fit(config: "VegaConfig", model: str, data: Any, execute: int | None) -> None:
    """Raises ValueError if the policy is of another robot than that of the demonstrations, or of Meta-World."""
    from vega3d.inference.acting import check_robot

    if data is not None:
        check_robot(config, model, tuple(data.cameras), (data.state_size, data.action_size))
    else:
        from vega3d.robotics.metaworld import ACTION_NAMES, STATE_NAMES, VIEWS

        check_robot(config, model, tuple(VIEWS), (len(STATE_NAMES), len(ACTION_NAMES)))
    if execute is not None and execute > config.action_chunk:
        raise ValueError(f"--execute is {execute}, but {model} gives chunks of {config.action_chunk} actions.")
    if config.fusion != "none":
        common.needs("matplotlib")


def largest_side(processor: Any) -> int:
    """Side of the simulator's images [px]: more than the policy's image processor takes would be scaled down."""
    most = int(processor.image_processor.size["longest_edge"] ** 0.5)
    return min(LARGEST, most - most % 2)


def attempts_in(
    environment: tuple[str, int, Any, tuple[str, ...]],
    model: Any,
    processor: Any,
    states: tuple[int, int],
    most_steps: int,
    execute: int | None,
    quiet: bool,
) -> list["Attempt"]:
    """Attempts from initial states: the first seed, and how many; each is told on standard error when it is over.

    Args:
        environment: task, side of the images [px], renderer and views.
    """
    from vega3d.inference.acting import watch_episode
    from vega3d.robotics.metaworld import MetaWorldEnvironment

    task, side, renderer, views = environment
    first, count = states
    attempts = []
    with (
        MetaWorldEnvironment(task, side, views, renderer) as world,
        common.progress(task, "step", quiet=quiet) as advance,
    ):
        for number in range(first, first + count):
            attempts.append(watch_episode(world, model, processor, number, most_steps, execute, advance))
            if not quiet:
                typer.echo(episode_line(attempts[-1]), err=True)
    return attempts


def episode_line(attempt: "Attempt") -> str:
    assert attempt.episode is not None
    one = attempt.episode
    return f"seed {one.seed}: {'success' if one.success else 'failed'} after {one.steps} steps, {one.queries} queries"


def report(values: dict[str, Any], attempts: list["Attempt"], as_json: bool) -> None:
    from vega3d.inference.action_video import replay_error

    episodes = [asdict(one.episode) for one in attempts if one.episode is not None]
    successes = sum(one["success"] for one in episodes)
    difference = None if episodes else replay_error(attempts[0])
    if as_json:
        values |= {"episodes": episodes, "successes": successes if episodes else None, "mean_difference": difference}
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
        return
    if difference is None:
        typer.echo(f"{values['task']}: {successes} of {len(episodes)} succeeded; video in {values['output']}")
        return
    each = ", ".join(f"{value:.3g}" for value in difference)
    typer.echo(f"mean difference of each number of the actions: {each}; video in {values['output']}")
