"""The embedded model against the published recipe and results that it comes from."""

import json
import re
import runpy
from pathlib import Path

import yaml

from research.tiny.ship import SNIPPETS, VERDICT, with_answers
from research.tiny.study.question_forms import trained_questions
from vega3d.demo.examples import read_scores
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


def test_the_scores_name_the_results_of_the_study():
    recipe = runpy.run_path(str(PROJECT / "recipes" / "make_scores.py"))

    scores = read_scores(MODEL)

    assert scores.trained == recipe["trained"](read_json(RESULTS / "third.json"))
    panel = scoreboard(scores)
    for text in ("1,000 rooms", "65.3", "63.2", "+2.2 [0.7, 4.0]"):
        assert text in panel


def test_the_readme_shows_what_the_embedded_model_answers(monkeypatch):
    """But for percentages, which round otherwise on other machines, and seconds."""
    monkeypatch.chdir(PROJECT)
    readme = (PROJECT / "README.md").read_text()
    size = sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file())

    shipped = with_answers(readme, size)

    assert without_decimals(shipped) == without_decimals(readme)
    assert len(VERDICT.findall(readme)) == len(SNIPPETS)


def without_decimals(text: str) -> str:
    return re.sub(r"\d+\.\d(?=%| s\))", "", text)
