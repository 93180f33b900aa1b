"""Measured results of a model as its card and the Hub show them: tables, `model-index`, `.eval_results/*.yaml`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from vega3d import VegaConfig
from vega3d.evaluation.report import notes, percent, result_scenes, span, summarise, table_rows
from vega3d.evaluation.result_files import FORMAT, RESULT_REMEDY, read_result
from vega3d.evaluation.rules import Rules, rules_of
from vega3d.files import check_input, is_marked

MARK = f'"format": "{FORMAT}"'.encode()
TASK = "visual-question-answering"  # of model-index, among the Hub's own
VSIBENCH, VSIBENCH_ID, VSIBENCH_QUESTIONS = "vsibench", "nyu-visionx/VSI-Bench", 5130  # of its split `test`
MADE_HERE = ("rooms", "rooms-grounding")  # benchmarks whose questions `vega3d evaluate` makes itself


class Figure(NamedTuple):
    """A row of a result's table; scores from 0 to 1, or to the most of its scoring."""

    name: str
    questions: int
    scenes: int | None
    score: float
    low: float | None  # of the 95 % interval
    high: float | None


class Benchmark(NamedTuple):
    """The result of one benchmark."""

    name: str
    scoring: str
    figures: list[Figure]  # the average comes last
    questions: int
    notes: list[str]
    settings: dict[str, Any]
    is_whole: bool  # no video is missing, and of VSI-Bench no question

    @property
    def average(self) -> Figure:
        """The figure that stands for the benchmark: the macro average, or the score over all questions."""
        named = {figure.name: figure for figure in self.figures}
        return named.get("macro", self.figures[-1])

    def command(self, repo_id: str) -> str:
        """The command that measures it again."""
        words = ["vega3d evaluate", repo_id, f"--benchmark {self.name}"]
        if self.name not in MADE_HERE:
            words.append("--data FOLDER")
        if self.settings.get("num_frames") is not None:
            words.append(f"--num-frames {self.settings['num_frames']}")
        return " ".join(words)


def found_results(folder: Path) -> list[Path]:
    """Result files of `vega3d evaluate` in a folder, or in its folder `results`."""
    files = [file for place in (folder, folder / "results") for file in sorted(place.glob("*.json"))]
    return [file for file in files if file.is_file() and file.stat().st_size and is_marked(file, MARK)]


def read_benchmarks(files: Sequence[Path], config: VegaConfig) -> list[Benchmark]:
    """The results of a model, one for each benchmark.

    Raises:
        ValueError: for no result file; one of a baseline, or of a model with another config; or two of one benchmark.
    """
    found: dict[str, tuple[Path, Benchmark]] = {}
    for file in files:
        result = read_result(check_input(file))
        check_model(result["settings"], config, file)
        try:
            benchmark = measured(result)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} lacks what a result has: {error!r:.80}. {RESULT_REMEDY}") from error
        if benchmark.name in found:
            raise ValueError(
                f"{found[benchmark.name][0]} and {file} are both results of {benchmark.name}. Give one of them with "
                "--results: a card has one for each benchmark."
            )
        found[benchmark.name] = file, benchmark
    return [benchmark for _, benchmark in found.values()]


def check_model(settings: Mapping[str, Any], config: VegaConfig, file: Path) -> None:
    """Raises ValueError unless a result says that a model of this config gave the answers, with its generator."""
    generator = config.generator_config
    wanted = {
        "fusion": config.fusion,
        "block": generator.block,
        "timestep": generator.timestep,
        "seed": generator.noise_seed,
    }
    differing = [
        f"{name} {settings.get(name)!r}, not {value!r}"
        for name, value in wanted.items()
        if settings.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{file} is no result of this model: it has {', '.join(differing)}. Give its own with --results."
        )
    if settings.get("kind") != "model":
        raise ValueError(
            f"{file} is the result of {settings.get('kind')!r}, a baseline of this model. Give that of the model "
            "itself with --results."
        )


def measured(result: Mapping[str, Any]) -> Benchmark:
    """The figures of a result file, computed anew from the scores of its answers."""
    result = {**result, "summary": summarise(result["questions"], benchmark=result["benchmark"])}
    rules, scenes = rules_of(result["benchmark"]), result_scenes(result)
    figures = list(figures_of(result, rules, scenes))
    count = len(result["questions"])
    is_whole = not result["missing_videos"] and (result["benchmark"] != VSIBENCH or count == VSIBENCH_QUESTIONS)
    own = f"note: {result['settings'].get('notice')}"  # which the card has elsewhere
    said = [note.removeprefix("note: ") for note in notes(result) if note != own]
    return Benchmark(result["benchmark"], rules.main, figures, count, said, result["settings"], is_whole)


def figures_of(result: Mapping[str, Any], rules: Rules, scenes: Mapping[str, int]) -> Iterator[Figure]:
    values = result["summary"][rules.main]["figures"]
    for name in table_rows(rules, values):
        if name in values:
            types = rules.rows.get(name) or [rules.types[place] for place in rules.averaged]
            count = sum(question["question_type"] in types for question in result["questions"])
            value = values[name]
            yield Figure(name, count, scenes.get(name), value["score"], value.get("low"), value.get("high"))


# --- As they are shown -----------------------------------------------------------------------------------------------


def section(benchmark: Benchmark, repo_id: str) -> str:
    """The table of a benchmark in Markdown, with its command and notes."""
    rows = [
        f"| {figure.name} | {figure.questions} | {figure.scenes or '-'} | {percent(figure.score)} "
        f"| {span(figure.low, figure.high)} |"
        for figure in benchmark.figures
    ]
    head = f"### {benchmark.name}: {benchmark.questions} questions"
    unit = f"`{benchmark.scoring}` in percent, with its 95 % interval over scenes."
    table = ["| category | questions | scenes | score | 95 % interval |", "|---|---|---|---|---|", *rows]
    command = f"```bash\n{benchmark.command(repo_id)}\n```"
    remarks = "".join(f"\n- {note}" for note in benchmark.notes)
    return "\n\n".join(part for part in (head, unit, "\n".join(table), command, remarks.strip()) if part)


def model_index(benchmarks: Sequence[Benchmark], datasets: Mapping[str, str]) -> list[EvalResult]:
    """The figures as entries of `model-index`, the average of each benchmark first; values in percent."""
    entries = []
    for benchmark in benchmarks:
        average = benchmark.average
        for figure in (average, *(figure for figure in benchmark.figures if figure != average)):
            interval = (
                None
                if figure.low is None or figure.high is None
                else [round(100 * figure.low, 2), round(100 * figure.high, 2)]
            )
            counts = {"questions": figure.questions, "scenes": figure.scenes, "interval_95": interval}
            entries.append(
                EvalResult(
                    task_type=TASK,
                    dataset_type=dataset_of(benchmark.name, datasets) or benchmark.name,
                    dataset_name=benchmark.name,
                    metric_type=benchmark.scoring,
                    metric_name=f"{figure.name} ({benchmark.scoring}, %)",
                    metric_value=round(100 * figure.score, 2),
                    metric_args={name: value for name, value in counts.items() if value is not None},
                )
            )
    return entries


def eval_files(benchmarks: Sequence[Benchmark], datasets: Mapping[str, str]) -> dict[str, bytes]:
    """`.eval_results/*.yaml` by path: averages of whole benchmarks that are data sets of the Hub."""
    files = {}
    for benchmark in benchmarks:
        dataset = dataset_of(benchmark.name, datasets)
        if dataset is None or not benchmark.is_whole:
            continue
        figure = benchmark.average
        said = f"{figure.name} by {benchmark.scoring}, {benchmark.questions} questions"
        interval = span(figure.low, figure.high)
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id="default",
            value=round(100 * figure.score, 2),
            notes=said + (f", 95 % interval {interval} over scenes" if interval != "-" else ""),
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        files[f".eval_results/{benchmark.name}.yaml"] = text.encode()
    return files


def dataset_of(benchmark: str, datasets: Mapping[str, str]) -> str | None:
    """The Hub id of a benchmark's questions, as the user names it, or that of VSI-Bench."""
    return datasets.get(benchmark, VSIBENCH_ID if benchmark == VSIBENCH else None)
