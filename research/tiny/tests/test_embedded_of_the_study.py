"""The embedded model against the published recipe and results that it comes from."""

import json
import runpy
from pathlib import Path

import yaml

from research.tiny.study.question_forms import trained_questions
from vega3d.demo.examples import Scores, read_scores
from vega3d.demo.panels import scoreboard
from vega3d.files import read_json
from vega3d.shipped import ASSETS

MODEL = ASSETS / "vega3d-tiny"
PROJECT = Path(__file__).parents[3]
RESULTS = PROJECT / "research" / "tiny" / "results"
GUESSES = {*(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")), "route_planning"}


def test_the_embedded_model_lists_what_its_recipe_trained_on():
    config = json.loads((MODEL / "config.json").read_text())

    expected = trained_questions(yaml.safe_load((RESULTS / "third.yaml").read_text())["categories"], GUESSES)

    assert config["questions"] == expected


def test_the_scores_are_those_of_the_results():
    recipe = runpy.run_path(str(PROJECT / "recipes" / "make_scores.py"))
    results, seeds = (read_json(RESULTS / f"third{end}.json") for end in ("", "_seeds"))

    expected = recipe["checkpoint_scores"](results, seeds, "trained", 1)

    assert read_scores(MODEL) == Scores(**expected)
    panel = scoreboard(Scores(**expected))
    for text in ("1,000 rooms", "66.4", "65.3", "63.2", "38.5", "+2.2 (+0.7 to +4.0)"):
        assert text in panel
