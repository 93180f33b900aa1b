"""`vega3d audit`."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from vega3d_cli import common


@common.command(
    "Measure",
    """    vega3d audit vega3d-tiny --output audit-tiny

    vega3d audit org/vega3d --data VSI-Bench --scenes 50 --questions-per-scene 11 --4bit --output audit-vsi""",
)
def audit(
    output: Annotated[
        Path, typer.Option(help="Folder for audit.json and audit.html; a killed audit continues there.")
    ],
    model: common.ModelArgument = common.MODEL,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with {dataset}/{scene_name}.mp4 and the table of questions, or its .parquet file.  "
            "[default: rooms of split test are made, and stored in the cache]"
        ),
    ] = None,
    scenes: Annotated[int, typer.Option(**(common.COUNT | {"min": 2}), help="Most scenes.")] = 60,
    questions_per_scene: Annotated[
        int, typer.Option(**common.COUNT, help="Most questions of a scene, balanced over the types.")
    ] = 8,
    num_frames: common.NumFrames = None,
    seed: Annotated[int, typer.Option(**common.SEED, help="Of all that is drawn.")] = 0,
    workers: common.Workers = 1,
    four_bit: common.FourBit = False,
    cache: common.CacheOption = None,
    device: common.Device = None,
    as_json: common.AsJson = False,
) -> None:
    """Does the generator matter? Answers with its features, with noise or another clip's, without, and blind.

    Differences are paired, with 95 % intervals over scenes. The result is a page to read and a JSON file.
    """
    common.quieten(as_json)
    from vega3d.evaluation.benchmarks import ROOMS, RoomsBenchmark, load_rooms
    from vega3d.evaluation.vsibench import load_vsibench
    from vega3d.files import check_folder

    check_folder(output)
    if data is None:
        common.needs("embreex", "scipy", "pyarrow")
    records = None if data is None else load_vsibench(data)[0]  # before the model; rooms take minutes
    with common.loading(model):
        from vega3d.evaluation.audit import audit as run_audit
        from vega3d.evaluation.audit import check_audit_folder, check_audited, chosen_questions
        from vega3d.evaluation.audit_report import audit_table
        from vega3d.hub.load import load_vega
        from vega3d.modeling.configuration_vega3d import VegaConfig
        from vega3d.shipped import model_folder

        check_audit_folder(output)
        if records is not None:
            chosen_questions(records, scenes, questions_per_scene, seed)  # refuses too few, before the model is loaded
        check_audited(VegaConfig.from_pretrained(model_folder(model)).fusion, model)
        features = common.open_cache(cache)
        loaded = load_vega(model, four_bit, device)
    if records is None:
        with common.progress("rooms", "room", scenes) as advance:
            records = load_rooms(RoomsBenchmark(ROOMS.settings, scenes), workers=workers, on_progress=advance)
    with common.progress("audit", "step") as advance:
        result = run_audit(
            *loaded,
            records,
            output,
            name=model,
            scenes=scenes,
            questions_per_scene=questions_per_scene,
            num_frames=num_frames,
            seed=seed,
            cache=features,
            metadata={"command": shlex.join(["vega3d", *sys.argv[1:]])},
            on_progress=advance,
        )
    typer.echo(json.dumps(result, indent=2, allow_nan=False) if as_json else audit_table(result))
    if not as_json:
        typer.echo(f"\n{output / 'audit.html'}")
