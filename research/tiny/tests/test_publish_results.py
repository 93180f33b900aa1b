"""`publish_results`: what is published says the same as what was kept, without paths, in few bytes."""

import importlib.util
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROGRAM = Path(__file__).parents[1] / "publish_results.py"


@pytest.fixture
def program():
    spec = importlib.util.spec_from_file_location("publish_results", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


@pytest.fixture
def published(program, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    (kept / "tasks").mkdir(parents=True)
    (kept / "tasks" / "vae.json").write_text('{"command": ["/machine/x"], "seconds": 3.0}')
    log = [{"step": step, "loss": 1 / 3} for step in range(400)] + [{"step": 400, "validation_loss": 2.0}]
    log[123]["validation_loss"] = 1.0
    (kept / "vae.json").write_text(json.dumps({"log": log, "psnr": 29.378019, "command": "/machine/x/vega3d"}))
    (kept / "arms" / "toy").mkdir(parents=True)
    for seed in range(2):
        gates = [{"step": step, "gate": 0.123456 + seed} for step in range(90)]
        arm = {"identity": {"vlm": "/machine/x"}, "log": gates}
        (kept / "arms" / "toy" / f"trained-seed{seed}.json").write_text(json.dumps(arm))
    questions = [
        {"question_type": "object_counting", "ground_truth": truth, "options": []} for truth in ("2", "2", "4")
    ]
    figures = {"object_counting": {"score": 0.75, "low": 0.5, "high": 1.0}}
    result = tmp_path / "trained-seed0.json"
    result.write_text(json.dumps({"summary": {"official": {"figures": figures}}, "questions": questions}))
    with tarfile.open(kept / "toy.tar.xz", "w:xz") as archive:
        archive.add(result, "results/test/trained-seed0.json")
    noise = np.random.default_rng(0).integers(0, 255, (100, 1200, 3), dtype=np.uint8)
    for name in ("gates_toy_trained-0", "gates_toy_random-0", "depth_generator"):
        Image.fromarray(noise).save(kept / f"{name}.png")
    monkeypatch.setattr(sys, "argv", ["program", str(kept), "--output", str(tmp_path / "published")])
    program.main()
    return tmp_path / "published"


def test_figures(published):
    values = json.loads((published / "vae.json").read_text())
    assert values["psnr"] == 29.38 and "command" not in values
    steps = [row["step"] for row in values["log"]]
    assert len(steps) < 50 and {0, 123, 400} <= set(steps)
    seeds = json.loads((published / "toy_seeds.json").read_text())["test"]
    assert seeds["trained-seed0"] == {"object_counting": 0.75}
    assert seeds["constant"]["object_counting"] == pytest.approx((1 + 1 + 0.1) / 3, abs=1e-3)
    assert json.loads((published / "seconds.json").read_text()) == {"vae": 3.0}
    assert not any("/machine" in file.read_text() for file in published.glob("*.json"))


def test_trainings_of_all_arms_are_one_file(published):
    logs = json.loads((published / "toy_log.json").read_text())
    assert set(logs) == {"trained-seed0", "trained-seed1"}
    assert logs["trained-seed1"][0] == {"step": 0, "gate": 1.123} and logs["trained-seed0"][-1]["step"] == 89
    assert len(logs["trained-seed0"]) < 60


def test_pictures(published):
    assert {file.name for file in published.iterdir() if file.suffix != ".json"} == {
        "gates_toy_trained-0.jpg",
        "depth_generator.png",
    }
    assert Image.open(published / "gates_toy_trained-0.jpg").width == 900


def test_another_folder_is_refused_before_anything_is_written(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", str(tmp_path / "none"), "--output", str(tmp_path / "published")])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert stopped.value.code == 2 and "is no folder of collect_results.py" in capsys.readouterr().err
    assert not (tmp_path / "published").exists()
