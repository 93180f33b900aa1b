"""Scores a checkpoint with its world simulator and without, for its card and for the page of `vega3d demo`.

    python recipes/make_scores.py src/vega3d/assets/vega3d-tiny --results research/tiny/results/study.json

writes scores.json into the folder, and puts the tables into its README.md. The questions are those of the first rooms
of the split `test`, of each type the first question about each room. *Without* is the same weights with the simulator
switched off. The examples are the questions about the shipped clips: of each type the first that
`recipes/make_example_clips.py` makes, whatever is answered. Types that the model was not trained on are left out of
both. With `--results`, the results of a study, also what models trained with a simulator and without one score there.
Some minutes on two cores.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from vega3d.demo.examples import FILE, MACRO, Scores, load_examples, scores_text
from vega3d.evaluation.answerers import ModelAnswerer, UnfusedAnswerer, constant_scores
from vega3d.evaluation.benchmarks import ROOMS, RoomsBenchmark, load_rooms
from vega3d.evaluation.metrics import parse_official, score_parsed
from vega3d.evaluation.report import compare
from vega3d.evaluation.rules import VSIBENCH
from vega3d.evaluation.run import evaluate
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.files import check_input, read_json, write_json, write_whole
from vega3d.hub.load import load_vega
from vega3d.inference.session import Session
from vega3d.questions import KnownQuestions, SpatialQuestion

SPLIT, ARM, CONTROL = "test", "trained", "semantic"
SECTION, NEXT = "## Scores with and without its world simulator\n", "\n## "


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument("--rooms", type=int, default=ROOMS.num_rooms)
    parser.add_argument("--results", type=Path, help="results.json of the study that the checkpoint comes from")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="processes that make rooms")
    return parser.parse_args()


def first_of_each_type(records: Sequence[AnnotatedQuestion], known: KnownQuestions | None) -> list[AnnotatedQuestion]:
    """The first question of each type about each scene, of the types that the model was trained on."""
    first: dict[tuple[str, str], AnnotatedQuestion] = {}
    for record in records:
        if known is None or known.note(record) is None:
            first.setdefault((record.scene, record.question_type), record)
    return list(first.values())


def measured(model, processor, records: Sequence[AnnotatedQuestion], batch_size: int) -> dict:
    """`rooms`, `questions`, `scores` and `difference` of `vega3d.demo.examples.Scores`."""
    results = {}
    with tqdm(total=2 * len(records), unit="question") as progress:
        for kind in (ModelAnswerer, UnfusedAnswerer):
            answerer = kind(model, processor, kind.kind)
            results[kind.kind] = evaluate(answerer, records, batch_size=batch_size, on_progress=progress.update)
    figures = {name: result["summary"]["official"]["figures"] for name, result in results.items()}
    constant = constant_scores(results[ModelAnswerer.kind]["questions"])
    differences = compare(*({kind.kind: results[kind.kind]} for kind in (UnfusedAnswerer, ModelAnswerer)))
    return {
        "rooms": len({record.scene for record in records}),
        "questions": len(records),
        "scores": {
            name: {
                "model": round(figures[ModelAnswerer.kind][name]["score"], 4),
                "off": round(figures[UnfusedAnswerer.kind][name]["score"], 4),
                "constant": round(constant[name], 4),
            }
            for name in (*VSIBENCH.rows, MACRO)
            if name in figures[ModelAnswerer.kind]
        },
        "difference": rounded(asdict(differences[MACRO].interval)),
    }


def rounded(interval: dict) -> dict:
    """The ends that a table of scores shows; null where there is no interval."""
    return {end: None if interval[end] is None else round(interval[end], 4) for end in ("score", "low", "high")}


def answered_examples(session: Session, known: KnownQuestions | None, scores: Scores) -> list[dict]:
    """What the model answers to the examples, with its simulator and without, and the score of each answer."""
    rows = []
    for by_category in load_examples(known, scores).values():
        for example in by_category.values():
            asked = SpatialQuestion(
                example.clip,
                example.question,
                example.options,
                is_numeric=not example.options,
                frame=example.frame,
                marks=example.marks,
            )
            answers = {name: session.answer(asked, with_generator=name == "model").text for name in ("model", "off")}
            rows.append(
                {
                    "clip": example.clip,
                    "category": example.category,
                    "right": example.right,
                    **answers,
                    "scores": {name: score(text, example) for name, text in answers.items()},
                }
            )
    return rows


def score(text: str, example) -> float:
    return round(score_parsed(parse_official(text, example.question_type), example.question_type, example.answer), 4)


def trained(results: dict) -> dict:
    """What models of a study score that were trained with a simulator, and without one."""
    split = next(split for split in (SPLIT, "validation") if split in results["splits"])
    official = results["splits"][split]["official"]
    return {
        "rooms": official["scenes"],
        "seeds": len(results["seeds"]),
        "with": official["scores"][ARM][MACRO]["score"],
        "without": official["scores"][CONTROL][MACRO]["score"],
        "difference": rounded(official["differences"][f"{ARM} - {CONTROL}"][MACRO]["interval"]),
    }


def with_section(card: str, text: str) -> str:
    """The card with the tables in their section, which is replaced, or put before the data."""
    section = f"{SECTION}\n{text}"
    if SECTION in card:
        before, _, rest = card.partition(SECTION)
        return f"{before}{section}{NEXT}{rest.partition(NEXT)[2]}"
    before, data, rest = card.partition("\n## Data\n")
    return f"{before}\n{section}{data}{rest}" if data else f"{card}\n{section}"


def score_model(folder: Path, results: Path | None, rooms: int, batch_size: int, workers: int) -> None:
    """Writes the scores of a checkpoint into its folder and its card."""
    card = check_input(folder / "README.md")
    of_study = None if results is None else trained(read_json(results))
    model, processor = load_vega(folder, device="cpu")
    known = KnownQuestions.from_config(model.config.questions)
    with tqdm(unit="room") as progress:
        benchmark = RoomsBenchmark(ROOMS.settings, rooms)
        records = load_rooms(benchmark, workers=workers, on_progress=lambda done, wanted: progress.update(done))
    values = measured(model, processor, first_of_each_type(records, known), batch_size)
    values |= {"trained": of_study} if of_study else {}
    values["examples"] = answered_examples(Session(model, processor), known, Scores(**values))
    write_json(folder / FILE, values)
    text = scores_text(Scores(**values))
    whole = with_section(card.read_text(encoding="utf-8"), text)
    write_whole(card, partial(Path.write_text, data=whole, encoding="utf-8"))
    print(text)


if __name__ == "__main__":
    options = parse()
    score_model(options.model, options.results, options.rooms, options.batch_size, options.workers)
