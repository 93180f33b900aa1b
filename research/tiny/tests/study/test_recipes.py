"""The programs around the experiment: what they run, and input that they refuse."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from research.tiny.study.schedule import Schedule

TINY = Path(__file__).parents[2]


def program(name: str):
    spec = importlib.util.spec_from_file_location(name, TINY / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    return module.parse()


@pytest.fixture(scope="module")
def reproduce():
    return program("reproduce")


@pytest.fixture(scope="module")
def experiment():
    return program("study/__main__")


@pytest.fixture(params=[("configs/generator.yaml", "results/gate3.yaml", "configs/experiment.yaml")])
def plan(request, reproduce, monkeypatch, tmp_path):
    recipes = [TINY / name for name in request.param]
    options = parsed(
        reproduce,
        monkeypatch,
        *recipes,
        "--output",
        tmp_path,
        "--gpus",
        "1",
        "0",
        "--workers",
        "7",
        "--checkpoint",
        "x",
    )
    return reproduce.Plan(options)


def test_all_stages_are_there_and_wait_for_the_right_ones(plan, tmp_path):
    tasks = Schedule(list(plan.tasks()), tmp_path / "tasks").tasks  # which checks names and needs

    assert tasks["dit"].needs == tasks["twin"].needs == ("vae", "frames")
    assert tasks["experiment-tokens"].needs == ("rooms", "experiment-tokens-train")
    assert tasks["experiment-streams-random"].needs == ("rooms", "stage0", "choice")
    assert tasks["experiment-semantic-0"].needs == ("experiment-tokens",)
    assert tasks["experiment-image_twin-4"].needs == ("experiment-tokens", "experiment-streams-image_twin")
    assert len(tasks["experiment-tables"].needs) == 4 * 5 and tasks["export"].needs == ("experiment-tables",)
    assert len(tasks["gate3-tables"].needs) == 3 * 2
    assert [name for name, task in tasks.items() if not task.load] == [
        "frames",
        "rooms",
        "analysis-validation",
        "analysis-train",
        "choice",
    ]


@pytest.mark.parametrize("plan", [("configs/smoke_generator.yaml", "configs/smoke.yaml")], indirect=True)
def test_arms_wait_for_a_base_if_there_is_one(plan, tmp_path):
    tasks = Schedule(list(plan.tasks()), tmp_path / "tasks").tasks
    assert tasks["smoke-base"].needs == ("smoke-tokens-train",)
    assert tasks["smoke-random-1"].needs == ("smoke-tokens", "smoke-base", "smoke-streams-random")


def test_the_vae_begins_when_its_first_rooms_are_there(plan, tmp_path):
    vae = next(task for task in plan.tasks() if task.name == "vae")
    folder = tmp_path / "world-simulator" / "frames" / "rooms"
    folder.mkdir(parents=True)
    needed = 16 + (24 + 400 // 4) // 4
    for number in range(needed):
        assert not vae.is_ready()
        (folder / f"{number}.npy").touch()
    assert vae.is_ready()


def test_each_arm_reads_the_cell_chosen_for_it(plan, experiment, monkeypatch, tmp_path):
    cells = {"own": (4, 300), "random": (1, 100), "image-twin": (3, 200), "vae": (None, None)}
    found = {name: {"block": block, "timestep": timestep} for name, (block, timestep) in cells.items()}
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "choice.json").write_text(json.dumps({"cells": found}))
    tasks = {task.name: task for task in plan.tasks()}
    line = tasks["experiment-random-2"].line()
    options = parsed(experiment, monkeypatch, *line[3:])
    recipe = experiment.recipe_of(options)

    read = {name: (arm.options.get("block"), arm.options.get("timestep")) for name, arm in recipe.arms.items()}

    assert read["trained"] == read["token_gated"] == read["frame"] == (4, 300)
    assert read["random"] == (1, 100) and read["image_twin"] == (3, 200)
    assert read["noise"] == (4, None) and read["vae"] == (None, None) and read["semantic"] == (None, None)
    assert options.arms == ["random"] and options.seeds == [2] and options.stages == ["arms"]
    assert recipe.generators["image_twin"] == str(tmp_path / "world-simulator" / "image-twin")


def test_an_output_of_other_recipes_is_refused(plan, reproduce):
    plan.claim()
    plan.claim()
    plan.options.set = ["dit.steps=7"]
    with pytest.raises(ValueError, match=r"dit.steps was \d+ and is 7"):
        reproduce.Plan(plan.options).claim()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cell", "nobody=1,2"], "--cell names nobody"),
        (["--cell", "trained=five"], "must give BLOCK,TIMESTEP"),
        (["--generator", "other=x"], "--generator names other"),
        (["--seeds", "9"], r"--seeds are \[9\], but the recipe has"),
    ],
)
def test_what_the_recipe_does_not_have_is_refused(experiment, monkeypatch, tmp_path, arguments, message):
    options = parsed(experiment, monkeypatch, TINY / "configs" / "experiment.yaml", "--output", tmp_path, *arguments)
    with pytest.raises(ValueError, match=message):
        experiment.recipe_of(options)


def test_results_are_collected_under_names_of_their_own(monkeypatch, tmp_path, capsys):
    collect = program("collect_results")
    run = tmp_path / "run"
    names = ("tasks/vae.json", "one/results.json", "two/gates/trained-0.png", "analysis/choice.json")
    for name in (*names, "one/arms/random/seed2/training.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    monkeypatch.setattr(sys, "argv", ["program", str(run), "--output", str(tmp_path / "kept")])
    collect.main()

    kept = {
        file.relative_to(tmp_path / "kept").as_posix(): file.read_text() for file in (tmp_path / "kept").rglob("*.*")
    }

    assert kept == {
        "tasks/vae.json": "tasks/vae.json",
        "one.json": "one/results.json",
        "arms/one/random-seed2.json": "one/arms/random/seed2/training.json",
        "gates_two_trained-0.png": "two/gates/trained-0.png",
        "choice.json": "analysis/choice.json",
    }

    monkeypatch.setattr(sys, "argv", ["program", str(tmp_path / "kept"), "--output", str(tmp_path / "x")])
    (tmp_path / "kept" / "tasks" / "vae.json").unlink()

    (tmp_path / "kept" / "tasks").rmdir()

    with pytest.raises(SystemExit):
        collect.main()
    assert "no folder of reproduce.py" in capsys.readouterr().err
