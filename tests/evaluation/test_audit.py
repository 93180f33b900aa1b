"""Audits: what each condition gives the model, runs that are killed and continued, verdicts, refusals, the page."""

import json
import os
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_data import question_records, question_rows, write_jsonl

from command_line import run
from tiny_checkpoints import FROZEN, copy_frozen, save_checkpoint
from vega3d.evaluation.audit import (
    AuditedScene,
    Auditor,
    audit,
    check_audit_folder,
    chosen_questions,
    features_of,
    noise_like,
    scene_of,
)
from vega3d.evaluation.audit_report import (
    CONDITIONS,
    FLAT,
    Condition,
    audit_page,
    audit_table,
    gate_sentences,
    headline,
    verdict,
)
from vega3d.evaluation.vsibench import load_vsibench
from vega3d.files import read_json
from vega3d.hub.load import load_vega
from vega3d.inference.answer import letter_probabilities
from vega3d.inference.session import Session
from vega3d.inference.streams import StreamSession
from vega3d.modeling.inputs_vega3d import unpacked_clips
from vega3d.processing.video_vega3d import read_video
from vega3d.statistics import Difference, Interval
from vega3d.video_files import write_video

FRAMES = 5
GENERATOR = [condition.name for condition in CONDITIONS if condition.of_generator][1:]
VOID = ("meta",)  # elements that are never closed
MARKS = ((2, 2, 20, 20), (30, 10, 46, 40), (4, 26, 20, 46))


def benchmark(folder: Path, scenes: int = 2, size: tuple[int, int] = (64, 64)) -> Path:
    """Two questions on each of some videos of random pixels, and one about boxes on the first."""
    rows = question_rows(scenes)
    random = np.random.default_rng(0)
    kept = [row for row in rows if row["question_type"] in ("route_planning", "object_counting")]
    for scene in dict.fromkeys((row["dataset"], row["scene_name"]) for row in rows):
        (folder / scene[0]).mkdir(parents=True, exist_ok=True)
        write_video(
            folder / scene[0] / f"{scene[1]}.mp4", random.integers(0, 256, (FRAMES, *size, 3), dtype=np.uint8), 4
        )
    boxes = {"question_type": "localisation_by_choice", "frame": 1, "marks": [list(mark) for mark in MARKS]}
    asked = {"question": "Which box is the bed?", "options": ["A. a", "B. b", "C. c"], "ground_truth": "B"}
    kept.append({**kept[0], **boxes, **asked, "id": "boxes"})
    write_jsonl(folder / "test.jsonl", kept)
    return folder


@pytest.fixture(scope="module")
def tiny():
    """The stored checkpoint in float32: its answers hang on the features by little more than bfloat16 rounds."""
    return load_vega(FROZEN, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def records(data):
    return load_vsibench(data)[0]


@pytest.fixture(scope="module")
def auditor(tiny) -> Auditor:
    return Auditor(StreamSession(*tiny), seed=0)


@pytest.fixture(scope="module")
def scene(auditor, records) -> AuditedScene:
    """The one with a question about boxes."""
    plan, _ = auditor.plan(chosen_questions(records, None, None, 0))
    return next(scene for scene in plan if any(question.marks for question in scene.questions))


@pytest.fixture(scope="module")
def part(auditor, scene) -> dict:
    return auditor.part(scene, lambda: None)


@pytest.fixture(scope="module")
def finished(tiny, records, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("audits") / "audit"
    return folder, audit(*tiny, records, folder, name="tiny <b>", resamples=50)


def own_inputs(processor, question) -> dict:
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "num_frames": FRAMES}
    return dict(processor.apply_chat_template(question.messages(), **options))


def bare_features(model, inputs: dict) -> torch.Tensor:
    """Computed from the pixels by the generator alone."""
    clips = unpacked_clips(inputs, model.config.generator_config.patch_size)
    return model.generator_module.encode(clips)[0]


@torch.no_grad()
def bare_letters(model, processor, question, features=None) -> dict[str, float]:
    """Probabilities of the letters by the processor and the model alone, with other features than the clip's own."""
    inputs = own_inputs(processor, question)
    if features is not None:
        inputs = {name: value for name, value in inputs.items() if name != "generator_pixel_values_videos"}
        inputs["generator_hidden_states"] = [features]
    return letter_probabilities(model(**inputs, logits_to_keep=1).logits[0, -1], question.letters, processor.tokenizer)


def plain_choice(scene: AuditedScene):
    return next(question for question in scene.questions if question.options and not question.marks)


def given(part: dict, condition: str, question) -> dict[str, float]:
    return part["answers"][condition][question.id][1]


def near(first: dict[str, float], second: dict[str, float]) -> bool:
    return first == pytest.approx(second, abs=1e-5)


def test_another_clip_gives_its_own_features(tiny, auditor, scene, part):
    model, processor = tiny
    question = plain_choice(scene)
    other = bare_features(model, own_inputs(processor, scene.other))

    features = auditor.changed(
        "other clip", torch.zeros(1), features_of(auditor.streams(auditor.plain_clip(scene.other))), ""
    )

    assert torch.equal(features, other)
    assert not torch.equal(features, bare_features(model, own_inputs(processor, question)))
    expected = bare_letters(model, processor, question, other)
    assert near(given(part, "other clip", question), expected)
    assert not near(bare_letters(model, processor, question), expected)


def test_as_it_is_and_without_are_the_answers_of_the_model(tiny, scene, part):
    model, processor = tiny
    question = plain_choice(scene)
    session = Session(model, processor)

    as_it_is, without = (session.answer(question, with_generator=which).options for which in (True, False))

    assert near(given(part, "as it is", question), as_it_is)
    assert near(given(part, "without", question), without)
    assert max(abs(as_it_is[letter] - without[letter]) for letter in as_it_is) > 1e-4
    assert part["token_change"]["as it is"] == 0 and part["token_change"]["without"] > 0.1


def test_the_fused_tokens_are_those_of_a_session_bit_by_bit(tiny, auditor, scene):
    question = plain_choice(scene)
    streams = auditor.streams(auditor.own_clip(question))

    fused, gates = auditor.session.fused(streams, streams.encoder["generator_hidden_states"][0], question)
    without, no_gates = auditor.session.fused(streams, None, question)
    expected = Session(*tiny).encode(question, with_semantic=True)

    assert torch.equal(fused.fused.pooler_output[0], expected.fused.pooler_output[0])
    assert torch.equal(gates, expected.gates) and no_gates is None
    assert torch.equal(without.fused.pooler_output[0], expected.semantic.pooler_output[0])


@pytest.mark.parametrize("slower", [1, 8])
def test_questions_about_one_clip_are_answered_as_in_a_batch(tiny, auditor, scene, slower):
    """Also where the frames of the clip are far apart in time."""
    clip = auditor.own_clip(plain_choice(scene))
    clip = replace(clip, seconds=clip.seconds * slower)
    questions = [replace(question, visual=clip) for question in scene.questions if not question.marks]
    questions.append(replace(plain_choice(scene), visual=clip, question="Where?", options=("left", "right")))
    streams = auditor.streams(clip)
    fused, _ = auditor.session.fused(streams, features_of(streams), questions[0])

    together = auditor.session.answer_about(fused, questions)

    for (text, letters), (expected, theirs) in zip(together, Session(*tiny).answer_batch(questions), strict=True):
        assert text == expected and (letters is theirs is None or near(letters, theirs))


def test_each_clip_is_encoded_once_for_all_conditions_that_keep_it(tiny, records):
    model = tiny[0]
    auditor = Auditor(StreamSession(*tiny), seed=0)
    plan, _ = auditor.plan(chosen_questions([one for one in records if not one.marks], None, None, 0))
    calls: list[str] = []
    modules = {"semantic": model.model.vlm.model.visual, "generator": model.generator_module.tower}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, module in modules.items()
    ]

    for scene in plan:
        auditor.part(scene, lambda: None)
    for hook in hooks:
        hook.remove()

    encoded = 2 * (1 + 2) + 1  # of each scene its clip, shuffled and repeated; and grey
    assert {name: calls.count(name) for name in modules} == dict.fromkeys(modules, encoded)


def test_semantic_tokens_of_another_clip_are_refused(auditor, scene):
    streams = auditor.streams(auditor.own_clip(scene.questions[0]))
    short = replace(streams.semantic, pooler_output=(streams.semantic.pooler_output[0][1:],))

    with pytest.raises(ValueError, match="semantic tokens given"):
        features = streams.encoder["generator_hidden_states"][0]
        auditor.session.fused(replace(streams, semantic=short), features, scene.questions[0])


def test_noise_has_the_moments_of_each_channel():
    features = torch.randn(4, 3, 2, 5) * torch.tensor([0.1, 1, 10, 1, 1]) + torch.arange(5)

    noise = noise_like(features, "0:scene")

    for moment in (torch.Tensor.mean, torch.Tensor.std):
        assert torch.allclose(moment(noise.flatten(0, 2), 0), moment(features.flatten(0, 2), 0), rtol=1e-4, atol=1e-5)
    correlation = np.corrcoef(noise[..., 1].flatten(), features[..., 1].flatten())[0, 1]
    assert abs(correlation) < 0.7 and torch.equal(noise, noise_like(features, "0:scene"))
    assert not torch.equal(noise, noise_like(features, "1:scene"))


def test_orders_leave_nothing_in_its_place(auditor):
    for length in (2, 3, 17):
        order = auditor.order(length, "scene")
        assert sorted(order) == list(range(length))
        assert all(place != moved for place, moved in enumerate(order))
    assert auditor.order(17, "scene") != auditor.order(17, "another")


def test_frames_of_each_condition(auditor, scene):
    clip = auditor.plain_clip(scene.questions[0])
    order = auditor.order(FRAMES, scene.name)

    shown = {condition.name: auditor.shown(condition.name, clip, scene.name) for condition in CONDITIONS}

    assert np.array_equal(shown["shuffled frames"].frames, clip.frames[order])
    assert all(np.array_equal(frame, clip.frames[2]) for frame in shown["repeated frame"].frames)
    assert np.ptp(shown["blind"].frames) == 0
    assert all(np.array_equal(one.seconds, clip.seconds) for one in shown.values())
    assert all(shown[name] is clip for name in ("as it is", *GENERATOR))
    features = torch.arange(FRAMES)[:, None, None, None]
    assert auditor.changed("shuffled features", features, features, scene.name).flatten().tolist() == order


def test_questions_about_boxes_see_the_boxes(tiny, scene, part):
    [boxes] = [question for question in scene.questions if question.marks]

    seen = Session(*tiny).answer(boxes).options

    assert near(given(part, "as it is", boxes), seen)
    assert not near(Session(*tiny).answer(replace(boxes, marks=(), frame=None)).options, seen)


@pytest.mark.parametrize(
    ("vlm", "fusion"),
    [("qwen2_5_vl", "instruction_gated"), ("qwen3_vl", "channel_gated"), ("qwen3_vl", "add")],
)
def test_every_fusion_and_vlm_is_audited_as_the_bare_model_answers(vlm, fusion, records, tmp_path):
    folder = save_checkpoint(tmp_path, vlm, fusion=fusion)
    model, processor = load_vega(folder, device="cpu")
    auditor = Auditor(StreamSession(model, processor, num_frames=FRAMES), seed=0)
    scene = auditor.plan(chosen_questions(records, None, None, 0))[0][0]
    question = plain_choice(scene)

    part = auditor.part(scene, lambda: None)

    assert given(part, "as it is", question) == pytest.approx(bare_letters(model, processor, question), abs=1e-5)
    noise = noise_like(bare_features(model, own_inputs(processor, question)), f"0:{scene.name}:noise")
    expected = bare_letters(model, processor, question, noise)
    assert given(part, "noise", question) == pytest.approx(expected, abs=1e-5)
    assert (part["gate"] is None) == (fusion == "add")


def test_an_audit_has_all_conditions_and_questions(finished, records):
    folder, result = finished
    assert sorted(os.listdir(folder)) == ["audit.html", "audit.json"]
    assert read_json(folder / "audit.json") == json.loads(json.dumps(result))
    assert {question["id"] for question in result["questions"]} == {record.id for record in records}
    assert all(question["answers"].keys() == result["conditions"].keys() for question in result["questions"])
    assert {one["scene"] for one in result["scenes"]} == {one["other"] for one in result["scenes"]}
    assert all(one["scene"] != one["other"] for one in result["scenes"])
    assert {one["verdict"] for name, one in result["conditions"].items() if name != "as it is"} == {"too few scenes"}
    assert "Too few scenes" in result["headline"] and "notice" in result["settings"]
    assert 0 < result["gate"]["lowest"] <= result["gate"]["mean"] <= result["gate"]["highest"] < 1
    lines = audit_table(result).splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in result["conditions"])


def test_r_of_zero_makes_no_difference_and_the_audit_says_so(records, tmp_path):
    model, processor = load_vega(FROZEN, device="cpu")
    model.model.fusion.residual_scale.data.zero_()

    result = audit(model, processor, records, tmp_path / "audit", name="closed", resamples=50)

    for name in GENERATOR:
        one = result["conditions"][name]
        assert one["verdict"] == "no difference at all"
        assert one["changed_answers"]["score"] == one["moved_probability"]["score"] == 0
        assert one["token_change"]["score"] == 0 and one["differences"]["macro"]["interval"]["score"] == 0
    assert result["conditions"]["blind"]["token_change"]["score"] > 0
    assert "has no effect on closed" in result["headline"]
    assert result["fusion_scalars"]["residual_scale"] == 0 and result["fusion_change"]["mean"] == 0


class StopError(Exception):
    """The end of a process in the middle of a scene."""


def test_a_killed_audit_continues_with_the_same_bytes(finished, tiny, records, tmp_path):
    folder = tmp_path / "audit"
    options = {"name": "tiny <b>", "resamples": 50}
    steps: list[int] = []

    def stop(done: int, wanted: int) -> None:
        steps.append(done)
        if len(steps) == 2 + 1 + 8 + 4:  # clips read, parts found, the first scene, half of the second
            raise StopError

    with pytest.raises(StopError):
        audit(*tiny, records, folder, on_progress=stop, **options)
    assert os.listdir(folder) == ["parts.jsonl"]
    with (folder / "parts.jsonl").open("ab") as file:
        file.write(b'{"answers": {"cut')
    (folder / ".audit.json-01234567.partial").write_text("half")
    again: list[int] = []
    result = audit(*tiny, records, folder, on_progress=lambda done, wanted: again.append(done), **options)

    assert again == [1] * 2 + [8] + [1] * 8 and sum(again) == 2 * (1 + 8)
    texts = [(place / "audit.json").read_text() for place in (folder, finished[0])]
    seconds = [f'"seconds": {one["seconds"]}' for one in (result, finished[1])]
    assert texts[0].replace(seconds[0], "") == texts[1].replace(seconds[1], "")

    assert audit(*tiny, records, folder, **options) == read_json(folder / "audit.json")
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        audit(*tiny, records, folder, seed=1, **options)


def test_parts_of_another_kind_are_refused(tiny, records, tmp_path):
    folder = tmp_path / "audit"
    steps: list[int] = []

    def stop(done: int, wanted: int) -> None:
        steps.append(done)
        if len(steps) == 2 + 1 + 8 + 1:
            raise StopError

    with pytest.raises(StopError):
        audit(*tiny, records, folder, on_progress=stop)
    parts = folder / "parts.jsonl"
    parts.write_text(parts.read_text().replace('"without": {', '"without": {"zzz": ["A", null], '))

    with pytest.raises(ValueError, match="has no answers of"):
        audit(*tiny, records, folder)


def test_questions_are_balanced_over_types_and_scenes_have_a_partner_of_their_grid(tiny, auditor, data, tmp_path):
    records = load_vsibench(data)[0]
    many = question_records(10)
    chosen = chosen_questions(many, None, 1, 0)
    assert sorted(question.question_type for [question] in chosen) == sorted({one.question_type for one in many})
    assert chosen != chosen_questions(many, None, 1, 1)
    assert [len(questions) for questions in chosen_questions(many, 4, 3, 0)] == [3] * 4

    wide = load_vsibench(benchmark(tmp_path / "wide", 4, (64, 96)))[0]
    wide = [replace(question, scene=f"wide-{question.scene}") for question in wide]
    plan, left_out = auditor.plan(chosen_questions([*records, *wide], None, 1, 0))
    assert len(plan) == 6 and left_out == []
    assert sorted(scene.name for scene in plan) == sorted(scene_of(scene.other) for scene in plan)
    assert all(("wide" in scene.name) == ("wide" in scene_of(scene.other)) for scene in plan)
    first = wide[0].scene
    plan, left_out = auditor.plan(
        chosen_questions([*records, *(one for one in wide if one.scene == first)], None, 1, 0)
    )
    assert len(plan) == 2 and left_out == [scene_of(wide[0])]


def difference(score: float, low: float | None, high: float | None, scenes: int = 30) -> Difference:
    return Difference(0.5, 0.5 + score, Interval(score, low, high), None, scenes)


@pytest.mark.parametrize(
    ("found", "same", "of_generator", "expected"),
    [
        (difference(-0.1, -0.2, -0.01), False, True, "the generator matters here"),
        (difference(-0.1, -0.2, -0.01), False, False, "the video matters here"),
        (difference(-0.1, -0.2, 0.0), False, True, "no measurable difference"),
        (difference(0.1, 0.02, 0.2), False, True, "better so"),
        (difference(-0.1, -0.2, -0.01, scenes=9), False, True, "too few scenes"),
        (difference(-0.1, None, None), False, True, "too few scenes"),
        (difference(0.0, None, None, scenes=2), True, True, "no difference at all"),
    ],
)
def test_verdicts(found, same, of_generator, expected):
    assert verdict(Condition("noise", "", of_generator), found, same)["verdict"] == expected


def test_headlines_rest_on_another_clip():
    def conditions(other: str, others: str) -> dict:
        words = dict.fromkeys(GENERATOR, others) | {"other clip": other}
        same = {"reason": "R.", "of_generator": True, "differences": {"macro": {}}}
        return {name: {**same, "verdict": word} for name, word in words.items()}

    matters, nothing = "the generator matters here", "no measurable difference"
    assert headline("M", conditions(matters, nothing)).startswith("The generator matters in M")
    assert "but not measurably on what it says" in headline("M", conditions(nothing, matters))
    assert headline("M", conditions(nothing, nothing)).startswith("No measurable effect")


def test_a_gate_that_is_one_number_is_called_one(finished):
    result = finished[1]
    flat = result["gate"] | {"lowest": 0.3, "highest": 0.3 + FLAT / 2, "mean": 0.305}
    assert "one number, 0.305" in gate_sentences({**result, "gate": flat})[1]
    assert "one number" not in gate_sentences({**result, "gate": flat | {"highest": 0.3 + 2 * FLAT}})[1]
    assert gate_sentences({**result, "gate": None})[1] == "It has no gate."


class Elements(HTMLParser):
    """Keeps all tags, checks that they are closed in order."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(finished):
    folder, result = finished
    page = (folder / "audit.html").read_text()
    elements = Elements()
    elements.feed(page)

    assert elements.open == [] and page == audit_page(result)
    assert "http" not in page and "src=" not in page and "url(" not in page and "<b>" not in page
    assert {"svg", "table", "style"} <= set(elements.seen) and elements.seen.count("rect") == len(CONDITIONS) - 1
    assert "prefers-color-scheme: dark" in page
    assert all(one["what"].replace("'", "&#x27;") in page for one in result["conditions"].values())


def test_the_command_prints_what_it_writes(data, tmp_path):
    options = ("--data", data, "--questions-per-scene", "1", "--device", "cpu")
    done = run("audit", FROZEN, *options, "--output", tmp_path / "audit", "--json")

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == read_json(tmp_path / "audit" / "audit.json")
    again = run("audit", "--model", FROZEN, *options, "--output", tmp_path / "audit")
    assert again.exit_code == 0 and "macro" in again.stdout and again.stdout.endswith("audit.html\n")


def test_what_cannot_be_audited_is_refused_in_one_line(data, tmp_path):
    plain = copy_frozen(tmp_path / "plain", fusion="none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "audit.html").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "audit.json").write_text('{"format": "mine"}')
    one = benchmark(tmp_path / "one", 1)
    for words, arguments in {
        "fusion='none'": (plain, "--data", data, "--output", tmp_path / "a"),
        "holds no audit": (FROZEN, "--data", data, "--output", tmp_path / "other"),
        "has the format 'mine'": (FROZEN, "--data", data, "--output", tmp_path / "mine"),
        "more scenes": (FROZEN, "--data", one, "--output", tmp_path / "a"),
        "--scenes": (FROZEN, "--data", data, "--output", tmp_path / "a", "--scenes", "1"),
        "one frame": (FROZEN, "--data", data, "--output", tmp_path / "a", "--num-frames", "1"),
    }.items():
        done = run("audit", *arguments)
        assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert words in done.stderr
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "other" / "audit.html").read_text() == "mine"
    check_audit_folder(tmp_path / "new")


def test_a_question_without_its_video_is_refused(tiny, records, tmp_path):
    with pytest.raises(ValueError, match="has no video"):
        audit(*tiny, [replace(records[0], visual=None), *records[1:]], tmp_path / "audit")
    assert not (tmp_path / "audit").exists()


def test_a_clip_is_read_with_the_sampling_of_the_session(auditor, scene):
    expected = read_video(scene.questions[0].visual, auditor.session.num_frames)
    assert np.array_equal(auditor.plain_clip(scene.questions[0]).frames, expected.frames)
