"""The real lmms-eval runs the model, on the task of docs/evaluation.md; by `make test-lmms-eval`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.clips_benchmark import clips_benchmark
from tiny_checkpoints import FROZEN
from vega3d.evaluation.answerers import ModelAnswerer
from vega3d.evaluation.benchmarks import load_benchmark
from vega3d.evaluation.run import evaluate
from vega3d.hub.load import load_vega

pytest.importorskip("lmms_eval", reason="`make test-lmms-eval` installs lmms-eval")
PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def task_folder(folder: Path) -> Path:
    """The shipped clip `room` with its questions, and the two files of the task as the docs have them."""
    text = PAGE.read_text()
    for name, language in (("my_rooms.yaml", "yaml"), ("my_rooms_task.py", "python")):
        [block] = re.findall(rf"^`{name}`:\n\n```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        (folder / name).write_text(block)
    return clips_benchmark(folder, clips=("room",))


def lmms_eval(folder: Path, model: str) -> tuple[subprocess.CompletedProcess, Path]:
    output = folder / "out"
    command = [sys.executable, "-m", "lmms_eval", "--model", "vega3d", "--model_args", model, "--tasks", "my_rooms"]
    command += ["--include_path", ".", "--batch_size", "4", "--output_path", str(output), "--log_samples"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500), output


def test_answers_and_scores_are_those_of_vega3d_evaluate(tmp_path):
    folder = task_folder(tmp_path)

    done, output = lmms_eval(folder, "pretrained=vega3d-tiny,device=cpu")

    assert done.returncode == 0, done.stderr[-3000:]
    [results] = output.rglob("*_results.json")
    [samples] = output.rglob("*_samples_my_rooms.jsonl")
    records, _ = load_benchmark("rooms", folder)
    ours = evaluate(ModelAnswerer(*load_vega("vega3d-tiny", device="cpu"), "vega3d-tiny"), records, batch_size=4)
    theirs = json.loads(results.read_text())["results"]["my_rooms"]["vsibench_overall,none"]
    said = {row["doc_id"]: row["filtered_resps"] for row in map(json.loads, samples.read_text().splitlines())}
    assert said == {int(question["id"]): question["answer"] for question in ours["questions"]}
    assert theirs == pytest.approx(ours["summary"]["lmms_eval"]["figures"]["macro"]["score"], abs=1e-6)
    assert 0 < theirs < 1


def test_what_a_task_may_not_ask_is_refused(tmp_path):
    folder = task_folder(tmp_path)
    task = folder / "my_rooms.yaml"
    task.write_text(task.read_text().replace("temperature: 0", "temperature: 0.7"))

    done, _ = lmms_eval(folder, f"pretrained={FROZEN},device=cpu")

    assert (
        "Task my_rooms, row 0: its generation_kwargs have temperature=0.7, but vega3d answers greedily" in done.stderr
    )
