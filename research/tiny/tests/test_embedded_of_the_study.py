"""The embedded model against the published recipe and results that it comes from."""

import json
import re
import runpy
from pathlib import Path

from research.tiny.ship import SNIPPETS, VERDICT, with_answers
from research.tiny.study.recipe import read_recipe
from research.tiny.study.wordings import known_questions
from vega3d.demo.examples import read_scores
from vega3d.demo.panels import scoreboard
from vega3d.files import read_json
from vega3d.shipped import ASSETS

MODEL = ASSETS / "vega3d-tiny"
PROJECT = Path(__file__).parents[3]
RESULTS = PROJECT / "research" / "tiny" / "results"
RECIPE = PROJECT / "research" / "tiny" / "configs" / "study.yaml"


def test_the_embedded_model_lists_what_its_recipe_trained_on():
    config = json.loads((MODEL / "config.json").read_text())

    assert config["questions"] == known_questions(read_recipe(RECIPE).categories, guesses=())


def test_the_scores_name_the_results_of_the_study():
    recipe = runpy.run_path(str(PROJECT / "recipes" / "make_scores.py"))

    scores = read_scores(MODEL)

    assert scores.trained == recipe["trained"](read_json(RESULTS / "study.json"))
    panel = scoreboard(scores)
    for text in ("120 rooms", "81.1", "79.9", "+1.2 [-0.5, 2.8]"):
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
