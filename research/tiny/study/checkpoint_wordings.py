"""A finished checkpoint, asked the questions of a split as people type them, in each of `held_out.CONDITIONS`.

    python -m research.tiny.study.checkpoint_wordings vega3d-tiny --output runs/wordings

makes the rooms of the recipe, asks about them, and writes `wordings.json` and `wordings.md` as the stage `wordings` of
a study does from its run folders. The same command goes on: what was made or answered is not made or answered again.
Every answer is in OUTPUT/results.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from research.tiny.study.data import SplitData
from research.tiny.study.experiment import Experiment
from research.tiny.study.held_out import (
    CONDITIONS,
    TRAINED,
    PlainAnswerer,
    choice_values,
    plain_questions,
    wording_table,
)
from research.tiny.study.recipe import TEST_SPLITS, VALIDATION, Recipe, read_recipe
from research.tiny.study.table import paired_values, write_report
from vega3d.evaluation.answerers import Answerer, ModelAnswerer
from vega3d.evaluation.run import evaluate
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.hub.load import load_vega
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.rooms.dataset.files import FPS

RECIPE = Path(__file__).parent.parent / "configs" / "study.yaml"
QUESTIONS_AT_A_TIME = 64  # about four clips


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder, or name of a shipped model")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="whose rooms and questions are asked")
    parser.add_argument("--split", choices=(VALIDATION, *TEST_SPLITS), default=VALIDATION)
    parser.add_argument("--rooms", type=int, help="the first rooms of the split; all of the recipe's by default")
    parser.add_argument("--renderer", choices=("opengl", "embree"), default="embree")
    parser.add_argument("--furniture", type=Path, help="pack of objects for test_unseen")
    parser.add_argument("--workers", type=int, default=1, help="processes that make rooms")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="folder of all that is made")
    return parser.parse_args(arguments)


class ClipAnswerer(ModelAnswerer):
    """A checkpoint that is asked about clips by their numbers in a split."""

    def __init__(self, model, processor, name: str, data: SplitData):
        super().__init__(model, processor, name, data.shards.num_frames)
        self.session.stored_clips = len(data)  # a megabyte each; encoded once for all conditions
        self.data = data

    def question(self, record: AnnotatedQuestion) -> SpatialQuestion:
        [frames] = self.data.frames([int(record.visual)])
        return replace(record, visual=VideoClip(frames, np.arange(len(frames)) / FPS, record.scene))


def ask(answerer: Answerer, records: Sequence[AnnotatedQuestion], output: Path) -> dict[str, list[dict]]:
    """By condition the result of the questions, whose file lies in a folder."""
    results = {}
    output.mkdir(parents=True, exist_ok=True)
    for condition in CONDITIONS:
        questions = plain_questions(records, condition)
        file = output / f"{condition.replace(' ', '-')}.json"
        with tqdm(total=len(questions), desc=condition, unit="question", mininterval=10) as progress:
            plain = PlainAnswerer(answerer, questions, condition)
            result = evaluate(
                plain, questions, file, "rooms", batch_size=QUESTIONS_AT_A_TIME, on_progress=progress.update
            )
        results[condition] = [result]
    return results


def rooms_of(recipe: Recipe, split: str, count: int | None, renderer: str) -> Recipe:
    """The recipe with so many rooms of a split, or as many as it has."""
    changes: dict[str, Any] = {"renderer": renderer} | ({} if count is None else {split: count})
    return replace(recipe, rooms=replace(recipe.rooms, **changes))


def run(options: argparse.Namespace) -> None:
    split = options.split
    recipe = rooms_of(read_recipe(options.recipe), split, options.rooms, options.renderer)
    experiment = Experiment(
        recipe, options.output, options.device, workers=options.workers, furniture=options.furniture, tell=print
    )
    model, processor = load_vega(options.checkpoint, device=options.device)  # before the rooms, which take longer
    experiment.make_rooms([split])
    data = experiment.data(split)
    answerer = ClipAnswerer(model, processor, options.checkpoint, data)
    results = ask(answerer, data.records(), options.output / "results" / split)
    values = paired_values(results, [TRAINED], "official")
    values["choices"] = choice_values({condition: result for condition, [result] in results.items()})
    write_report(options.output / "wordings", {split: {options.checkpoint: values}}, wording_table)


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        run(parse(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
