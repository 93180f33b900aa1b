"""The commands of the study: all of it by one call, and the steps that other commands do not do."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from recipes.metaworld.commands import NAME, Processes, Size, app
from recipes.metaworld.study import STAGES, Study, check_there, choose, claim, read_study, steps
from vega3d_cli import common

StudyFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the study.")]
Output = Annotated[Path, typer.Option(help="Folder of all that is made; a study that was begun is continued.")]
StudyDevice = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where policies are trained and asked.")]
Arms = Annotated[list[str] | None, typer.Option(metavar=common.SEVERAL, help="Of the study.  [default: all]")]
Seeds = Annotated[list[int] | None, typer.Option(metavar=common.SEVERAL, help="Of trainings.  [default: all]")]


@common.command(
    None,
    f"""    {NAME} study recipes/metaworld/smoke_study.yaml --output runs/smoke-policies

    {NAME} study recipes/metaworld/study.yaml --output runs/policies --stages demonstrations --processes 8

    {NAME} study recipes/metaworld/study.yaml --output runs/policies --stages train rate --device cuda

    {NAME} study recipes/metaworld/study.yaml --output runs/policies --stages evaluate rate tables --processes 2""",
    app,
)
def study(
    config: StudyFile,
    output: Output,
    device: StudyDevice = "cpu",
    cards: Annotated[int, typer.Option(min=1, max=64, help="GPUs; on a CPU, trainings at a time.")] = 1,
    processes: Processes = 1,
    stages: Annotated[
        list[str] | None, typer.Option(metavar=common.SEVERAL, help=f"Of {', '.join(STAGES)}.  [default: all]")
    ] = None,
    arms: Arms = None,
    seeds: Seeds = None,
) -> None:
    """Compare policies with and without a generator: demonstrations, trainings, closed loop, tables.

    Each step has a log, OUTPUT/logs/STEP.log, and the same call goes on where it was stopped or killed.
    """
    asked = STAGES if stages is None else tuple(stages)
    unknown = [stage for stage in asked if stage not in STAGES]
    if unknown:
        raise ValueError(f"--stages names {unknown}, but there are {', '.join(STAGES)}.")
    common.quieten(False)
    plan = planned(config, output, device, arms, seeds, processes, asked)
    check_packages(asked)
    check_there(plan)
    from vega3d.files import only_run

    claim(plan)
    logs = output / "logs"
    logs.mkdir(exist_ok=True)
    with only_run(output):
        from research.steps import Runner

        per_card = plan.recipe.trainings_per_card if device == "cuda" else 1
        code = Runner(list(steps(plan)), cards, device, logs, per_card).run()
    if code:
        raise typer.Exit(code)
    if "tables" in asked:
        write_tables(plan)


def planned(
    config: Path,
    output: Path,
    device: Literal["cpu", "cuda"],
    arms: list[str] | None,
    seeds: list[int] | None,
    processes: int = 1,
    stages: tuple[str, ...] = STAGES,
) -> Study:
    """The study that a command line asks for; raises ValueError for what its recipe does not have."""
    from vega3d.files import check_folder

    recipe = read_study(config)
    chosen_arms, chosen_seeds = choose(recipe, arms, seeds)
    asked = {"device": device, "processes": processes, "stages": stages}
    plan = Study(recipe=recipe, file=config, output=output, arms=chosen_arms, seeds=chosen_seeds, **asked)
    if not plan.runs():
        raise ValueError(f"--arms {list(chosen_arms)} have none of the seeds {list(chosen_seeds)}.")
    check_folder(output)
    plan.configs()
    return plan


def check_packages(stages: tuple[str, ...]) -> None:
    """Raises MissingExtraError for the first package that a stage needs and that is not installed."""
    needed = {
        "demonstrations": ("metaworld", "mujoco", "pyarrow"),
        "train": ("pyarrow", "matplotlib"),
        "evaluate": ("metaworld", "mujoco"),
        "tables": ("scipy",),
    }
    for stage in stages:
        common.needs(*needed.get(stage, ()))


def write_tables(plan: Study) -> None:
    """Writes `tables.json` and `tables.md`, and prints the latter."""
    from recipes.metaworld.study_tables import markdown, table_values
    from vega3d.files import whole_file, write_json

    values = table_values(plan)
    write_json(plan.output / "tables.json", values)
    text = markdown(values)
    with whole_file(plan.output / "tables.md") as partial:
        partial.write_text(text, encoding="utf-8")
    typer.echo(text)


@common.command(
    None,
    f"    {NAME} models recipes/metaworld/smoke_study.yaml --output runs/smoke-policies --arms semantic --seeds 0",
    app,
)
def models(
    config: StudyFile, output: Output, device: StudyDevice = "cpu", arms: Arms = None, seeds: Seeds = None
) -> None:
    """Write the untrained models that trainings of a study start from, and the configs of `vega3d train`."""
    plan = planned(config, output, device, arms, seeds)
    with common.loading("models"):
        common.quieten(False)
        from recipes.metaworld.training import make_models
    for folder in make_models(plan):
        typer.echo(folder)


@common.command(
    None,
    f"    {NAME} features recipes/metaworld/smoke_study.yaml --output runs/smoke-policies --arm trained",
    app,
)
def features(
    config: StudyFile,
    output: Output,
    arm: Annotated[str, typer.Option(help="Of the study, with a generator, whose models are made already.")],
    device: StudyDevice = "cpu",
) -> None:
    """Compute the features of a generator for all demonstrations, once for all seeds of an arm."""
    plan = planned(config, output, device, [arm], None)
    if not plan.recipe.is_fused(arm):
        raise ValueError(f"The arm {arm!r} has fusion none, and so no features. Name another one.")
    with common.loading("models"):
        common.quieten(False)
        from recipes.metaworld.training import fill_features
    with common.progress(f"features of {arm}", "row") as advance:
        found = fill_features(plan, arm, advance)
    typer.echo(f"{found['folder']}: {found['entries']} entries, {found['bytes'] / 1e6:.1f} MB")


@common.command(
    None,
    f"""    {NAME} rate vega3d-metaworld

    {NAME} rate runs/policies/policies/semantic-seed0 runs/policies/policies/trained-seed0 --output rate.json""",
    app,
)
def rate(
    policies: Annotated[list[str], typer.Argument(metavar="POLICY...", help="Folders of policies.")],
    output: Annotated[Path | None, typer.Option(help="JSON file of the result.")] = None,
    size: Size = 128,
    rounds: Annotated[int, typer.Option(min=5, max=10_000, help="Queries of each policy.")] = 20,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Compile the layers of the VLMs first, which takes a minute or more.")
    ] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Ask each policy by one CUDA graph, on a GPU alone; after --compiled.")
    ] = False,
    device: common.Device = None,
    as_json: common.AsJson = False,
) -> None:
    """Measure how many queries and actions a second policies give, all of them in one run."""
    common.quieten(False)
    from vega3d.files import check_output, write_json
    from vega3d.shipped import model_folder

    if output is not None:
        check_output(output)
    for policy in policies:
        model_folder(policy)
    with common.loading("policies"):
        from recipes.metaworld.rate import format_rates, measure_rates
    with common.progress("rates", "round", rounds) as advance:
        found = measure_rates(policies, device, size, rounds, advance, compiled, graph)
    if output is not None:
        write_json(output, found)
    typer.echo(json.dumps(found) if as_json else format_rates(found))
