"""Can what an expression means be told from words alone, or from boxes alone? Baselines that see no picture.

    vega3d synthesize validation --split validation --scenes 250 --size 128 --questions-per-type 10 --no-videos
    vega3d synthesize test --split test --scenes 250 --size 128 --questions-per-type 10 --no-videos
    python benchmarks/grounding_bias.py validation test --output grounding_bias.json

Words alone: the classifier of `text_bias.py` says how many objects an expression of the task `any` means, and answers
situated questions. Boxes alone: gradient-boosted trees (scikit-learn) score each proposal by its size and place, among
how many it stands, and how many are as large; the best one counts if it is of a target. The same trees say how many
objects are meant. "Words and boxes" also see how well a box has the size of the noun, which is no shortcut but shows
what a picture has to add. Each is compared with chance, with a 95 % interval over rooms.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier
from text_bias import RESAMPLES, choice_bias

import vega3d
from vega3d.rooms.dataset.files import read_rows
from vega3d.rooms.dataset.grounding import GroundingQuestion, load_grounding
from vega3d.rooms.questions.proposals import PROPOSALS
from vega3d.rooms.questions.referring import COUNTS, OR

ALIKE = 0.1  # largest difference of the logarithms of two sizes that are alike
TREES = {"max_iter": 120, "max_leaf_nodes": 12, "learning_rate": 0.06, "l2_regularization": 1.0}


def box_features(boxes: np.ndarray) -> np.ndarray:
    """float[M, 14] of float[M, 6]: size, place and neighbours of each box, and the number of all."""
    centre, size = boxes[:, :3] - boxes[:, :3].mean(axis=0), np.log(boxes[:, 3:])
    width = np.sort(size[:, :2], axis=1)
    volume = size.sum(axis=1)
    away = np.linalg.norm(centre[:, None] - centre, axis=-1)
    np.fill_diagonal(away, np.inf)
    alike = (np.abs(np.c_[width, size[:, 2]][:, None] - np.c_[width, size[:, 2]]) < ALIKE).all(axis=-1).sum(axis=1) - 1
    middle = np.linalg.norm(centre[:, :2], axis=1)
    columns = [width, size[:, 2], boxes[:, 2], middle, away.min(axis=1), (away < 1).sum(axis=1), alike]
    columns += [volume, rank(volume), rank(middle), rank(boxes[:, 2])]
    return np.column_stack([*columns, np.full((len(boxes), 2), (len(boxes), alike.sum()))])


def rank(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


def interval(gains: Sequence[float], scenes: Sequence[str], seed: int) -> list[float]:
    """Mean, and the limits of its 95 % interval over scenes."""
    places = np.unique(scenes, return_inverse=True)[1]
    totals, sizes = np.bincount(places, gains), np.bincount(places)
    drawn = np.random.default_rng(seed).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    low, high = np.percentile(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [2.5, 97.5])
    return [float(np.mean(gains)), float(low), float(high)]


class NounSizes:
    """How likely a box is by the likeliest noun of an expression: normal distributions of the sizes of its targets."""

    def __init__(self, questions: Sequence[GroundingQuestion]):
        sizes: dict[str, list] = defaultdict(list)
        for question in questions:
            for place in question.positives if OR not in question.noun else ():
                sizes[question.noun].append(self.logarithms(question.boxes)[place])
        self.normal = {
            noun: (np.mean(found, axis=0), np.std(found, axis=0) + 0.1)
            for noun, found in sizes.items()
            if len(found) > 4
        }

    @staticmethod
    def logarithms(boxes: np.ndarray) -> np.ndarray:
        sizes = np.log(boxes[:, 3:])
        return np.column_stack([np.sort(sizes[:, :2], axis=1), sizes[:, 2]])

    def __call__(self, question: GroundingQuestion) -> np.ndarray:
        """float[M, 2]: the logarithm of the likelihood, and its rank."""
        fits = []
        for noun in question.noun.split(OR):
            mean, deviation = self.normal.get(noun, (np.zeros(3), np.full(3, 9.0)))
            far = ((self.logarithms(question.boxes) - mean) / deviation) ** 2 / 2
            fits.append(-(far + np.log(deviation)).sum(axis=1))
        fit = np.max(fits, axis=0)
        return np.column_stack([fit, rank(-fit)])


def boxes_of(question: GroundingQuestion) -> np.ndarray:
    return box_features(question.boxes)


def with_noun(question: GroundingQuestion, sizes: NounSizes) -> np.ndarray:
    return np.column_stack([box_features(question.boxes), sizes(question)])


def choosing(
    train: Sequence[GroundingQuestion],
    test: Sequence[GroundingQuestion],
    features: Callable[[GroundingQuestion], np.ndarray],
    seed: int,
) -> dict:
    """How often the likeliest box is of a target, against a box drawn at random."""
    train, test = ([question for question in asked if question.positives] for asked in (train, test))
    labels = np.concatenate([np.isin(np.arange(len(asked.boxes)), asked.positives) for asked in train])
    trees = HistGradientBoostingClassifier(**TREES, random_state=seed)
    trees.fit(np.concatenate([features(question) for question in train]), labels)
    best = [int(trees.decision_function(features(question)).argmax()) for question in test]
    chance = [len(question.positives) / len(question.boxes) for question in test]
    gains = [(place in asked.positives) - luck for place, asked, luck in zip(best, test, chance, strict=True)]
    above = interval(gains, [question.scene for question in test], seed)
    return {"train": len(train), "test": len(test), "chance": float(np.mean(chance)), "above_chance": above}


def counting(train: Sequence[GroundingQuestion], test: Sequence[GroundingQuestion], options: int, seed: int) -> dict:
    """How often boxes alone tell how many objects are meant."""

    def of_all(question: GroundingQuestion) -> np.ndarray:
        features = box_features(question.boxes)
        return np.concatenate([features.mean(axis=0), features.max(axis=0)])

    def count(question: GroundingQuestion) -> int:
        return min(len(question.targets), 2)

    trees = HistGradientBoostingClassifier(**TREES, random_state=seed)
    trees.fit(np.stack([of_all(question) for question in train]), [count(question) for question in train])
    hits = trees.predict(np.stack([of_all(question) for question in test])) == [count(question) for question in test]
    above = interval(hits - 1 / options, [question.scene for question in test], seed)
    shares = Counter(count(question) for question in test)
    return {
        "train": len(train),
        "test": len(test),
        "chance": 1 / options,
        "above_chance": above,
        "counts": {str(number): shares[number] for number in sorted(shares)},
    }


def lettered(row: dict, question: str, options: Sequence[str], right: str) -> dict:
    """A row as `text_bias.py` takes it."""
    letters = [f"{chr(ord('A') + place)}. {option}" for place, option in enumerate(options)]
    truth = chr(ord("A") + list(options).index(right))
    return {"scene_name": row["scene_name"], "question": question, "options": letters, "ground_truth": truth}


def words_alone(folders: Sequence[Path], splits: Sequence[str], seed: int) -> dict[str, dict]:
    """Figures of the classifier of words, by the type of question."""
    asked: list[dict[str, list[dict]]] = []
    for folder, split in zip(folders, splits, strict=True):
        rows: dict[str, list[dict]] = defaultdict(list)
        for row in read_rows(folder, split, "grounding"):
            name = f"referring_{row['expression'].partition(' ')[0]}"
            if row["task"] == "any":
                options = COUNTS[name]
                rows[name].append(lettered(row, row["expression"], options, options[min(len(row["targets"]), 2)]))
        for row in read_rows(folder, split, "situations"):
            question = f"{row['situation']} {row['question']}"
            rows[row["question_type"]].append(lettered(row, question, row["options"], row["answer"]))
        asked.append(rows)
    return {name: choice_bias(asked[0][name], asked[1][name], seed) for name in sorted(asked[0])}


def part_of(question: GroundingQuestion) -> str:
    """`one`, or the determiner's name in `COUNTS`, told apart as their mean may hide a leak."""
    return "one" if question.task == "one" else f"referring_{question.expression.partition(' ')[0]}"


def boxes_alone(folders: Sequence[Path], splits: Sequence[str], seed: int) -> dict[str, dict]:
    """Figures of the trees that see boxes, by task and source of the proposals."""
    figures = {}
    for source in PROPOSALS:
        train, test = (load_grounding(folder, split, source) for folder, split in zip(folders, splits, strict=True))
        sizes = NounSizes(train)
        for name in ("one", *COUNTS):
            ours = [[question for question in asked if part_of(question) == name] for asked in (train, test)]
            figures[f"{name}, {source} boxes"] = choosing(*ours, boxes_of, seed)
            figures[f"{name}, {source} boxes, words too"] = choosing(*ours, partial(with_noun, sizes=sizes), seed)
            if name in COUNTS:
                figures[f"{name}, how many, {source} boxes"] = counting(*ours, len(COUNTS[name]), seed)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="data set of rooms")
    parser.add_argument("test", type=Path, help="data set of other rooms")
    parser.add_argument("--splits", nargs=2, default=["validation", "test"], help="of the two")
    parser.add_argument("--seed", type=int, default=0, help="of trees and bootstrap")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    folders = (options.train, options.test)
    figures = {
        "words": words_alone(folders, options.splits, options.seed),
        "boxes": boxes_alone(folders, options.splits, options.seed),
    }
    for name, found in (figures["words"] | figures["boxes"]).items():
        gain, low, high = (100 * value for value in found["above_chance"])
        sizes = f"{found['train']:6} {found['test']:6}"
        print(f"{name:46} {sizes} chance {found['chance']:.1%}, above it {gain:+.1f} [{low:+.1f}, {high:+.1f}]")
    versions = {"vega3d": vega3d.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}
    if options.output:
        values = {
            "command": "python benchmarks/grounding_bias.py",
            "seed": options.seed,
            "versions": versions,
            **figures,
        }
        options.output.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
