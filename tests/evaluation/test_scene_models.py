"""Models that answer about scans and rooms: boxes and texts, the aligned world, the command."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from scene_data import boxes_of, download, proposals_of, published_files, scan_names, scanrefer, write

from analysis.posed_clips import ROOM, room_clip, write_scannet
from command_line import run
from tiny_checkpoints import FROZEN
from vega3d import VegaForVisualGrounding
from vega3d.analysis.layouts import read_posed_video
from vega3d.evaluation.benchmarks import RoomsBenchmark
from vega3d.evaluation.rules import SCENE_RULES
from vega3d.evaluation.run import evaluate
from vega3d.evaluation.scenes import rooms as scene_rooms
from vega3d.evaluation.scenes.models import GroundingAnswerer, TextAnswerer
from vega3d.evaluation.scenes.readers import load_scenes
from vega3d.evaluation.scenes.records import GroundingRecord
from vega3d.evaluation.scenes.rooms import load_room_grounding
from vega3d.evaluation.scenes.tables import PROMPTS, ROOMS_GROUNDING
from vega3d.features.cache import FeatureCache
from vega3d.features.entries import list_entries, read_entry, write_entry
from vega3d.hub.assemble import add_grounding
from vega3d.hub.load import load_task, load_vega
from vega3d.modeling.grounding_prompts_vega3d import PROMPT
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import stored_rooms

SHIFT = 6.0  # [m] of the aligned world from the scan's own, along x
FRAMES = 3
SMALL_ROOMS = DatasetSettings(split="test", size=128, num_frames=5, questions_per_type=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return add_grounding(FROZEN, tmp_path_factory.mktemp("grounding") / "model", position_code="sin3d")


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_task(VegaForVisualGrounding, checkpoint, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two scans with questions about them; their boxes lie within 15 m."""
    folder = download(tmp_path_factory.mktemp("scenes"), scans=2)
    alignment = np.eye(4)
    alignment[0, 3] = SHIFT
    numbers = " ".join(map(str, alignment.ravel()))
    for number, name in enumerate(scan_names(2)):
        scan = write_scannet(folder / "scans" / name, room_clip(4 + number, 64, 64))
        (scan / f"{name}.txt").write_text(f"axisAlignment = {numbers}\n")
    return folder


def read(record):
    return read_posed_video(record.folder, FRAMES)


def same(first, second) -> bool:
    return np.allclose(first.boxes, second.boxes, atol=1e-4) and np.allclose(first.scores, second.scores, atol=1e-5)


@pytest.mark.parametrize("benchmark", ["scanrefer", "multi3drefer"])
def test_boxes_are_those_of_ground(benchmark, data, loaded):
    """In any order and batch; the scan is read once for all its questions."""
    model, processor = loaded
    records = load_scenes(benchmark, data)[0]
    scans: list[str] = []
    answerer = GroundingAnswerer(model, processor, "tiny", lambda one: scans.append(one.scan) or read(one))
    answers = answerer.answer(records)
    assert scans == scan_names(2)
    backwards = GroundingAnswerer(model, processor, "tiny", read).answer(records[::-1])[::-1]
    ranking = "scanrefer" if benchmark == "scanrefer" else "multi3drefer"
    for record, answer, other in zip(records, answers, backwards, strict=True):
        [found] = model.ground(processor, read(record), [record.expression], record.boxes, ranking, num_frames=FRAMES)
        assert same(answer, other)
        assert np.allclose(answer.boxes, np.reshape(found.boxes, (-1, 6)), atol=1e-4)
        assert all(np.abs(record.boxes - box).max(1).min() < 1e-4 for box in answer.boxes)
        assert len(answer.boxes) == 1 or benchmark == "multi3drefer"


def test_boxes_without_proposals_are_in_the_aligned_world_once(data, loaded):
    records = load_scenes("scanrefer", data, proposals="none")[0]
    answers = GroundingAnswerer(*loaded, "tiny", read).answer(records[:2])
    for answer in answers:
        [box] = answer.boxes
        assert SHIFT - 1 < box[0] < SHIFT + ROOM[0] + 1


@pytest.mark.parametrize("proposals", [None, "none"])
def test_features_on_disk_give_the_same_boxes(proposals, data, loaded, tmp_path):
    """But for their rounding to bf16; a hit gives what the miss gave, and is read from the disk."""
    records = load_scenes("multi3drefer", data, proposals=proposals)[0]
    plain = GroundingAnswerer(*loaded, "tiny", read)
    cached = GroundingAnswerer(*loaded, "tiny", read, FeatureCache(tmp_path))
    online, missed = plain.answer(records), cached.answer(records)
    assert cached.cache.stats()["entries"] == 2  # one for each scan
    assert cached.settings == plain.settings | {"cached_features": True}
    found = GroundingAnswerer(*loaded, "tiny", read, FeatureCache(tmp_path)).answer(records)
    for one, miss, hit in zip(online, missed, found, strict=True):
        np.testing.assert_allclose(miss.boxes, one.boxes, atol=1e-2)  # [m]
        np.testing.assert_allclose(miss.scores, one.scores, atol=1e-2)
        assert np.array_equal(miss.boxes, hit.boxes) and np.array_equal(miss.scores, hit.scores)

    for entry in list_entries(tmp_path):
        hidden = read_entry(entry.path, entry.path.stem)
        write_entry(entry.path, torch.zeros_like(hidden), {"key": entry.path.stem})
    spoiled = GroundingAnswerer(*loaded, "tiny", read, FeatureCache(tmp_path)).answer(records)
    assert not all(same(one, other) for one, other in zip(found, spoiled, strict=True))


def test_a_caption_is_of_the_point_in_its_prompt(data, loaded, checkpoint):
    model, processor = load_vega(checkpoint, device="cpu")
    records = load_scenes("scan2cap", data)[0]
    answers = TextAnswerer(model, processor, "tiny", read, FRAMES).answer(records)
    assert [bool(answer) for answer in answers] == [record.box is not None for record in records]
    [record] = [record for record in records if record.box is not None and record.scan == scan_names(1)[0]]
    messages = [{"role": "user", "content": [{"type": "video", "video": read(record)}]}]
    messages[0]["content"].append({"type": "text", "text": record.prompt})
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=FRAMES
    )
    for point, equal in ((record.box[:3], True), (record.box[:3] + np.array([5, 5, 3]), False)):
        points = torch.tensor(point[None], dtype=torch.float32)
        ids = model.generate(**inputs, coord_positions=points, max_new_tokens=128, do_sample=False)
        text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert (text == answers[records.index(record)]) == equal


def test_boxes_and_words_are_not_mixed_up(data, loaded):
    boxes, words = load_scenes("scanrefer", data)[0], load_scenes("sqa3d", data)[0]
    with pytest.raises(ValueError, match="asks for words"):
        GroundingAnswerer(*loaded, "tiny", read).answer(words[:1])
    with pytest.raises(ValueError, match="asks for boxes"):
        TextAnswerer(*loaded, "tiny", read, FRAMES).answer(boxes[:1])


@pytest.mark.parametrize("benchmark", ["multi3drefer", "sqa3d"])
def test_the_command_asks_a_model(benchmark, data, checkpoint, tmp_path):
    command = ["evaluate", checkpoint, "--benchmark", benchmark, "--data", data, "--num-frames", FRAMES]
    files = ["--output", tmp_path / "result.json", "--cache", tmp_path / "features"]
    done = run(*map(str, [*command, *files]), "--device", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    assert FeatureCache(tmp_path / "features").stats()["entries"] == 2
    values = json.loads(done.stdout)
    assert values["settings"]["cached_features"] is True
    assert values["num_questions"] == 6 and values["settings"]["num_frames"] == FRAMES
    assert values["settings"]["position_code"] == "sin3d"


def test_scans_that_a_model_cannot_use(checkpoint, tmp_path):
    data = download(tmp_path, scans=1)
    command = ["evaluate", checkpoint, "--benchmark", "scanrefer", "--data", data, "--device", "cpu"]
    assert "scene0000_00: no scan" in run(*command).stderr
    scan = write_scannet(data / "scans" / "scene0000_00", room_clip(4, 64, 64))
    assert "with the axis alignment of the scan, cannot be read" in run(*command).stderr
    (scan / "scene0000_00.txt").write_text("colorHeight = 64\n")
    np.savetxt(scan / "pose" / "1.txt", np.full((4, 4), -np.inf))
    lost = run(*command)
    assert lost.exit_code == 2 and "Leave these frames out with --skip-lost" in lost.stderr
    assert run(*command, "--skip-lost", "--limit", "2").exit_code == 0


ODD = [
    ("scanrefer", "an empty sentence", "Question 0: The expression is '', but must be a sentence"),
    ("scanrefer", "a token", "Question 0: The expression 'The <ground> thing' holds the special token <ground>"),
    ("scanrefer", "a far proposal", "Question 4: proposals of scene0001_00: box 2, .* outside the scene"),
    ("scan2cap", "a far object", "Question 4: what is described in scene0001_00: box 0, .* outside the scene"),
]


@pytest.mark.parametrize(("benchmark", "what", "message"), ODD)
def test_what_a_model_would_refuse_is_refused_before_its_weights_are_read(
    benchmark, what, message, checkpoint, data, tmp_path
):
    model, folder = shutil.copytree(checkpoint, tmp_path / "model"), shutil.copytree(data, tmp_path / "data")
    (model / "model.safetensors").write_bytes(b"no weights")
    rows, boxes, objects = scanrefer(2), proposals_of(2), boxes_of(2)
    if what == "a far proposal":
        boxes["scannet/scene0001_00"][2][0] = 99.0
    elif what == "a far object":
        for known in (boxes["scannet/scene0001_00"][1], objects["scannet/scene0001_00"][0]):
            known[0] = 99.0
    else:
        rows[0]["description"] = "" if what == "an empty sentence" else "the <ground> thing"
    write(folder / "ScanRefer_filtered_val.json", rows)
    write(folder / "proposals.json", boxes)
    write(folder / "objects.json", objects)
    done = run("evaluate", model, "--benchmark", benchmark, "--data", folder, "--output", tmp_path / "o.json")
    assert done.exit_code == 2 and re.search(message, done.stderr), done.stderr


def test_published_rows_give_the_same_answers(data, loaded, tmp_path):
    rows = published_files(tmp_path, scans=2)
    (rows / "scans").symlink_to(data / "scans")
    ours, theirs = (load_scenes("scanrefer", folder)[0][:2] for folder in (data, rows))
    answerer = GroundingAnswerer(*loaded, "tiny", read)
    for first, second in zip(answerer.answer(ours), answerer.answer(theirs), strict=True):
        assert same(first, second)


# --- Rooms ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def rooms(home) -> Path:
    """Two rooms, where the benchmark would store them."""
    with stored_rooms(SMALL_ROOMS, 2, cache=home / "vega3d" / "rooms") as table:
        return table.parent


@pytest.mark.parametrize(("proposals", "least"), [("true", 1.0), ("detected", 0.5), ("none", 1.0)])
def test_the_oracle_in_rooms(rooms, proposals, least):
    done = run(
        *("evaluate", "--benchmark", "rooms-grounding", "--data", rooms, "--baseline", "oracle"),
        *("--proposals", proposals, "--json"),
    )
    assert done.exit_code == 0, done.stderr
    score = json.loads(done.stdout)["summary"]["f1@0.25"]["figures"]["overall"]["score"]
    assert score == 1.0 if least == 1.0 else least < score <= 1.0


@pytest.mark.parametrize("baseline", ["chance", "blind"])
def test_baselines_in_rooms_are_far_below(rooms, baseline):
    done = run("evaluate", "--benchmark", "rooms-grounding", "--data", rooms, "--baseline", baseline, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["f1@0.25"]["figures"]["overall"]["score"] < 0.4


def test_a_model_in_rooms(rooms, checkpoint, tmp_path):
    output = tmp_path / "result.json"
    command = ["evaluate", checkpoint, "--benchmark", "rooms-grounding", "--data", rooms, "--limit", "7"]
    done = run(*command, "--device", "cpu", "--output", output)
    assert done.exit_code == 0, done.stderr
    result = json.loads(output.read_text())
    questions, kinds = result["questions"], {question["question_type"] for question in result["questions"]}
    assert len(questions) == 7 and len(kinds) >= 3
    for question in questions:
        if question["question_type"] in ("unique", "multiple"):
            assert len(question["answer"]["boxes"]) == 1 and "iou" in question
    whole = {name for name, members in SCENE_RULES[ROOMS_GROUNDING].rows.items() if kinds.issuperset(members)}
    assert result["summary"]["f1@0.5"]["figures"].keys() == whole | {"overall"}
    assert PROMPTS[ROOMS_GROUNDING].format("x") == PROMPT.format(expression="x")


def test_rooms_come_from_the_store_if_none_are_given(rooms, home, monkeypatch):
    monkeypatch.setattr(scene_rooms, "ROOMS", RoomsBenchmark(SMALL_ROOMS, 2))
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    progress: list[tuple[int, int]] = []
    records = load_room_grounding(limit=3, on_progress=lambda *done: progress.append(done))
    whole = load_room_grounding(rooms)
    assert progress == [(1, 2)] * 2 and len(records) == 3
    assert {record.folder for record in records} == {rooms}
    assert {record.id for record in records} < {record.id for record in whole}
    assert [record.id for record in load_room_grounding()] == [record.id for record in whole]


def test_one_box_counts_where_one_is_meant():
    """Further boxes would raise the recall, and lower the precision, of what asks for one."""
    boxes = np.array([[0.0, 0, 0, 1, 1, 1], [5.0, 0, 0, 1, 1, 1]])

    class Both:
        settings = {"name": "both"}  # noqa: RUF012

        def answer(self, records):
            from vega3d.evaluation.scenes.records import ChosenBoxes

            return [ChosenBoxes(boxes, [1.0, 0.5]) for _ in records]

    records = [
        GroundingRecord(id=kind, scene="s", kind=kind, prompt="it", expression="it", boxes=boxes, targets=boxes[:1])
        for kind in ("unique", "st_w_d")
    ]
    scores = [q["scores"]["f1@0.5"] for q in evaluate(Both(), records, benchmark=ROOMS_GROUNDING)["questions"]]
    assert scores == [1.0, pytest.approx(2 / 3)]


def test_rooms_that_are_none(rooms, tmp_path):
    write(tmp_path / "settings.json", {})
    with pytest.raises(ValueError, match="names no split"):
        load_room_grounding(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file.*vega3d synthesize|cannot be read.*vega3d synthesize"):
        load_room_grounding(tmp_path / "none")
    record = load_room_grounding(rooms)[0]
    assert record.scene == record.scan.rpartition("_")[0] and record.order == (record.scan,)
    (rooms / "rooms" / f"{record.scan}.mp4").rename(tmp_path / "kept.mp4")
    with pytest.raises(ValueError, match=f"have no video, the first is {record.scan}"):
        load_room_grounding(rooms)
    assert load_room_grounding(rooms, needs_videos=False)
    (tmp_path / "kept.mp4").rename(rooms / "rooms" / f"{record.scan}.mp4")
