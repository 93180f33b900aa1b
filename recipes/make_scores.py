"""Writes what a checkpoint scores over many rooms, for the page of `vega3d demo`, from published results.

    python recipes/make_scores.py research/tiny/results/third --arm trained --seed 1 --output src/vega3d/assets/vega3d-tiny/scores.json

reads third.json (means over the seeds, and differences) and third_seeds.json (each seed, and a constant answer).
"""  # noqa: E501

import argparse
from pathlib import Path

from vega3d.evaluation.metrics import CATEGORIES
from vega3d.files import read_json, write_json

SPLIT, WITHOUT, MACRO = "test", "semantic", "macro"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="without .json: the name that both files begin with")
    parser.add_argument("--arm", default="trained", help="of the checkpoint")
    parser.add_argument("--seed", type=int, required=True, help="of the checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    return parser.parse_args()


def scores_of(results: dict, seeds: dict, arm: str, seed: int) -> dict:
    """As `vega3d.demo.examples.Scores`."""
    official, own = results["splits"][SPLIT]["official"], seeds[SPLIT]
    means = official["scores"]
    interval = official["differences"][f"{arm} - {WITHOUT}"][MACRO]["interval"]
    return {
        "rooms": official["scenes"],
        "questions": official["questions"],
        "seeds": len(results["seeds"]),
        "scores": {
            name: {
                "model": own[f"{arm}-seed{seed}"][name],
                "with": means[arm][name]["score"],
                "without": means[WITHOUT][name]["score"],
                "constant": own["constant"][name],
            }
            for name in (*CATEGORIES, MACRO)
            if name in means[arm]
        },
        "difference": {end: interval[end] for end in ("score", "low", "high")},
    }


def main() -> None:
    options = parse()
    files = [options.results.with_name(f"{options.results.name}{end}.json") for end in ("", "_seeds")]
    write_json(options.output, scores_of(*map(read_json, files), options.arm, options.seed))


if __name__ == "__main__":
    main()
