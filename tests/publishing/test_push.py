"""`vega3d push` against a stand-in Hub: what goes there, what does not, and that what comes back is the same."""

import contextlib
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, constants, parse_eval_result_entries
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from command_line import run
from evaluation.evaluation_data import question_records, question_rows, write_jsonl
from hub.hub_process import arrange, noted, serving, talk_to
from remote_process import run_without_package
from tiny_checkpoints import FROZEN, save_policy
from vega3d import VegaForActionPrediction, VegaForVisualGrounding
from vega3d.evaluation.answerers import ChanceAnswerer
from vega3d.evaluation.run import evaluate
from vega3d.hub.load import load_task, load_vega
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.publishing.content import model_content
from vega3d.publishing.push import Target, find_changes, push
from vega3d.rooms.dataset import DatasetSettings
from vega3d.shipped import example_clip, model_folder

LICENSE = ("--license", "apache-2.0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A model with its code, in several shards, as a user has it before a push."""
    folder = tmp_path_factory.mktemp("saved") / "mine"
    model, processor = load_vega(FROZEN, device="cpu")
    model.save_pretrained(folder, max_shard_size="100kB")
    processor.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


@pytest.fixture
def mine(saved, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "mine"))


@pytest.fixture
def root(tmp_path) -> Path:
    """Folder of a Hub's repositories."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def hub(root, tmp_path, monkeypatch):
    """The Hub, with a token that may write; its repositories lie in `root`."""
    with serving(root) as address:
        talk_to(address, tmp_path / "home", monkeypatch)
        yield address


def pushed(folder: Path | str, *options: str, repo: str = "org/mine") -> dict:
    result = run("push", folder, repo, *options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments) -> str:
    """The line that a command ends with."""
    result = run(*arguments)
    assert result.exit_code == 2, result.stdout
    [line] = [line for line in result.stderr.splitlines() if not line.startswith(("loading ", "pushing "))]
    return line


def written(root: Path) -> list[str]:
    return noted(root, "created.jsonl") + noted(root, "commits.jsonl")


# --- There and back --------------------------------------------------------------------------------------------------


def test_a_pushed_model_is_evaluated_as_the_local_one_and_its_card_says_so(hub, root, saved, tmp_path):
    rows = [row for row in question_rows(2) if row["question_type"] in ("object_counting", "object_rel_distance")]
    for row in rows:
        video = tmp_path / "data" / row["dataset"] / f"{row['scene_name']}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(example_clip("room"), video)
    write_jsonl(tmp_path / "data" / "test.jsonl", rows)
    asked = ["--data", tmp_path / "data", "--num-frames", "2", "--device", "cpu"]
    local, remote = tmp_path / "local.json", tmp_path / "remote.json"
    assert run("evaluate", saved, *asked, "--output", local).exit_code == 0

    options = ("--results", str(local), "--eval-dataset", "rooms=org/questions")
    values = pushed(saved, *LICENSE, *options, "--base-model", "Qwen/Qwen2.5-VL-7B-Instruct", "org/wan")
    again = run("evaluate", "org/mine", *asked, "--output", remote)

    assert again.exit_code == 0, again.stderr
    ours, theirs = (json.loads(file.read_text()) for file in (local, remote))
    assert ours["questions"] == theirs["questions"] and ours["summary"] == theirs["summary"]
    assert values["url"] == f"{hub}/org/mine" and len(values["added"]) == len(values["files"])
    figures = ours["summary"]["official"]["figures"]
    card = ModelCard.load("org/mine")
    assert card.data.base_model == ["Qwen/Qwen2.5-VL-7B-Instruct", "org/wan"] and card.data.license == "apache-2.0"
    [average, *others] = card.data.eval_results
    assert (
        average.metric_value == round(100 * figures["macro"]["score"], 2) and average.dataset_type == "org/questions"
    )
    assert average.metric_args["questions"] == len(rows) and len(others) == len(figures) - 1
    [entry] = parse_eval_result_entries(yaml.safe_load((root / "org/mine/.eval_results/rooms.yaml").read_text()))
    assert (entry.dataset_id, entry.value) == ("org/questions", average.metric_value)
    assert f"| macro | {len(rows)} |" in card.text and "--benchmark rooms --num-frames 2" in card.text
    assert "random" in card.text  # the model's own notice, among its limits


REMOTE = """
import sys, torch
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("org/mine", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("org/mine", trust_remote_code=True)
content = [{"type": "video", "video": sys.argv[1]}, {"type": "text", "text": "How many?"}]
inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,
    tokenize=True, return_dict=True, num_frames=4)
print(len(processor.decode(model.generate(**inputs, max_new_tokens=3)[0])))
torch.save(model(**inputs).logits, sys.argv[2])
"""


def test_transformers_alone_pull_it_and_give_the_same_logits(hub, saved, tmp_path):
    pushed(saved, *LICENSE)
    empty = tmp_path / "empty"
    empty.mkdir()
    model, processor = load_vega(saved, device="cpu")
    content = [{"type": "video", "video": str(example_clip("room"))}, {"type": "text", "text": "How many?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        num_frames=4,
    )
    expected = model(**inputs).logits

    online = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_read"}
    clip, logits = str(example_clip("room")), tmp_path / "logits.pt"
    run_without_package(REMOTE, empty, clip, str(logits), **online)

    assert torch.equal(torch.load(logits), expected)


@pytest.mark.parametrize("task", [VegaForActionPrediction, VegaForVisualGrounding])
def test_a_model_of_another_task_is_pushed_with_a_card_that_says_how_it_is_asked(hub, tmp_path, task):
    folder = tmp_path / "mine"
    if task is VegaForActionPrediction:
        save_policy(folder, ("front",), 2, 3)
    else:
        model, processor = load_vega(FROZEN, device="cpu")
        task.from_reasoning(model, processor.tokenizer).save_pretrained(folder)
        processor.save_pretrained(folder)

    pushed(folder, *LICENSE)

    card = ModelCard.load("org/mine")
    assert type(load_task(task, "org/mine", device="cpu")[0]) is task
    if task is VegaForVisualGrounding:
        assert "boxes in 3D" in card.text and 'vega3d ground kitchen "' in card.text
        return
    assert card.data.pipeline_tag == "robotics" and "vega3d act org/mine --replay" in card.text
    assert "cameras of toy, whose units" in card.text and "questions" not in card.text
    [asked] = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    asked = asked.replace(", trust_remote_code=True", "")  # that has a test of its own
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(asked, {"image_0": np.zeros((32, 32, 3), np.uint8), "state": [0.0, 0.0]})
    assert printed.getvalue().count("[") == 1 + load_vega(FROZEN, device="cpu")[0].config.action_chunk


def test_a_commit_is_pinned_and_what_was_pulled_once_needs_no_hub(hub, root, mine, monkeypatch):
    first = pushed(mine, *LICENSE)["commit"]
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps({**config, "notice": "the second"}))
    second = pushed(mine, *LICENSE, "--replace")
    assert second["replaced"] == ["README.md", "config.json"]

    for name, notice in ((f"org/mine@{first}", config["notice"]), ("org/mine", "the second")):
        assert load_vega(name, device="cpu")[0].config.notice == notice
    pinned = VegaForSpatialReasoning.from_pretrained("org/mine", revision=first)
    assert pinned.config.notice == config["notice"]
    assert "has no such revision" in refused("info", "org/mine@none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, notice in ((f"org/mine@{first}", config["notice"]), ("org/mine", "the second")):
        assert load_vega(name, device="cpu")[0].config.notice == notice
    assert "HF_HUB_OFFLINE" in refused("info", "org/other")


# --- When it breaks --------------------------------------------------------------------------------------------------


def test_a_push_that_the_hub_dies_in_goes_on_with_what_is_there(root, saved, tmp_path, monkeypatch):
    shard = hashlib.sha256(sorted(saved.glob("model-*.safetensors"))[0].read_bytes()).hexdigest()
    fault = {"path": shard, "method": "PUT", "cut": 10_000, "dies": True, "after": 1}
    arrange(root, lfs=True, faults=[fault])
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    with serving(root) as address:
        talk_to(address, tmp_path / "home", monkeypatch)
        assert "whole or not at all" in refused("push", saved, "org/mine", *LICENSE)
    before = noted(root, "put.txt")
    arrange(root, lfs=True)
    with serving(root) as address:
        talk_to(address, tmp_path / "home", monkeypatch)
        assert not noted(root, "commits.jsonl")
        pushed(saved, *LICENSE)
        assert not pushed(saved, *LICENSE)["added"]

    assert len(noted(root, "commits.jsonl")) == 1
    put = noted(root, "put.txt")
    assert before and set(before) < set(put) and len(put) == len(set(put))
    for file in saved.rglob("*.safetensors"):
        assert (root / "org" / "mine" / file.relative_to(saved)).read_bytes() == file.read_bytes()


def test_a_pull_that_the_hub_dies_in_loads_nothing_and_then_goes_on(root, saved, tmp_path, monkeypatch):
    shard = sorted(saved.glob("model-*.safetensors"))[-1]
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    with serving(root) as address:
        talk_to(address, tmp_path / "home", monkeypatch)
        pushed(saved, *LICENSE)
        arrange(root, faults=[{"path": shard.name, "method": "GET", "cut": 10_000, "dies": True}])
        assert "cannot be downloaded" in refused("info", "org/mine")
    [snapshot] = (tmp_path / "home").glob("hub/*/snapshots/*")
    arrived = [file.relative_to(snapshot) for file in snapshot.rglob("*") if file.is_file()]
    asked = noted(root, "asked.txt")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for load in (lambda: load_vega("org/mine"), lambda: VegaForSpatialReasoning.from_pretrained("org/mine")):
        with pytest.raises((ValueError, OSError)):
            load()
    arrange(root)
    with serving(root) as address:
        talk_to(address, tmp_path / "home", monkeypatch)
        model, _ = load_vega("org/mine", device="cpu")

    again = noted(root, "asked.txt")[len(asked) :]
    assert f"org/mine/{shard.name}" in again and arrived
    assert not {f"org/mine/{name}" for name in arrived} & set(again)
    for name, value in load_vega(saved, device="cpu")[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_a_repository_without_auto_map_loads_here_and_elsewhere_says_what_it_lacks(hub, root, mine, tmp_path):
    for name in ("config.json", "processor_config.json"):
        values = json.loads((mine / name).read_text())
        del values["auto_map"]
        (mine / name).write_text(json.dumps(values))
    for file in mine.glob("*.py"):
        file.unlink()
    shutil.copytree(mine, root / "org" / "bare")
    load_vega("org/bare", device="cpu")
    VegaForSpatialReasoning.from_pretrained("org/bare")

    asked = "from transformers import AutoModel\nAutoModel.from_pretrained('org/bare', trust_remote_code=True)"
    with pytest.raises(AssertionError, match="model type `vega3d` but Transformers does not recognize this"):
        run_without_package(asked, tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0", HF_TOKEN="hf_read")


def test_a_checkpoint_within_a_folder_is_found_there(hub, root, mine):
    """As the policies of LeRobot are, whose own config is beside it."""
    shutil.copytree(mine, root / "org" / "policy" / "inner")
    (root / "org" / "policy" / "config.json").write_text('{"type": "vega3d"}')
    for name in ("org/policy", root / "org" / "policy"):
        folder = model_folder(name, within="inner")
        assert list((folder / "inner").glob("model-*.safetensors"))
        assert json.loads((folder / "config.json").read_text()) == {"type": "vega3d"}
    with pytest.raises(ValueError, match="of the type None, not 'vega3d'"):
        model_folder("org/policy")
    with pytest.raises(ValueError, match=r"it has no other/config\.json"):
        model_folder(root / "org" / "policy", within="other")


def test_neither_another_kind_of_model_nor_a_pickle_is_downloaded(hub, root, mine):
    shutil.copytree(mine, root / "org" / "vlm")
    change(root / "org" / "vlm" / "config.json", model_type="qwen2_5_vl")
    (root / "org" / "none").mkdir()
    (root / "org" / "none" / "weights.safetensors").touch()
    shutil.copytree(mine, root / "org" / "mine")
    (root / "org" / "mine" / "training_args.bin").touch()

    other, none = (run("info", name) for name in ("org/vlm", "org/none"))

    assert "of the type 'qwen2_5_vl', not 'vega3d'. Make a fused model of it" in other.stderr.splitlines()[-1]
    assert "has no config.json" in none.stderr.splitlines()[-1] and other.exit_code == none.exit_code == 2
    assert set(noted(root, "asked.txt")) == {"org/vlm/config.json"}
    assert run("info", "org/mine").exit_code == 0
    assert "org/mine/training_args.bin" not in noted(root, "asked.txt")


def test_a_cut_connection_is_taken_up_again(hub, root, saved, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # so that a part of a small file counts
    pushed(saved, *LICENSE)
    shard = sorted(saved.glob("model-*.safetensors"))[0].name
    arrange(root, faults=[{"path": shard, "method": "GET", "cut": 1000, "times": 1}])

    assert run("info", "org/mine").exit_code == 0

    assert f"org/mine/{shard} 1000" in noted(root, "resumed.txt")


STATUS = {
    401: "The token is missing or not valid",
    403: "The token may not do this",
    404: "There is no such",
    429: "too many requests",
    500: "The Hub has a fault",
}


@pytest.mark.parametrize("status", STATUS)
def test_a_refusal_of_the_hub_is_one_line(hub, root, saved, status):
    (root / "org" / "there").mkdir(parents=True)
    for path in ("/api/models/", "/api/whoami-v2"):
        arrange(root, faults=[{"path": path, "method": "GET", "status": status}])
        if path == "/api/models/":
            assert STATUS[status] in refused("info", "org/there")
        if (path, status) != ("/api/models/", 404):  # a repository that is not there is made
            line = refused("push", saved, "org/there", *LICENSE)
            assert STATUS[status] in line or (path, status) == ("/api/models/", 401)
    assert not written(root)


def test_a_gated_model_says_so_until_access_is_given(hub, root, saved, monkeypatch):
    pushed(saved, *LICENSE)
    arrange(root, gated=["org/mine"])

    assert "It is gated. Ask for access" in refused("info", "org/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    assert run("info", "org/mine").exit_code == 0


@pytest.mark.parametrize("token", [None, "hf_read", "hf_expired"])
def test_a_token_that_may_not_write_is_told_before_anything_is_sent(hub, root, saved, monkeypatch, token):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)

    line = refused("push", saved, "org/mine", *LICENSE)

    assert "hf auth login" in line
    assert not written(root) and not (root / "org").exists()


# --- What is there ---------------------------------------------------------------------------------------------------


def test_nothing_is_replaced_or_removed_unasked(hub, root, mine):
    there = root / "org" / "mine"
    there.mkdir(parents=True)
    for name in ("README.md", "notes.txt", "model.safetensors"):
        (there / name).write_text(f"somebody's {name}")

    line = refused("push", mine, "org/mine", *LICENSE)
    assert "README.md, model.safetensors" in line and "--replace" in line
    assert not written(root)
    values = pushed(mine, *LICENSE, "--replace", "--message", "The second try")

    assert (values["replaced"], values["kept"]) == (["README.md"], ["notes.txt"])
    assert values["removed"] == ["model.safetensors"]  # it would be loaded in place of the shards
    assert (there / "notes.txt").read_text() == "somebody's notes.txt" and not (there / "model.safetensors").exists()
    [commit] = map(json.loads, noted(root, "commits.jsonl"))
    assert commit["summary"] == "The second try"
    load_vega("org/mine", device="cpu")


def test_a_pull_request_and_a_branch_leave_main_as_it_is(hub, root, mine):
    there = root / "org" / "mine"
    there.mkdir(parents=True)
    (there / "README.md").write_text("somebody's")

    proposed = pushed(mine, *LICENSE, "--create-pr")
    branched = pushed(mine, *LICENSE, "--revision", "tried")

    assert proposed["pull_request_url"] == f"{hub}/org/mine/discussions/1" and branched["pull_request_url"] is None
    assert [file.name for file in there.iterdir()] == ["README.md"]
    for revision in ("refs/pr/1", "tried"):
        names = {file.path for file in HfApi().list_repo_tree("org/mine", revision=revision)}
        assert "model.safetensors.index.json" in names
    assert "no model org/none" in refused("push", mine, "org/none", *LICENSE, "--create-pr")


def test_what_somebody_else_pushes_meanwhile_is_not_lost(hub, root, mine, saved):
    target = Target("org/mine")
    (root / "org" / "mine").mkdir(parents=True)
    content = model_content(mine, "org/mine", "mit")
    changes = find_changes(HfApi(), content, target)
    pushed(saved, *LICENSE)

    with pytest.raises(ValueError, match="Somebody has changed it meanwhile"):
        push(HfApi(), content, target, changes)

    assert len(noted(root, "commits.jsonl")) == 1


def test_a_new_repository_is_private_if_that_is_asked(hub, root, saved):
    pushed(saved, *LICENSE, "--private")

    [made] = map(json.loads, noted(root, "created.jsonl"))
    assert made.get("visibility") == "private" or made["private"] is True
    assert "public" in refused("push", saved, "org/mine", *LICENSE, "--private")


def test_a_repository_of_somebody_else(hub, root, saved):
    assert 'namespace "other"' in refused("push", saved, "other/mine", *LICENSE)
    assert not written(root)


# --- The folder ------------------------------------------------------------------------------------------------------


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_generator(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", generator_config={**config["generator_config"], **values})


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def drop_weight(folder: Path) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    weights = load_file(shard)
    weights.pop(next(iter(weights)))
    save_file(weights, shard)


BAD = {
    "a pickle": (lambda f: (f / "training_args.bin").write_bytes(b"x"), "training_args.bin is a pickle"),
    "a pickle of the generator": (lambda f: (f / "generator/vae/x.pt").write_bytes(b"x"), "x.pt is a pickle"),
    "no auto_map": (lambda f: change(f / "config.json", auto_map=None), "no auto_map of AutoConfig"),
    "no auto_map of the processor": (
        lambda f: change(f / "processor_config.json", auto_map={}),
        "no auto_map of AutoProcessor",
    ),
    "code of somebody": (
        lambda f: change(f / "processor_config.json", auto_map={"AutoProcessor": "evil.Class"}),
        "names the code evil.py",
    ),
    "code is missing": (lambda f: (f / "noise_vega3d.py").unlink(), "needs noise_vega3d.py"),
    "an unknown key": (lambda f: change(f / "config.json", fancy=1), "the key fancy, which nothing reads"),
    "an unknown key of the generator": (lambda f: change_generator(f, fancy=1), "the key generator_config.fancy"),
    "a generator elsewhere": (lambda f: change_generator(f, source="/some/where"), "on this machine"),
    "another kind of model": (lambda f: change(f / "config.json", model_type="llama"), "'llama'"),
    "a truncated shard": (lambda f: truncate(sorted(f.glob("model-*"))[1]), "cannot be read"),
    "a shard is missing": (lambda f: sorted(f.glob("model-*"))[1].unlink(), "lacks 1 of its"),
    "a weight is missing": (drop_weight, "lacks 1 weights"),
    "a truncated generator": (lambda f: truncate(next((f / "generator/vae").glob("*.safetensors"))), "cannot be read"),
    "no generator": (lambda f: shutil.rmtree(f / "generator"), "has no diffusion_pytorch_model.safetensors"),
    "no checkpoint": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "processor of"),
    "no card": (lambda f: (f / "README.md").write_text("---\nlicense: [\n---\n"), "README.md is no card"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_nobody_could_load_is_not_pushed(hub, root, mine, name):
    damage, words = BAD[name]
    damage(mine)

    assert words in refused("push", mine, "org/mine", *LICENSE)
    assert not written(root)


def test_results_are_those_of_this_model(hub, root, mine, tmp_path):
    records = question_records(2)
    evaluate(ChanceAnswerer(0), records, tmp_path / "chance.json", "vsibench", resamples=20)
    result = json.loads((tmp_path / "chance.json").read_text())
    config = json.loads((mine / "config.json").read_text())
    generator = config["generator_config"]
    own = {"fusion": config["fusion"], "block": generator["block"], "timestep": generator["timestep"], "seed": 0}
    for name, settings in {"own": {"kind": "model"}, "blind": {"kind": "blind"}, "block": {"block": 7}}.items():
        values = {**result, "settings": {**own, "name": "x", "kind": "model", **settings}}
        values["summary"]["official"]["figures"]["macro"]["score"] = 0.987  # which no answer bears out
        (tmp_path / f"{name}.json").write_text(json.dumps(values, indent=1))
    values.pop("missing_videos")
    (tmp_path / "cut.json").write_text(json.dumps({**values, "settings": {**own, "kind": "model"}}))
    line = ["push", mine, "org/mine", *LICENSE, "--results"]

    assert "baseline" in refused(*line, tmp_path / "blind.json")
    assert "block 7, not" in refused(*line, tmp_path / "block.json")
    assert "is no result" in refused(*line, tmp_path / "chance.json")
    assert "lacks what a result has" in refused(*line, tmp_path / "cut.json")
    assert "are both results of vsibench" in refused(*line, tmp_path / "own.json", tmp_path / "own.json")
    assert "There is no file" in refused(*line, tmp_path / "none.json")
    shutil.copyfile(tmp_path / "own.json", mine / "own.json")
    values = pushed(mine, *LICENSE)
    assert any(
        f"only {len(records)} questions were asked" in note for note in values["notes"]
    )  # a part of VSI-Bench is none
    assert not (root / "org/mine/.eval_results").exists() and values["left_out"] == ["own.json"]
    card = (root / "org/mine/README.md").read_text()
    assert f"### vsibench: {len(records)} questions" in card and "98.7" not in card


def test_a_dry_run_writes_the_card_and_keeps_an_edited_one(mine):
    first = pushed(mine, *LICENSE, "--dry-run")  # the client may not reach any Hub
    card = mine / "README.md"
    assert first["card"] == str(card) and "license: apache-2.0" in card.read_text()

    pushed(mine, "--license", "mit", "--dry-run")
    assert "license: mit" in card.read_text()
    card.write_text(card.read_text().replace("# mine", "# My very own"))
    edited = card.read_text()
    pushed(mine, "--license", "bsd-3-clause", "--dry-run")
    assert card.read_text() == edited
    content = model_content(mine, "org/mine", "bsd-3-clause").files["README.md"].decode()
    assert "# My very own" in content and "license: bsd-3-clause" in content
    assert model_content(mine, "org/mine").license == "mit"  # that of the user's card


def test_the_licence_is_chosen_by_the_user_or_by_all_pretrained_models(hub, saved):
    line = ["push", saved, "org/mine", "--dry-run", "--base-model", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]

    assert "Give --license" in refused("push", saved, "org/mine")
    assert "qwen-research" in refused(*line, "Qwen/Qwen2.5-VL-3B-Instruct")
    noted_license = model_content(saved, "org/mine", "mit", ["Qwen/Qwen2.5-VL-3B-Instruct"]).notes
    assert any("qwen-research" in note for note in noted_license)
    assert model_content(saved, "org/mine", None, [line[-1], "Qwen/Qwen3-VL-8B-Instruct"]).license == "apache-2.0"


# --- Data sets and Spaces --------------------------------------------------------------------------------------------


def test_a_data_set_of_rooms(hub, root, tmp_path):
    from vega3d.rooms.dataset.dataset import synthesize

    folder = tmp_path / "rooms"
    synthesize(folder, DatasetSettings("test", size=128, num_frames=2, questions_per_type=1), 1)
    values = pushed(folder, "--dataset", repo="org/rooms")

    there = root / "datasets" / "org" / "rooms"
    assert values["url"] == f"{hub}/datasets/org/rooms" and values["license"] == "apache-2.0"
    assert 'load_dataset("org/rooms"' in (there / "README.md").read_text()
    for file in folder.rglob("*.*"):
        if file.is_file() and file.name not in ("README.md", ".lock"):
            assert (there / file.relative_to(folder)).read_bytes() == file.read_bytes()
    truncate(next(folder.glob("rooms/*.mp4")))
    assert "is cut short" in refused("push", folder, "org/rooms", "--dataset")
    next(folder.glob("rooms/*.mp4")).unlink()
    assert "is not finished" in refused("push", folder, "org/rooms", "--dataset")
    assert "no data set of rooms" in refused("push", tmp_path, "org/rooms", "--dataset")


def test_a_space_of_a_pushed_model(hub, root, saved):
    assert "could not load org/mine" in refused("push", "org/mine", "org/demo", "--space")
    assert "Push the folder first" in refused("push", saved, "org/demo", "--space")
    pushed(saved, *LICENSE)
    values = pushed("org/mine", "--space", repo="org/demo")

    there = root / "spaces" / "org" / "demo"
    assert values["url"] == f"{hub}/spaces/org/demo"
    assert json.loads(noted(root, "created.jsonl")[-1])["sdk"] == "gradio"
    app = (there / "app.py").read_text()
    assert 'MODEL = "org/mine"' in app and "spaces.GPU" in app
    metadata = yaml.safe_load((there / "README.md").read_text().split("---")[1])
    assert metadata["models"] == ["org/mine"] and metadata["suggested_hardware"] == "zero-a10g"
    assert all("==" in line for line in (there / "requirements.txt").read_text().split())
    assert (there / "vega3d" / "demo" / "app.py").is_file() and not (there / "vega3d/assets/vega3d-tiny").exists()
    assert not (there / "vega3d/assets/vega3d-metaworld").exists()


def test_a_half_pulled_snapshot_is_none(hub, root, saved, tmp_path):
    """Whichever file is the last that came."""
    from huggingface_hub import snapshot_download

    pushed(saved, *LICENSE)
    arrange(root, faults=[{"path": "generator/", "method": "GET", "cut": 10}])
    with pytest.raises(Exception, match=r".*"):
        snapshot_download("org/mine")
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("org/mine", local_files_only=True)
