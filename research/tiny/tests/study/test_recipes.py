"""Recipes and commands of the study: what they say, and input that they refuse."""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from research.tiny import reproduce
from research.tiny.study import __main__ as study
from research.tiny.study.recipe import read_recipe

TINY = Path(__file__).parents[2]
BASE = {
    "name": "x",
    "rooms": {"train": 1, "validation": 1, "test": 1},
    "arms": {"semantic": {"fusion": "none"}},
    "tower": {"steps": 1},
    "training": {"steps": 1},
}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"colour": 1}, r"recipe.yaml: There is no setting 'colour'. Settings are name"),
        ({"rooms": {**BASE["rooms"], "trajectoires": 2}}, "There is no setting 'rooms.trajectoires'. Did you mean"),
        ({"seeds": [0, 0]}, "each once"),
        ({"seeds": "0"}, "seeds is '0', but must be a list"),
        ({"arms": {"a": {"stream": "g"}}}, "names the stream 'g', but there are pixels, oracle"),
        (
            {"arms": {"a": {"stream": "pixels", "shuffled": True}}},
            "is shuffled, but the stream 'pixels' has no weights",
        ),
        ({"arms": {"a": {}}}, "an arm without a stream has the fusion none"),
        ({"arms": {"../a": {"fusion": "none"}}}, "names a folder of the output"),
        ({"categories": ["size"]}, "give some of"),
        ({"precision": "half"}, r"precision is 'half', but must be one of \['bfloat16', 'float32'\]"),
        ({"answers": "poems"}, r"answers is 'poems', but must be one of \['words', 'letters'\]"),
        ({"tower": {"steps": "many"}}, "tower.steps is 'many', but must be a whole number"),
        ({"tower": {}}, "does not say tower.steps"),
        ({"training": {"steps": 0}}, "steps is 0, but must be at least 1"),
        ({"training": {"steps": 1, "packs": {"clip": 3}}}, "There is no setting 'training.packs.clip'"),
        ({"grounding": {"clips": 17}}, r"grounding\.clips is 17, but a step has 16 clips"),
        ({"grounding": {}, "rooms": {**BASE["rooms"], "with_grounding": False}}, "`grounding` needs expressions"),
        ({"arms": {"a": {"fusion": "none", "position_code": "sin3d"}}}, "without `grounding` nothing has positions"),
    ],
)
def test_bad_recipes_are_named(tmp_path, changes, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**BASE, **changes}))
    with pytest.raises(ValueError, match=message):
        read_recipe(file)


def test_rates_in_scientific_notation_are_numbers(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(BASE) + "checkpoint_seconds: 1e3\n")
    assert read_recipe(file).checkpoint_seconds == 1000.0


def test_the_published_recipe_compares_eight_arms_on_rooms_that_no_run_scored():
    recipe = read_recipe(TINY / "configs" / "study.yaml")
    assert list(recipe.arms) == ["semantic", "trained", "twin", "random", "shuffled", "vae", "pixels", "oracle"]
    assert recipe.rooms.first_test >= 1000 and recipe.rooms.test >= 1000 and len(recipe.seeds) >= 3


def test_grounding_goes_on_with_arms_of_the_published_recipe():
    study, grounding = (read_recipe(TINY / "configs" / f"{name}.yaml") for name in ("study", "grounding"))
    assert grounding.grounding.start == study.name and set(grounding.seeds) <= set(study.seeds)
    assert grounding.rooms == replace(study.rooms, with_grounding=True)
    for part in ("vlm", "tower", "generators", "projector_hidden_size", "precision"):
        assert getattr(grounding, part) == getattr(study, part)
    for arm in grounding.arms.values():
        assert replace(arm, position_code="none") in study.arms.values()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--generator", "other=x"], r"--generator names \['other'\]"),
        (["--seeds", "9"], r"--seeds names \[9\], but the recipe has"),
        (["--arms", "nobody"], r"--arms names \['nobody'\]"),
        (["--splits", "test_unseen"], r"--splits are \['test_unseen'\], but the recipe has"),
        (["--stages", "export"], "needs --checkpoint"),
    ],
)
def test_what_the_recipe_does_not_have_is_refused(capsys, monkeypatch, tmp_path, arguments, message):
    recipe = str(TINY / "configs" / "study.yaml")
    monkeypatch.setattr(sys, "argv", ["study", recipe, "--output", str(tmp_path / "x"), *arguments])
    with pytest.raises(SystemExit) as ended:
        study.main()
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert re.match(f"error: .*{message}", text) and text.count("\n") == 1


CONFIGS = TINY / "configs"


def options_of(tmp_path, *arguments: str) -> argparse.Namespace:
    command = ["reproduce", str(CONFIGS / "smoke_generator.yaml"), str(CONFIGS / "smoke.yaml"), "--output"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, str(tmp_path), *arguments])
        return reproduce.parse()


def test_everything_is_made_in_order(tmp_path):
    options = options_of(tmp_path, "--workers", "2", "--set", "dit.steps=3", "--checkpoint", str(tmp_path / "model"))
    steps = {step.name: step for step in reproduce.steps(options, read_recipe(options.recipe))}
    simulator = [step for step in steps.values() if "--stage" in step.command]
    assert [step.name for step in simulator] == ["simulator-rooms", "vae", "read-trained", "read-twin"]
    assert "--image-twin" in steps["read-twin"].command and "--image-twin" not in steps["read-trained"].command
    assert all("dit.steps=3" in step.command and "rooms.workers=2" in step.command for step in simulator)
    assert f"twin={tmp_path / 'world-simulator' / 'image-twin'}" in steps["tower"].command
    assert steps["arms-trained"].needs == ["tower", "read-trained"]
    assert steps["arms-semantic-oracle-pixels"].needs == ["tower"]
    assert steps["export"].command[-1].endswith("model")
    before: set[str] = set()
    for step in steps.values():
        assert before.issuperset(step.needs)
        before.add(step.name)


def test_boxes_go_on_from_the_arms_that_they_need(tmp_path):
    options = options_of(tmp_path, "--grounding", str(CONFIGS / "grounding.yaml"), "--seeds", "1", "--cards", "2")
    arms = ["semantic", "oracle", "trained"]
    options.arms = arms
    steps = {step.name: step for step in reproduce.steps(options, read_recipe(CONFIGS / "study.yaml"))}
    boxes = [step for name, step in steps.items() if name.startswith("boxes")]
    assert [step.name for step in boxes] == ["boxes-semantic", "boxes-trained", "boxes-oracle", "boxes-tables"]
    assert all("--seeds 1" in " ".join(step.command) and "twin" not in " ".join(step.command) for step in boxes)
    assert steps["boxes-trained"].command[-2:] == ["trained", "trained-no-code"]
    assert steps["boxes-trained"].needs == ["arms-trained"]
    assert steps["boxes-oracle"].needs == [name for name in steps if "arms" in name and "oracle" in name]
    assert "rooms.with_grounding=true" in steps["study-rooms"].command
    assert "rooms.with_grounding=true" not in boxes[0].command  # the recipe's own default


def test_a_trained_vae_and_a_trimmed_generator_take_their_places(tmp_path):
    options = options_of(tmp_path, "--vae", "any", "--trim", "2", "--arms", "trained")
    steps = {step.name: step for step in reproduce.steps(options, read_recipe(options.recipe))}
    names = ["simulator-rooms", "dit-trained", "read-trained", "study-rooms", "tower", "arms-trained", "tables"]
    assert list(steps) == names
    assert steps["dit-trained"].needs == ["simulator-rooms"] and steps["read-trained"].needs == ["dit-trained"]
    assert f"trained={steps['read-trained'].command[3]}" in steps["arms-trained"].command


def test_trained_generators_take_the_place_of_the_simulators_training_and_cards_share_the_arms(tmp_path):
    generators = ["--generator", "trained=a", "--generator", "twin=b"]
    options = options_of(tmp_path, "--cards", "2", *generators)
    steps = {step.name: step for step in reproduce.steps(options, read_recipe(options.recipe))}
    arms = ["arms-semantic-twin-pixels", "arms-trained-oracle"]
    assert list(steps) == ["study-rooms", "tower", *arms, "tables"]
    assert steps["study-rooms"].needs == [] and all(steps[arm].needs == ["tower"] for arm in arms)
    assert {"trained=a", "twin=b"} <= set(steps["tower"].command)
    two_each = options_of(tmp_path, "--cards", "2", "--trainings-per-card", "2", *generators)
    shared = [step.name for step in reproduce.steps(two_each, read_recipe(options.recipe)) if "arms" in step.name]
    assert shared == ["arms-semantic-pixels", "arms-trained", "arms-twin", "arms-oracle"]


@pytest.mark.parametrize("wrong", [["--tower", "nowhere"], ["--vae", "nowhere"], ["--generator", "trained=nowhere"]])
def test_what_is_trained_already_must_be_there(tmp_path, wrong, monkeypatch):
    configs = [str(CONFIGS / "smoke_generator.yaml"), str(CONFIGS / "smoke.yaml")]
    monkeypatch.setattr(sys, "argv", ["reproduce", *configs, "--output", str(tmp_path / "out"), *wrong])
    with pytest.raises(SystemExit, match=f"{wrong[0]}.*nowhere"):
        reproduce.main()
    assert not (tmp_path / "out").exists()


def test_runs_to_go_on_with_that_are_missing_are_told_before_rooms_are_made(tmp_path, monkeypatch):
    recipe = CONFIGS / "smoke_grounding.yaml"
    monkeypatch.setattr("sys.argv", ["study", str(recipe), "--output", str(tmp_path), "--stages", "rooms", "arms"])
    with pytest.raises(ValueError, match="smoke/arms/semantic/seed0 holds no finished training"):
        study.run(study.parse())
    assert not (tmp_path / "rooms").exists()


def test_settings_take_the_place_of_the_recipes(monkeypatch):
    words = ["study", str(CONFIGS / "grounding.yaml"), "--output", "nowhere", "--seeds", "2"]
    settings = ["rooms.train=7", "grounding.start=null", "training.steps=5"]
    monkeypatch.setattr("sys.argv", words + [word for setting in settings for word in ("--set", setting)])
    recipe = study.recipe_of(study.parse())
    assert (recipe.rooms.train, recipe.grounding.start, recipe.training.steps, recipe.seeds) == (7, None, 5, [2])
    monkeypatch.setattr("sys.argv", [*words, "--set", "rooms.trian=7"])
    with pytest.raises(ValueError, match=r"rooms\.trian"):
        study.recipe_of(study.parse())
