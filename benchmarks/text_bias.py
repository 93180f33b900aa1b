"""Can the answers be told from the words alone? A text-only classifier, trained and tested on tables of questions.

    vega3d synthesize validation --split validation --scenes 450 --trajectories 4 --size 128 --no-videos
    vega3d synthesize test --split test --scenes 450 --trajectories 4 --size 128 --no-videos
    python benchmarks/text_bias.py validation/validation.parquet test/test.parquet --output text_bias.json

For each type of multiple choice: logistic regression (scikit-learn) on all pairs of one to three neighbouring words of
the question, but for those of its template, with an option and with each part of the option; the strength of its
penalty is chosen by cross-validation over scenes of the training table. Its accuracy is compared with chance, with a
95 % interval over scenes. Numeric types: mean relative accuracy of the most frequent answer of the training table.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import sklearn
from scipy.sparse import csr_array
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

import vega3d
from vega3d.evaluation.answerers import most_frequent
from vega3d.evaluation.metrics import CHOICE_TYPES, EXTRA_CHOICE_TYPES, NUMERIC_TYPES, mean_relative_accuracy

PENALTIES = (0.01, 0.1, 1.0)  # inverse strengths
FOLDS, RESAMPLES = 3, 2000
COMMON = 0.5  # share of the questions from which on words are of the template


def phrases(question: str) -> set[str]:
    """One to three neighbouring words."""
    words = re.findall(r"[a-z-]+", question.lower())
    return {" ".join(words[i : i + length]) for length in (1, 2, 3) for i in range(len(words) - length + 1)}


def pair_features(row: dict, template: set[str]) -> list[Counter]:
    """What the classifier sees of each option: the option, its parts, and both with the phrases of the question."""
    said = phrases(row["question"]) - template
    options = [text.split(". ", 1)[1] for text in row["options"]]
    return [
        Counter(
            f"{left}|{right}"
            for right in (option, *(f"{place} {part}" for place, part in enumerate(option.split(", "))))
            for left in ("", *said)
        )
        for option in options
    ]


class Questions:
    """Rows of one type as features of their options."""

    def __init__(self, rows: Sequence[dict], template: set[str]):
        features = [pair_features(row, template) for row in rows]
        self.lengths = np.array([len(options) for options in features])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.right = np.array([ord(row["ground_truth"]) - ord("A") for row in rows])
        self.scenes = np.unique([row["scene_name"] for row in rows], return_inverse=True)[1]
        self.matrix = csr_array(FeatureHasher(2**20).transform(option for options in features for option in options))

    def options_of(self, chosen: np.ndarray) -> np.ndarray:
        return np.concatenate([np.arange(self.starts[i], self.starts[i] + self.lengths[i]) for i in chosen])

    def fit(self, chosen: np.ndarray, penalty: float) -> LogisticRegression:
        is_right = np.zeros(len(self.matrix.indptr) - 1, bool)
        is_right[self.starts + self.right] = True
        places = self.options_of(chosen)
        return LogisticRegression(C=penalty, solver="liblinear").fit(self.matrix[places], is_right[places])

    def hits(self, chosen: np.ndarray, classifier: LogisticRegression) -> np.ndarray:
        """bool[n]: whether the likeliest option is right."""
        scores = classifier.decision_function(self.matrix)
        best = [scores[self.starts[i] : self.starts[i] + self.lengths[i]].argmax() for i in chosen]
        return np.array(best) == self.right[chosen]


def choice_bias(train: Sequence[dict], test: Sequence[dict], seed: int) -> dict:
    """Accuracy of the classifier on `test`, chance, and the 95 % interval of their difference over scenes."""
    counts = Counter(phrase for row in train for phrase in phrases(row["question"]))
    template = {phrase for phrase, count in counts.items() if count > COMMON * len(train)}
    seen, new = Questions(train, template), Questions(test, template)
    everything = np.arange(len(train))
    accuracies = {}
    for penalty in PENALTIES:
        folds = [(everything[seen.scenes % FOLDS != k], everything[seen.scenes % FOLDS == k]) for k in range(FOLDS)]
        hits = [seen.hits(held, seen.fit(kept, penalty)) for kept, held in folds]
        accuracies[penalty] = float(np.concatenate(hits).mean())
    penalty = max(accuracies, key=accuracies.__getitem__)
    gain = new.hits(np.arange(len(test)), seen.fit(everything, penalty)) - 1 / new.lengths
    random = np.random.default_rng(seed)
    totals, sizes = np.bincount(new.scenes, gain), np.bincount(new.scenes)
    drawn = random.integers(len(sizes), size=(RESAMPLES, len(sizes)))
    low, high = np.percentile(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [2.5, 97.5])
    return {
        "train": len(train),
        "test": len(test),
        "chance": float((1 / new.lengths).mean()),
        "accuracy": float(gain.mean() + (1 / new.lengths).mean()),
        "above_chance": [float(gain.mean()), float(low), float(high)],
        "penalty": penalty,
        "cross_validated": accuracies,
    }


def frequency_score(train: Sequence[dict], test: Sequence[dict]) -> dict:
    """Mean relative accuracy of the most frequent answer."""
    answer = most_frequent(Counter(row["ground_truth"] for row in train))
    scores = [mean_relative_accuracy(float(answer), float(row["ground_truth"])) for row in test]
    return {"train": len(train), "test": len(test), "answer": answer, "score": float(np.mean(scores))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="parquet table of questions")
    parser.add_argument("test", type=Path, help="parquet table of questions on other rooms")
    parser.add_argument("--most", type=int, default=2000, help="questions of a type, in each table")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    train, test = (pyarrow.parquet.read_table(path).to_pylist() for path in (options.train, options.test))
    types: dict[str, dict] = {}
    for name in tqdm((*CHOICE_TYPES, *EXTRA_CHOICE_TYPES, *NUMERIC_TYPES), unit="type"):
        first, second = (
            [row for row in rows if row["question_type"] == name][: options.most] for rows in (train, test)
        )
        types[name] = (
            frequency_score(first, second) if name in NUMERIC_TYPES else choice_bias(first, second, options.seed)
        )
    for name, figures in types.items():
        if name in NUMERIC_TYPES:
            print(f"{name:30} {figures['test']:5} most frequent answer {figures['answer']}: {figures['score']:.1%}")
        else:
            gain, low, high = (100 * value for value in figures["above_chance"])
            found = f"words alone {gain:+.1f} [{low:+.1f}, {high:+.1f}]"
            print(f"{name:30} {figures['test']:5} chance {figures['chance']:.1%}, {found}")
    versions = {"vega3d": vega3d.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}
    if options.output:
        values = {
            "command": "python benchmarks/text_bias.py",
            "seed": options.seed,
            "versions": versions,
            "types": types,
        }
        options.output.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
