"""Commands that measure answers: `vega3d evaluate`, `compare` and `audit`."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from vega3d_cli import common

READ_SUFFIXES = (".safetensors", ".jinja", ".txt", ".jsonl", ".parquet", ".mp4")
Benchmark = Literal["rooms", "vsibench", "scanrefer", "multi3drefer", "scan2cap", "scanqa", "sqa3d", "rooms-grounding"]
VIDEO_BENCHMARKS = ("rooms", "vsibench")  # the others are of scans, with depth and poses


@common.command(
    "Measure",
    """    vega3d evaluate vega3d-tiny --limit 22

    vega3d evaluate --baseline chance --limit 22 --output chance.json

    vega3d evaluate org/vega3d --benchmark vsibench --data VSI-Bench --num-frames 32 --4bit --output vsi.json

    vega3d evaluate --from vsi.json --harness-parser all

    vega3d evaluate --benchmark scanrefer --data ScanRefer --baseline oracle --output ceiling.json

    vega3d evaluate OUT --benchmark rooms-grounding --limit 70 --output grounding.json""",
)
def evaluate(
    context: typer.Context,
    model: common.ModelArgument = "",
    benchmark: Annotated[Benchmark, typer.Option(help="Whose questions are asked.")] = "rooms",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with {dataset}/{scene_name}.mp4 and the table of questions, or its .parquet file; of scans, "
            "with the benchmark's own files.  "
            "[default: rooms are made, as many as are needed, and stored in the cache]"
        ),
    ] = None,
    table: Annotated[str | None, typer.Option(help="Table in the folder.  [default: test, or the only one]")] = None,
    proposals: Annotated[
        str | None,
        typer.Option(
            help="Boxes to choose from, of scans: a file, 'objects' for the true ones, or 'none'; of rooms-grounding: "
            "detected, true or none.  [default: proposals.json or .npz in the folder; detected]"
        ),
    ] = None,
    baseline: Annotated[
        Literal["chance", "most-frequent", "blind", "oracle"] | None,
        typer.Option(
            help="What answers in place of a model; blind is the model without the video, or of scans the largest box "
            "or the most frequent answer; oracle, of scans, the best that the boxes allow."
        ),
    ] = None,
    train_table: Annotated[
        Path | None,
        typer.Option(
            help="Questions that most-frequent, or blind of scans, counts on.  [default: 40 rooms of split train]"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(**common.COUNT, help="Questions, balanced over the types.")] = None,
    num_frames: common.NumFrames = None,
    batch_size: Annotated[int, typer.Option(**common.COUNT, help="Questions answered at a time.")] = 8,
    output: Annotated[Path | None, typer.Option(help="JSON file with every answer; a killed run continues.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object, not as a table.")] = False,
    allow_missing: Annotated[bool, typer.Option(help="Leave out questions whose video or scan is missing.")] = False,
    skip_lost: common.SkipLost = False,
    parsers: Annotated[
        list[str] | None,
        typer.Option(
            "--harness-parser",
            metavar=common.SEVERAL,
            help="Also the scores by the parsers of other harnesses, side by side, and the answers that they read "
            "apart: official, lmms_eval, plain, or all.",
        ),
    ] = None,
    stored: Annotated[
        Path | None, typer.Option("--from", help="Report of this result file; nothing is asked again.")
    ] = None,
    seed: Annotated[int, typer.Option(**common.SEED, help="Of the limit, the bootstrap and chance.")] = 0,
    workers: common.Workers = 1,
    four_bit: common.FourBit = False,
    cache: common.CacheOption = None,
    device: common.Device = None,
) -> None:
    """Answer a benchmark: score by type, macro and micro average, 95 % intervals over scenes.

    A model is to be named, unless a baseline needs none. scanrefer, multi3drefer and rooms-grounding need a model for
    grounding (docs/grounding.md).
    """
    from vega3d.evaluation.harness_parsers import chosen_parsers

    named_parsers = chosen_parsers(parsers or ())
    if stored is not None:
        common.quieten(as_json)
        typer.echo(report_of(read_stored(stored, context), named_parsers, as_json))
        return
    named = model or None
    of_scans = benchmark not in VIDEO_BENCHMARKS
    of_model = {"--num-frames": num_frames, "--4bit": four_bit or None, "--cache": cache, "--device": device}
    of_model["--skip-lost"] = skip_lost or None
    unused = [name for name, value in of_model.items() if value is not None]
    if baseline is not None and (of_scans or baseline != "blind") and unused:
        raise ValueError(f"--baseline {baseline} asks no model, so {', '.join(unused)} would have no effect.")
    if parsers and of_scans:
        raise ValueError(
            f"{benchmark} has scorings of its own, so --harness-parser would have no effect. Leave it out."
        )
    common.quieten(as_json)
    from vega3d.evaluation.run import check_request
    from vega3d.evaluation.run import evaluate as run_benchmark

    check_request(output, batch_size, *files_read(named, None if of_scans else data, train_table))
    options = ModelOptions(model, num_frames, four_bit, cache, device)
    if of_scans:
        scans = ScanQuestions(benchmark, data, table, proposals, limit, allow_missing, seed, workers, skip_lost)
        answerer, records, missing = scans.prepared(options, baseline, train_table)
    else:
        for name, value in (("--proposals", proposals), ("--skip-lost", skip_lost or None)):
            if value is not None:
                raise ValueError(f"{benchmark} has no boxes or poses, so {name} would have no effect. Leave it out.")
        rooms = RoomQuestions(benchmark, data, table, limit, allow_missing, seed, workers)
        answerer, records, missing = rooms.prepared(options, baseline, train_table)
    with common.progress(benchmark, "question", len(records)) as advance:
        result = run_benchmark(
            answerer, records, output, benchmark, missing, seed, batch_size=batch_size, on_progress=advance
        )
    typer.echo(report_of(result, named_parsers, as_json))


def read_stored(file: Path, context: typer.Context) -> dict:
    """A result file; raises ValueError if the command line asks for more than a report of it."""
    from vega3d.evaluation.result_files import read_result

    sources = {name: context.get_parameter_source(name) for name in context.params}
    used = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    unused = sorted(used - {"stored", "parsers", "as_json"})
    if unused:
        names = ", ".join(f"--{name.replace('_', '-').replace('four-bit', '4bit')}" for name in unused)
        raise ValueError(f"--from {file} asks nothing again, so {names} would have no effect. Leave them out.")
    return read_result(file)


def report_of(result: dict, parsers: tuple[str, ...], as_json: bool) -> str:
    """What is printed of a result: its table or its summary, and what each of some parsers makes of its answers."""
    from vega3d.evaluation.harness_parsers import compare_parsers, format_parsers
    from vega3d.evaluation.report import format_table, overview

    compared = compare_parsers(result, parsers) if parsers else None
    if as_json:
        values = overview(result) | ({} if compared is None else {"parsers": compared})
        return json.dumps(values, indent=2, allow_nan=False)
    return format_table(result) + ("" if compared is None else f"\n\n{format_parsers(compared)}")


class ModelOptions(NamedTuple):
    """The model that is asked, and how it is loaded."""

    name: str  # empty if none is named
    num_frames: int | None
    four_bit: bool
    cache: Path | None
    device: str | None


class RoomQuestions(NamedTuple):
    """Questions of rooms, or of any table in VSI-Bench's columns."""

    benchmark: str
    data: Path | None
    table: str | None
    limit: int | None
    allow_missing: bool
    seed: int
    workers: int

    def prepared(self, model: ModelOptions, baseline: str | None, train_table: Path | None) -> tuple[Any, list, list]:
        """Who answers, the questions, and the missing videos."""
        from vega3d.evaluation.benchmarks import PLAIN_BASELINES, check_baseline, plain_baseline

        check_baseline(baseline, model.name or None, train_table)
        makes_rooms = self.benchmark == "rooms" and not (self.data or self.table or self.allow_missing)
        if makes_rooms:
            common.needs("embreex", "scipy", "pyarrow")
        given = None if makes_rooms else self.read()  # before the model; rooms take minutes, and are made after it
        if baseline in PLAIN_BASELINES:
            with common.progress("rooms of split train", "room") as advance:
                answerer: Any = plain_baseline(baseline, self.seed, self.data, train_table, self.workers, advance)
        else:
            answerer = loaded_answerer(model, baseline == "blind")
        return answerer, *(given or self.read())

    def read(self) -> tuple[list, list[str]]:
        from vega3d.evaluation.benchmarks import load_benchmark

        with common.progress("rooms", "room") as advance:
            return load_benchmark(*self, on_progress=advance)


def loaded_answerer(model: ModelOptions, is_blind: bool) -> Any:
    """The model with its processor, with the video or without it."""
    with common.loading(model.name):
        from vega3d.evaluation.answerers import BlindAnswerer, ModelAnswerer
        from vega3d.hub.load import load_vega

        features = common.open_cache(model.cache)
        kind = BlindAnswerer if is_blind else ModelAnswerer
        loaded = load_vega(model.name, model.four_bit, model.device)
        return kind(*loaded, model.name, model.num_frames, cache=features)


class ScanQuestions(NamedTuple):
    """Questions about scans, of a published benchmark or of rooms."""

    benchmark: str
    data: Path | None
    table: str | None
    proposals: str | None
    limit: int | None
    allow_missing: bool
    seed: int
    workers: int
    skip_lost: bool

    def prepared(self, model: ModelOptions, baseline: str | None, train_table: Path | None) -> tuple[Any, list, list]:
        """Who answers, the questions, and what is missing."""
        from vega3d.evaluation.scenes.answerers import check_scene_baseline, scene_baseline

        check_scene_baseline(self.benchmark, baseline, model.name or None, train_table)
        common.needs("scipy")
        if baseline is None:
            self.check_model(model)
        records, missing = self.read(needs_scans=baseline is None)
        if baseline is None:
            return self.answerer(model, records), records, missing
        train = [] if train_table is None else self.read_table(train_table.parent, str(train_table))[0]
        return scene_baseline(baseline, records, train, self.seed), records, missing

    def read(self, needs_scans: bool) -> tuple[list, list[str]]:
        from vega3d.evaluation.scenes.tables import ROOMS_GROUNDING

        if self.benchmark == ROOMS_GROUNDING:
            return self.read_rooms(needs_scans), []
        if self.data is None:
            raise ValueError(f"{self.benchmark} is not downloaded for you. Give the folder of its files with --data.")
        return self.read_table(self.data, self.table, self.limit, self.allow_missing, needs_scans)

    def read_table(
        self,
        data: Path,
        table: str | None,
        limit: int | None = None,
        allow_missing: bool = False,
        needs_scans: bool = False,
    ) -> tuple[list, list[str]]:
        from vega3d.evaluation.scenes.readers import load_scenes
        from vega3d.scannet import axis_alignment

        records, missing = load_scenes(
            self.benchmark, data, table, self.proposals, limit, allow_missing, needs_scans, self.seed
        )
        for folder in {record.folder for record in records if record.folder is not None and needs_scans}:
            axis_alignment(folder, needed=True)  # boxes are in the aligned world
        return records, missing

    def read_rooms(self, needs_scans: bool) -> list:
        from vega3d.evaluation.scenes.rooms import load_room_grounding

        given = {"--table": self.table, "--allow-missing": self.allow_missing, "--skip-lost": self.skip_lost}
        unused = [name for name, value in given.items() if value]
        if unused:
            raise ValueError(f"{self.benchmark} reads whole rooms, so {', '.join(unused)} would have no effect.")
        if self.data is None:
            common.needs("embreex", "pyarrow")
        with common.progress("rooms", "room") as advance:
            return load_room_grounding(
                self.data, self.proposals, self.limit, needs_scans, self.seed, self.workers, advance
            )

    def check_model(self, model: ModelOptions) -> None:
        """Raises ValueError, before anything is read, for a model or an option that cannot answer the benchmark."""
        from vega3d.analysis.clips import evenly
        from vega3d.evaluation.scenes.tables import GROUNDING_BENCHMARKS

        evenly(2, model.num_frames or 2)
        if self.benchmark in GROUNDING_BENCHMARKS:
            common.grounding_folder(model.name)
        elif self.benchmark == "scan2cap":
            common.grounding_folder(model.name, "coord_token_id")

    def answerer(self, model: ModelOptions, records: list) -> Any:
        """The loaded model, which can answer the records; it sees all frames that are read of a scan."""
        from vega3d.evaluation.scenes.tables import GROUNDING_BENCHMARKS

        with common.loading(model.name):
            from vega3d import VegaConfig
            from vega3d.evaluation.scenes.models import GroundingAnswerer, TextAnswerer, check_asked
            from vega3d.hub.load import load_processor, load_task
            from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
            from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
            from vega3d.shipped import model_folder

            features = common.open_cache(model.cache)
            task: Any = VegaForSpatialReasoning
            if self.benchmark in GROUNDING_BENCHMARKS:
                task = VegaForVisualGrounding
            folder = model_folder(model.name)
            config = VegaConfig.from_pretrained(folder)
            check_asked(records, config, load_processor(folder, config))
            loaded, processor = load_task(task, model.name, model.four_bit, model.device)
            views = model.num_frames or processor.num_frames
            settings = {"num_frames": views, "skip_lost": self.skip_lost, "four_bit": model.four_bit}
            kind: Any = GroundingAnswerer if task is VegaForVisualGrounding else TextAnswerer
            return kind(loaded, processor, model.name, self.reader(views), cache=features, **settings)

    def reader(self, views: int) -> Callable[[Any], Any]:
        """The clip of a question's scan, as `evaluation` takes it."""
        from vega3d.analysis.clips import ReadOptions
        from vega3d.analysis.layouts import read_clip, read_posed_video, room_source
        from vega3d.evaluation.scenes.tables import ROOMS_GROUNDING

        if self.benchmark == ROOMS_GROUNDING:
            return lambda record: read_clip(room_source(record.folder, record.scan), ReadOptions(views)).video()
        return lambda record: read_posed_video(record.folder, views, "scannet", self.skip_lost)


def files_read(model: str | None, data: Path | None, train_table: Path | None) -> list[Path]:
    """What is read on this machine and no output may replace; of JSON files only a result may be one."""
    places = [Path(place) for place in (model, data, train_table) if place is not None]
    within = [path for place in places if place.is_dir() for path in place.rglob("*")]
    return [place for place in places if place.is_file()] + [path for path in within if path.suffix in READ_SUFFIXES]


@common.command(
    "Measure",
    "    vega3d compare --first fused-seed0.json fused-seed1.json --second plain-seed0.json plain-seed1.json",
)
def compare(
    first: Annotated[
        list[Path], typer.Option(metavar=common.SEVERAL, help="Result files of one model, one for each training seed.")
    ],
    second: Annotated[
        list[Path], typer.Option(metavar=common.SEVERAL, help="Result files of the other, on the same questions.")
    ],
    scoring: Annotated[
        str | None,
        typer.Option(
            help="How answers are scored: official, lmms_eval or likelihood; of scans acc@0.5, f1@0.5, cider, em ...  "
            "[default: the benchmark's first]"
        ),
    ] = None,
    paired_seeds: Annotated[
        bool, typer.Option(help="The n-th files of both sides are of one training seed, and are drawn together.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="JSON file of the comparison.")] = None,
) -> None:
    """Compare two models on the same questions: differences with 95 % intervals over seeds and scenes."""
    common.quieten(False)
    from vega3d.evaluation.report import (
        COMPARISON_FORMAT,
        compare_files,
        comparison_values,
        format_comparison,
        main_scoring,
    )
    from vega3d.files import check_output, write_json

    if output is not None:
        check_output(output, *first, *second, mark=COMPARISON_FORMAT.encode())
    differences = compare_files(first, second, scoring, paired_seeds=paired_seeds)
    if output is not None:
        asked = scoring or main_scoring(first[0])
        write_json(output, comparison_values(first, second, asked, differences, paired_seeds))
    typer.echo(format_comparison(differences))


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
    scenes: Annotated[int, typer.Option(**(common.COUNT | {"min": 2}), help="Most scenes.")] = 20,
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
