"""Fits `vega3d/assets/text_prior.json.xz`: how likely each option of a question is by its words (`rooms.text_prior`).

    python recipes/fit_text_prior.py collect candidates.jsonl.gz --rooms 4000 --workers 2
    python recipes/fit_text_prior.py fit candidates.jsonl.gz  # writes src/vega3d/assets/text_prior.json.xz

Candidates are all questions of a type that a walkthrough allows, up to a number, before any is left out. The strength
of the penalty on weights is chosen for each type on rooms that the fit does not see. Types that the candidates lack
keep their weights.
"""

import argparse
import gzip
import itertools
import json
import lzma
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from tqdm import tqdm

from vega3d.files import read_xz, write_whole
from vega3d.rooms.dataset.workers import run_all
from vega3d.rooms.questions.observation import Observation, observe
from vega3d.rooms.questions.questions import names_in, shuffled_candidates
from vega3d.rooms.questions.text_prior import CLUES, LARGEST, WEIGHTS
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.scene import scene_seed
from vega3d.rooms.scene.furniture import load_furniture
from vega3d.rooms.scene.scene import sample_scene
from vega3d.rooms.scene.trajectory import sample_trajectory

SIZE, NUM_FRAMES = 128, 17
PENALTIES = (10.0, 30.0, 100.0, 300.0)  # precision of a normal prior on each weight
RAREST = 4  # questions that a clue must be in
SMALLEST = 0.02  # weight that is stored


def room_candidates(place: int, first: int, split: str, trajectories: int, per_type: int) -> list[list]:
    """Questions on room `first` + `place`: type, classes, options, number of the right option, number of the room."""
    number = first + place
    scene = sample_scene(scene_seed(split, number), load_furniture())
    renderer, observation, found = EmbreeRenderer(scene), None, []
    for trajectory in range(trajectories):
        _, instance = renderer.geometry(sample_trajectory(scene, trajectory, NUM_FRAMES), SIZE, SIZE)
        observation = observe(scene, instance, observation)
        for asked, names in candidates_of(observation, [scene.seed, 4, trajectory], per_type):
            found.append([asked.question_type, names, asked.options, asked.right, number])
    return found


def candidates_of(observation: Observation, seed: list[int], per_type: int) -> Iterator[tuple]:
    """Questions, and the classes of their objects."""
    for stream, name in enumerate(CLUES):
        random = np.random.default_rng([*seed, stream])
        for question in shuffled_candidates(name, observation, random)[:per_type]:
            yield question, names_in(question, observation)


def collect(options: argparse.Namespace) -> None:
    make = partial(
        room_candidates,
        first=options.first,
        split=options.split,
        trajectories=options.trajectories,
        per_type=options.per_type,
    )
    counts: Counter[str] = Counter()
    with gzip.open(options.file, "wt", encoding="utf-8") as file:
        for questions in tqdm(run_all(make, options.rooms, options.workers), total=options.rooms, unit="room"):
            counts.update(question[0] for question in questions)
            file.writelines(json.dumps(question) + "\n" for question in questions)
    print(dict(counts))


class Problem:
    """A conditional logit on questions of one type.

    Args:
        questions: rows of `room_candidates`.
        clues: column of each clue.
    """

    def __init__(self, questions: list[list], clues: dict[str, int]):
        self.lengths = np.array([len(options) for _, _, options, _, _ in questions])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.right = self.starts + [answer for _, _, _, answer, _ in questions]
        texts = [CLUES[name](names, option) for name, names, options, _, _ in questions for option in options]
        columns = [[clues[clue] for clue in text if clue in clues] for text in texts]
        ends = np.cumsum([0, *map(len, columns)])
        indices = np.concatenate([np.array(row, np.int64) for row in columns])
        self.matrix = csr_array((np.ones(len(indices)), indices, ends), shape=(len(texts), len(clues)))

    def loss(self, weights: np.ndarray, penalty: float = 0.0) -> tuple[float, np.ndarray]:
        """Negative log-likelihood with penalty, and its gradient."""
        scores = self.matrix @ weights
        scores -= np.repeat(np.maximum.reduceat(scores, self.starts), self.lengths)
        odds = np.exp(scores)
        totals = np.add.reduceat(odds, self.starts)
        residual = odds / np.repeat(totals, self.lengths)
        residual[self.right] -= 1
        value = (np.log(totals) - scores[self.right]).sum() + penalty / 2 * (weights**2).sum()
        return value, self.matrix.T @ residual + penalty * weights

    def fit(self, penalty: float) -> np.ndarray:
        start = np.zeros(self.matrix.shape[1])
        return minimize(self.loss, start, args=(penalty,), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x


def fit_type(questions: list[list]) -> tuple[dict[str, float], dict]:
    """Weights of the clues, and metrics of the fit."""
    held = [question for question in questions if question[4] % 5 == 0]
    seen = [question for question in questions if question[4] % 5]
    names = Counter(
        clue for question in seen for option in question[2] for clue in CLUES[question[0]](question[1], option)
    )
    clues = {clue: number for number, clue in enumerate(sorted(clue for clue in names if names[clue] >= RAREST))}
    train, test = Problem(seen, clues), Problem(held, clues)
    losses = {penalty: test.loss(train.fit(penalty))[0] / len(held) for penalty in PENALTIES}
    penalty = min(losses, key=losses.__getitem__)
    weights = Problem(questions, clues).fit(penalty)
    chance = float(np.log([len(question[2]) for question in held]).mean())
    metrics = {
        "questions": len(questions),
        "penalty": penalty,
        "held_out_loss": losses[penalty],
        "chance_loss": chance,
    }
    return {
        clue: round(float(weights[number]), 2) for clue, number in clues.items() if abs(weights[number]) >= SMALLEST
    }, metrics


def read(path: Path) -> Iterator[list]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def fit(options: argparse.Namespace) -> None:
    questions: dict[str, list[list]] = {}
    for question in itertools.chain.from_iterable(map(read, options.files)):
        questions.setdefault(question[0], []).append(question)
    fitted = {name: fit_type(asked) for name, asked in tqdm(questions.items(), unit="type")}
    for name, (weights, metrics) in fitted.items():
        print(f"{name}: {len(weights)} clues, {metrics}")
    figures = {name: metrics for name, (_, metrics) in fitted.items()}
    write(options.output, figures, {name: weights for name, (weights, _) in fitted.items()})


def stored(path: Path) -> dict:
    """Figures and weights by type that a file holds; none if it is not there."""
    return json.loads(read_xz(path, LARGEST)) if path.exists() else {"figures": {}, "weights": {}}


def write(path: Path, figures: dict, weights: dict) -> None:
    """Writes the weights of some types; the others stay."""
    before = stored(path)
    values = {
        "command": "python recipes/fit_text_prior.py",
        "figures": before["figures"] | figures,
        "weights": before["weights"] | weights,
    }
    text = json.dumps(values, separators=(",", ":")) + "\n"
    packed = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
    write_whole(path, partial(Path.write_bytes, data=packed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("file", type=Path)
    collecting.add_argument("--split", default="train")
    collecting.add_argument("--first", type=int, default=0, help="number of the first room")
    collecting.add_argument("--rooms", type=int, default=4000)
    collecting.add_argument("--trajectories", type=int, default=2)
    collecting.add_argument("--per-type", type=int, default=14)
    collecting.add_argument("--workers", type=int, default=2)
    collecting.set_defaults(run=collect)
    fitting = commands.add_parser("fit")
    fitting.add_argument("files", type=Path, nargs="+")
    fitting.add_argument("--output", type=Path, default=WEIGHTS)
    fitting.set_defaults(run=fit)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
