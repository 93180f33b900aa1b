"""`vega3d push`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vega3d_cli import common

SHOWN = 40  # files in the list before an upload


@common.command(
    "Share",
    """    vega3d push my-vega3d org/my-vega3d --license apache-2.0 --results vsi.json --dry-run

    vega3d push vega3d-7b org/vega3d-7b --base-model Qwen/Qwen2.5-VL-7B-Instruct Wan-AI/Wan2.1-T2V-1.3B-Diffusers

    vega3d push my-vega3d org/my-vega3d --license mit --private --replace --message "Trained on 4,000 rooms"

    vega3d push rooms-test org/rooms-test --dataset

    vega3d push org/my-vega3d org/my-demo --space""",
)
def push(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Folder of a model, or of a data set of rooms; with --space the Hub id of a model."
        ),
    ],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; made if it is not there.")],
    dataset: Annotated[bool, typer.Option("--dataset", help="SRC is a data set of `vega3d synthesize`.")] = False,
    space: Annotated[bool, typer.Option("--space", help="Push the demo, which loads the model SRC.")] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar=common.SEVERAL, help="Files of `vega3d evaluate --output` for the card.  [default: those in SRC]"
        ),
    ] = None,
    base_model: Annotated[
        list[str] | None, typer.Option(metavar=common.SEVERAL, help="Hub ids of the pretrained VLM and generator.")
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Such as apache-2.0.  [default: that of README.md in SRC, or of the base models]"),
    ] = None,
    eval_dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar=common.SEVERAL,
            help="BENCHMARK=ORG/NAME: the data set on the Hub that a result is on, as rooms=org/rooms.",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str, typer.Option(help="Branch; made if it is not there.")] = "main",
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Push with vega3d",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose the changes as a pull request.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace files that are there with other content.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be pushed, write the card into SRC, and ask no Hub.")
    ] = False,
    as_json: common.AsJson = False,
) -> None:
    """Push a model with its card to the Hub, a data set of rooms, or the demo as a Space.

    The files are shown first. Nothing there is replaced without --replace, and nothing is removed but weights of an
    earlier push that would be loaded in place of these.
    """
    of_model = {"--results": results, "--base-model": base_model, "--license": license, "--eval-dataset": eval_dataset}
    check_kind(dataset, space, [name for name, value in of_model.items() if value])
    datasets = eval_datasets(eval_dataset or [])
    common.quieten(as_json)
    from vega3d.publishing.push import Target, check_target, check_token, find_changes, hub_errors
    from vega3d.publishing.push import push as push_content

    target = Target(repo, revision, private, create_pr, replace, message)
    check_target(target)
    from huggingface_hub import HfApi

    api = HfApi()
    user = None if dry_run else check_token(api)
    with common.loading(source):
        from vega3d.publishing.content import dataset_content, model_content, space_content

        if space:
            content = space_content(source)
        elif dataset:
            content = dataset_content(Path(source), repo)
        else:
            given = license, base_model or [], results or [], datasets
            content = model_content(Path(source), repo, *given)
    values: dict[str, Any] = {
        "repository": repo,
        "kind": content.kind,
        "license": content.license,
        "files": content.sizes(),
    }
    values |= {"base_models": content.base_models, "left_out": content.left_out, "notes": content.notes}
    if dry_run:
        values["card"] = written_card(Path(source), content) if content.kind == "model" else None
        typer.echo(json.dumps(values, indent=2) if as_json else listing(values))
        return
    if space and "/" in source:
        with hub_errors(f"The Space could not load {source}"):
            api.model_info(source)
    changes = find_changes(api, content, target)
    values |= {"user": user, "revision": revision, **dataclasses.asdict(changes)}
    if not as_json:
        typer.echo(listing(values))
        wanted = len(changes.added) + len(changes.replaced)
        typer.echo(f"pushing {wanted} files ..." if wanted else "everything is there already", err=True)
    values |= push_content(api, content, target, changes)
    typer.echo(json.dumps(values, indent=2) if as_json else values["pull_request_url"] or values["url"])


def check_kind(dataset: bool, space: bool, of_model: Sequence[str]) -> None:
    """Raises ValueError for options that disagree, before anything is read."""
    if dataset and space:
        raise ValueError("--dataset and --space push different things. Give one of them.")
    if (dataset or space) and of_model:
        kind = "--dataset" if dataset else "--space"
        raise ValueError(
            f"{', '.join(of_model)} goes with a model, and would have no effect with {kind}. Leave it out."
        )


def eval_datasets(given: Sequence[str]) -> dict[str, str]:
    """`rooms=org/rooms`; raises ValueError for anything else."""
    from vega3d_cli.evaluate import Benchmark

    named = {}
    for text in given:
        benchmark, _, name = text.partition("=")
        if benchmark not in Benchmark.__args__ or name.count("/") != 1 or not all(name.split("/")):  # type: ignore[attr-defined]
            raise ValueError(
                f"--eval-dataset is {text!r:.100}, but must be BENCHMARK=ORG/NAME, such as rooms=org/rooms."
            )
        named[benchmark] = name
    return named


def written_card(folder: Path, content: Any) -> str:
    """The path of the card: the user's own, or the new one, which is written there."""
    from vega3d.files import write_whole
    from vega3d.publishing.card import NAME, read_card

    path = folder / NAME
    if read_card(folder) is None:
        write_whole(path, lambda partial: partial.write_bytes(content.files[NAME]))
    return str(path)


def listing(values: dict[str, Any]) -> str:
    """What is pushed, and what it meets there, for a reader."""
    from vega3d.hub.assemble import size_text
    from vega3d.tables import aligned

    sizes = values["files"]
    rows = [[name, size_text(size)] for name, size in list(sizes.items())[:SHOWN]]
    lines = [f"{values['kind']} {values['repository']}: {len(sizes)} files, {size_text(sum(sizes.values()))}"]
    lines += [f"  {line}" for line in aligned(rows)]
    if len(sizes) > SHOWN:
        lines.append(f"  and {len(sizes) - SHOWN} more (--json names all)")
    lines.append(f"licence: {values['license']}")
    for name in ("base_models", "left_out", "replaced", "removed", "kept"):
        if values.get(name):
            lines.append(f"{name.replace('_', ' ')}: {', '.join(values[name])}")
    if values.get("same"):
        lines.append(f"there already: {len(values['same'])} files")
    lines += [f"note: {note}" for note in values["notes"]]
    if values.get("card"):
        lines.append(f"card: {values['card']}")
    return "\n".join(lines)
