"""What visitors may ask, what they are told, and the page as programs use it."""

import inspect
import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import metadata as metadata_of
from importlib.resources import files
from pathlib import Path

import av
import gradio as gr
import numpy as np
import pytest
import yaml
from gradio_client import Client, handle_file
from packaging.specifiers import SpecifierSet

from tiny_checkpoints import FROZEN
from vega3d.demo.app import build, launch
from vega3d.demo.checks import MAX_CHARACTERS, MAX_SECONDS, make_question
from vega3d.demo.compare import Comparer, Comparison
from vega3d.demo.examples import CATEGORIES, COLUMNS, Scores, load_examples, read_scores, scores_text
from vega3d.demo.handlers import NO_ANSWER, Handlers, shown_errors
from vega3d.demo.panels import answer_panel, bars, outcome_panel, reading_panel, right_answer, scoreboard
from vega3d.hub.load import load_vega
from vega3d.inference.answer import Answer
from vega3d.inference.encoding import EncodedClip
from vega3d.inference.gate_figure import gate_overlays
from vega3d.inference.session import Session
from vega3d.shipped import example_clip

ROOM = str(example_clip("room"))
NOTICE = "Its answers mean nothing."
PROJECT = Path(__file__).parents[2]
GOOD_SCORES = {
    "rooms": 10, "questions": 20, "seeds": 1, "scores": {}, "difference": {"score": 0.1, "low": 0.0, "high": 0.2}
}  # fmt: skip
VISITOR = gr.Request(session_hash="visitor")
SPACE = Path(str(files("vega3d"))) / "demo" / "space"


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def long_video(path: Path) -> str:
    """Two frames, ten minutes apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for second in (0, 2 * MAX_SECONDS):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            frame.pts = second
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


BAD_REQUESTS = {
    "no video": (lambda tmp: (None, "Where?", "free text", []), "There is no video yet"),
    "another format": (
        lambda tmp: (write(tmp / "a.pdf", b"%PDF"), "Where?", "free text", []),
        "not in a video format",
    ),
    "removed": (lambda tmp: (str(tmp / "a.mp4"), "Where?", "free text", []), "no longer there"),
    "broken": (lambda tmp: (write(tmp / "a.mp4", b"no video"), "Where?", "free text", []), "not a video"),
    "cut off": (
        lambda tmp: (write(tmp / "a.mp4", Path(ROOM).read_bytes()[:99_000]), "Where?", "free text", []),
        "a.mp4",
    ),
    "too long": (lambda tmp: (long_video(tmp / "a.mp4"), "Where?", "free text", []), f"at most {MAX_SECONDS} s"),
    "no question": (lambda tmp: (ROOM, " \n", "free text", []), "The question is empty"),
    "long question": (lambda tmp: (ROOM, "?" * (MAX_CHARACTERS + 1), "free text", []), "1001 characters"),
    "one option": (lambda tmp: (ROOM, "Where?", "a choice", ["here"]), "there are 1"),
    "nine options": (lambda tmp: (ROOM, "Where?", "a choice", list("abcdefghi")), "there are 9"),
    "long option": (lambda tmp: (ROOM, "Where?", "a choice", ["a" * 201, "b"]), "201 characters"),
    "twice the same": (lambda tmp: (ROOM, "Where?", "a choice", ["a", "a"]), "are the same"),
    "null question": (lambda tmp: (ROOM, None, "free text", []), "must be text"),
    "half a character": (lambda tmp: (ROOM, "\ud800", "free text", []), "half of a character"),
    "an option that is a number": (lambda tmp: (ROOM, "Which?", "a choice", ["a", 5]), "must be text"),
    "another kind": (lambda tmp: (ROOM, "Where?", "an essay", []), "'an essay'"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_refused(tmp_path, case):
    make, message = BAD_REQUESTS[case]
    with pytest.raises(ValueError, match=message):
        make_question(*make(tmp_path))


def test_a_large_file_is_refused(tmp_path):
    video = tmp_path / "a.mp4"
    with video.open("wb") as file:
        file.truncate(101 * 2**20)
    with pytest.raises(ValueError, match=r"101\.0 MiB, but at most 100 MiB"):
        make_question(str(video), "Where?", "free text", [])


def test_a_good_request():
    number = make_question(ROOM, " How many? ", "a number", ["left over"])
    assert (number.question, number.options, number.is_numeric) == ("How many?", [], True)
    choice = make_question(ROOM, "Which?", "a choice", ["a", "b"])
    assert (choice.options, choice.is_numeric, choice.marks) == (["a", "b"], False, ())
    boxes = load_examples()["room"]["Which box"]
    marked = make_question(ROOM, boxes.question, "a choice", boxes.options, boxes)
    assert (marked.frame, marked.marks) == (boxes.frame, boxes.marks)


def test_examples_of_each_category():
    examples = load_examples()
    assert list(examples) == ["room", "study"]
    for by_category in examples.values():
        assert set(by_category) == set(CATEGORIES)
        for example in by_category.values():
            assert right_answer(example, example.question, example.options) is not None
            assert (example.marked_picture() is not None) == (example.category == "Which box")


ROW = {"model": 0.5, "off": 0.4, "constant": 0.3}
TRAINED = {"rooms": 9, "seeds": 3, "with": 0.6, "without": 0.5, "difference": GOOD_SCORES["difference"]}
ANSWERED = {"clip": "room", "category": "Order", "right": "A. a", "model": "A. a", "off": "B. b"}
BAD_SCORES = {
    "a list": "[]",
    "no rows": "{}",
    "a score of 5": json.dumps({**GOOD_SCORES, "scores": {"macro": dict.fromkeys(COLUMNS, 5)}}),
    "a score as text": json.dumps({**GOOD_SCORES, "scores": {"macro": dict.fromkeys(COLUMNS, "high")}}),
    "another column": json.dumps({**GOOD_SCORES, "scores": {"macro": {**ROW, "<b>": 0.5}}}),
    "rows of different columns": json.dumps({**GOOD_SCORES, "scores": {"macro": ROW, "route_planning": {"model": 1}}}),
    "no constant": json.dumps({**GOOD_SCORES, "scores": {"macro": {"model": 0.5}}}),
    "another category": json.dumps({**GOOD_SCORES, "scores": {"<b>": dict.fromkeys(COLUMNS, 0.5)}}),
    "rows that are a list": json.dumps({**GOOD_SCORES, "scores": []}),
    "no interval": json.dumps({**GOOD_SCORES, "difference": {}}),
    "a difference as text": json.dumps({**GOOD_SCORES, "difference": {"score": "<b>", "low": None, "high": None}}),
    "rooms as text": json.dumps({**GOOD_SCORES, "rooms": "<b>many</b>"}),
    "trained on many rooms": json.dumps({**GOOD_SCORES, "trained": {**TRAINED, "rooms": "many"}}),
    "trained without a score": json.dumps({**GOOD_SCORES, "trained": {"rooms": 9, "seeds": 3}}),
    "an example without scores": json.dumps({**GOOD_SCORES, "examples": [ANSWERED]}),
    "an example that is text": json.dumps({**GOOD_SCORES, "examples": ["room"]}),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_scores_of_another_shape_are_refused(tmp_path, case):
    (tmp_path / "scores.json").write_text(BAD_SCORES[case])

    with pytest.raises(ValueError, match=r"scores\.json"):
        read_scores(tmp_path)


def test_scores_are_shown_with_what_their_columns_are(tmp_path):
    earlier = {name: score for name, score in zip(COLUMNS, (0.5, None, 0.45, 0.4, 0.3), strict=True) if score}
    answered = {**ANSWERED, "scores": {"model": 1.0, "off": 0.0}}
    values = {"rooms": 10, "questions": 20, "difference": GOOD_SCORES["difference"]}

    def read(**more) -> Scores:
        (tmp_path / "scores.json").write_text(json.dumps({**values, **more}))
        return read_scores(tmp_path)

    of_trainings = scoreboard(read(scores={"macro": earlier}, seeds=3))
    one = read(scores={"macro": ROW}, trained=TRAINED, examples=[answered])

    assert "over 3 models each; the difference is +10.0 [0.0, 20.0] points" in of_trainings
    assert "switched off" not in of_trainings
    assert "<td>40.0</td>" in scoreboard(one) and "score 60.0 on 9 rooms" in scoreboard(one)
    assert "| macro | 50.0 | 40.0 | 30.0 |\n" in scores_text(one)
    assert "| room | Order | A. a | A. a (100.0) | B. b (0.0) |\n" in scores_text(one)


def test_a_model_without_scores_has_no_table(tmp_path):
    assert read_scores(tmp_path) is None
    assert read_scores("org/vega3d") is None


def test_the_right_answer_is_shown_for_the_unchanged_example_only():
    example = load_examples()["room"]["Which is closest"]
    right = example.options["ABCD".index(example.answer)]
    assert right_answer(example, example.question, example.options) == f"{example.answer}. {right}"
    assert right_answer(example, "Which is closest?", example.options) is None
    assert right_answer(example, example.question, example.options[::-1]) is None
    assert right_answer(None, example.question, example.options) is None


def test_text_of_models_and_visitors_is_escaped():
    evil, good = "<script>x</script>", "&lt;script&gt;"
    assert good in answer_panel("With", "fused", Answer(evil)) and "<script" not in answer_panel("", "", Answer(evil))
    assert good in bars({"A": 0.5, "B": 0.5}, [evil, "b"]) and "<script" not in bars({"A": 1.0}, [evil])
    clip = EncodedClip(kind="video", text="", language={}, seconds=[0.0])
    assert good in outcome_panel(Comparison(clip, 0.1, False), evil)
    assert "nothing but blank space" in answer_panel("", "", Answer("", seconds=1.0))
    with pytest.raises(gr.Error, match=good), shown_errors(None):
        raise ValueError(evil)


def test_what_is_no_number_is_said_to_be_none_and_shown_when_it_is_asked_for():
    babble = Answer("chair chair 3", seconds=1.0, reason="bed <i>")
    folded = "<summary>What the model wrote</summary>bed &lt;i&gt;. chair chair 3</details>"
    shown = answer_panel("Without", "semantic", babble, is_numeric=True)
    assert "No answer: no number." in shown and folded in shown
    assert "chair" not in shown.replace(folded, "") and "bed" not in shown.replace(folded, "")
    assert "chair" not in answer_panel("", "", Answer("chair chair"), is_numeric=True)  # is being made
    for panel in (answer_panel("", "", babble), answer_panel("", "", Answer("2.9 m", seconds=1.0), is_numeric=True)):
        assert "No answer" not in panel and "<details" not in panel
    assert "never trained on such tokens" in NO_ANSWER[1] and "never trained" not in NO_ANSWER[0]


def test_a_card_shows_no_text_in_the_place_of_a_number():
    row = {**ANSWERED, "category": "Distance", "right": "2.2", "model": "2.2", "off": "plant plant plant 2."}
    values = {**GOOD_SCORES, "examples": [{**row, "scores": {"model": 1.0, "off": 0.0}}]}
    assert "| room | Distance | 2.2 | 2.2 (100.0) | no number (0.0) |\n" in scores_text(Scores(**values))


def test_errors_name_no_folder_of_the_server(tmp_path):
    video = write(tmp_path / "a.mp4", b"no video")
    with pytest.raises(gr.Error) as caught, shown_errors(video):
        make_question(video, "Where?", "free text", [])
    assert "a.mp4 is not a video" in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_fault_of_the_server_is_logged_and_not_told(caplog):
    with pytest.raises(gr.Error) as caught, shown_errors(ROOM):
        raise RuntimeError("secret")
    assert "secret" not in caught.value.message
    assert "secret" in caplog.text


def test_gates_lie_over_their_frames():
    frames = np.zeros((3, 4, 6, 3), np.uint8)
    frames[2] = 255
    gates = np.zeros((2, 2, 3), np.float32)
    gates[0, 1, 2] = 1
    dark, light = gate_overlays(frames, gates)
    assert dark.shape == light.shape == (4, 6, 3)
    assert (dark[2:, 4:] == dark[2, 4]).all() and (dark[:2] == dark[0, 0]).all()
    assert dark[2, 4].tolist() > dark[0, 0].tolist()  # yellow is bright, violet is dark
    assert (light.astype(int) - dark)[0, 0] == pytest.approx(127, abs=1)  # half of the frame shows through


@pytest.fixture(scope="module")
def tiny():
    model, processor = load_vega(FROZEN, device="cpu")
    model.config.notice = NOTICE
    return model, processor


@pytest.fixture(scope="module")
def client(tiny):
    page = build(Comparer(Session(*tiny, num_frames=4)))
    address = launch(page, "127.0.0.1", None, block=False)
    yield Client(address, verbose=False)
    page.close()


def test_programs_get_both_answers(client, tiny):
    values = client.predict(handle_file(ROOM), "Which?", "a choice", "the bed\nthe lamp", api_name="/answer")
    asked = make_question(ROOM, "Which?", "a choice", ["the bed", "the lamp"])
    expected = Session(*tiny, num_frames=4).answer(asked)
    assert values["with_world_simulator"]["text"] == expected.text
    assert values["with_world_simulator"]["options"] == pytest.approx(expected.options, abs=1e-5)
    assert set(values["without"]["options"]) == {"A", "B"}
    assert values["frame_seconds"] == pytest.approx(expected.frame_seconds, abs=1e-3)
    assert np.array(values["gates"]).shape[0] == 2
    assert values["notice"].startswith(NOTICE) and "means nothing" in values["notice"]


def test_programs_get_the_examples_and_clear_errors(client):
    examples = client.predict(api_name="/examples")
    assert len(examples) == 2 * (len(CATEGORIES) - 1)  # all but the boxes
    first = next(example for example in examples if example["options"])
    answer = client.predict(
        handle_file(ROOM), first["question"], "a choice", "\n".join(first["options"]), api_name="/answer"
    )
    assert answer["notice"] == NOTICE
    with pytest.raises(Exception, match="The question is empty"):
        client.predict(handle_file(ROOM), "", "free text", "", api_name="/answer")
    assert client.predict(handle_file(ROOM), "How many?", "a number", "", api_name="/answer")["gates"]


def test_only_what_is_meant_for_programs_is_offered(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/answer", "/examples"}


def test_an_example_fills_the_form(tiny):
    handlers = Handlers(Comparer(Session(*tiny)), load_examples())
    example = handlers.examples["study"]["Which box"]
    video, room, question, kind, options, marked, kept, *rest = handlers.choose_category("Which box", "study", VISITOR)
    assert (video, room, question, kind) == (str(example.video), "study", example.question, "a choice")
    assert options["value"] == "box A\nbox B\nbox C\nbox D" and options["visible"]
    assert marked["visible"] and "data:image/webp" in marked["value"]
    assert kept == example
    assert marked_chips(handlers, rest) == ["Which box"]
    assert handlers.choose_category("Counting", None, VISITOR)[1] == "room"  # after an upload
    assert handlers.choose_room("study", VISITOR)[6].clip == "study"


def marked_chips(handlers: Handlers, updates: tuple | list) -> list[str]:
    """Names of the buttons that are marked, of the updates of all buttons and the panels."""
    chips = updates[: len(handlers.categories)]
    return [name for name, chip in zip(handlers.categories, chips, strict=True) if chip["variant"] == "primary"]


def test_what_belongs_to_the_last_video_goes_with_it(tiny, tmp_path):
    handlers = Handlers(Comparer(Session(*tiny, num_frames=2)), load_examples())
    *_, last = handlers.ask(ROOM, "Which?", "a choice", "this\nthat", None, VISITOR)
    broken = write(tmp_path / "broken.mp4", b"no video")

    states = handlers.check_upload(broken, VISITOR)
    room, marked, example, *rest = next(states)

    assert last[3] is not NO_ANSWER[3]
    assert (room, example, marked["visible"]) == (None, None, False)
    assert marked_chips(handlers, rest) == [] and tuple(rest[len(handlers.categories) :]) == NO_ANSWER
    with pytest.raises(gr.Error, match=r"broken\.mp4 is not a video"):
        next(states)
    for updates in (handlers.forget_example(VISITOR), handlers.choose_room("study", VISITOR)):
        assert tuple(updates[-5:]) == NO_ANSWER


def test_the_example_is_marked_as_long_as_it_stands_there(tiny):
    handlers = Handlers(Comparer(Session(*tiny)), load_examples())
    example = handlers.examples["room"]["Order"]
    options = "\n".join(example.options)

    def marked(*form: str) -> list[str]:
        return marked_chips(handlers, handlers.mark(*form, example))

    assert marked(example.question, "a choice", f" {options}\n") == ["Order"]
    assert marked(f"{example.question}?", "a choice", options) == []
    assert marked(example.question, "free text", options) == []
    assert marked(example.question, "a choice", "this\nthat") == []
    assert marked_chips(handlers, handlers.mark(example.question, "a choice", options, None)) == []


def test_a_question_that_it_was_not_trained_on_is_told_beside_the_answer(tiny):
    handlers = Handlers(Comparer(Session(*tiny, num_frames=2)), load_examples())

    *_, other = handlers.ask(ROOM, "Where is the bed?", "free text", "", None, VISITOR)
    *_, known = handlers.ask(ROOM, "How many picture(s) are in this room?", "a number", "", None, VISITOR)

    assert "Where is the bed, from the first frame?" in other[2] and "means nothing" in other[2]
    assert "means nothing" not in known[2] and NOTICE not in known[2]  # the page has it once


def test_the_range_of_the_maps_is_told(tiny):
    *_, state = Comparer(Session(*tiny, num_frames=4)).compare(make_question(ROOM, "Which?", "a choice", ["a", "b"]))
    gates = state.clip.gates

    panel = reading_panel(state.clip)

    assert f"{float(gates.min()):.2f} <span" in panel and f"</span> {float(gates.max()):.2f}</span>" in panel


def test_a_stop_ends_the_answer_of_its_own_visitor(tiny):
    handlers = Handlers(Comparer(Session(*tiny, num_frames=2)), load_examples())
    mine, other = (gr.Request(session_hash=name) for name in ("mine", "other"))

    def panels(stopped_by: gr.Request) -> list[tuple]:
        shown = []
        for state in handlers.ask(ROOM, "Where?", "free text", "", None, mine):
            shown.append(state)
            if len(shown) == 6:
                handlers.stop(stopped_by)
        return shown

    stopped = panels(mine)
    assert "Stopped" in stopped[-1][2] and len(stopped) == 7
    assert all("Stopped" in panel and "…" not in panel for panel in stopped[-1][:2])
    assert "2 frames, kept" in panels(other)[-1][2]


def test_the_space_is_the_same_page(tmp_path):
    """With the package beside `app.py`, as docs/demo.md says."""
    shutil.copytree(SPACE, tmp_path, dirs_exist_ok=True)
    names = runpy.run_path(str(tmp_path / "app.py"), run_name="space")
    assert isinstance(names["demo"], gr.Blocks)
    assert names["demo"].title == "VEGA-3D"


ON_ZEROGPU_PYTHON = ("3.10.13", "3.12.12")  # the only ones there, by huggingface.co/docs/hub/spaces-zerogpu


def test_the_space_needs_what_the_package_needs():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    plots = project["optional-dependencies"]["plots"]  # of the demo's extra; the Space brings its own Gradio
    pins = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines()[1:])
    needed = {re.split("[>=<]", wanted)[0] for wanted in (*project["dependencies"], *plots)} | {"spaces"}
    assert (SPACE / "requirements.txt").read_text().split() == [f"{name}=={pins[name]}" for name in sorted(needed)]
    metadata = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert metadata["python_version"] in ON_ZEROGPU_PYTHON
    for name in needed:
        assert SpecifierSet(metadata_of(name)["Requires-Python"] or "").contains(metadata["python_version"]), name
    assert metadata["sdk"] == "gradio" and metadata["sdk_version"].startswith("6.")
    assert f"gradio=={metadata['sdk_version']}" in (PROJECT / "constraints.txt").read_text()
    assert metadata["app_file"] == "app.py" and len(metadata["short_description"]) <= 60


class Elsewhere:
    """As `spaces.GPU` on ZeroGPU: arguments and results go to another process and back, so they are plain values."""

    def __init__(self):
        self.sent: list[bytes] = []

    def __call__(self, function):
        def results(*arguments):
            for value in function(*self.across(arguments)):
                yield self.across(value)

        def result(*arguments):
            return self.across(function(*self.across(arguments)))

        return results if inspect.isgeneratorfunction(function) else result

    def across(self, value):
        self.sent.append(pickle.dumps(value))
        assert b"torch" not in self.sent[-1] and b"gradio.route_utils" not in self.sent[-1]
        return pickle.loads(self.sent[-1])


def test_what_goes_to_the_gpu_of_a_space_are_plain_values(tiny):
    elsewhere, comparer = Elsewhere(), Comparer(Session(*tiny, num_frames=2))
    handlers, here = Handlers(comparer, load_examples(), elsewhere), Handlers(comparer, load_examples())
    asked = (ROOM, "Where?", "a choice", "here\nthere")

    shown = list(handlers.ask(*asked, None, VISITOR))

    assert len(shown) == len(list(here.ask(*asked, None, VISITOR))) and "there" in shown[-2][0] and elsewhere.sent
    remote, local = (one.answer(*asked)["with_world_simulator"] for one in (handlers, here))
    assert remote["options"] == local["options"]


ON_ZEROGPU = """
import runpy, sys
names = runpy.run_path(sys.argv[1], run_name="space")
from spaces.zero.decorator import decorated_cache
print(len({function.__qualname__ for function in decorated_cache}), names["session"].model.device)
"""


@pytest.mark.stress
def test_the_space_starts_as_on_zerogpu():
    """In its emulation of a GPU, which refuses what would begin CUDA before an answer has one."""
    pytest.importorskip("spaces")
    zero = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", ON_ZEROGPU, str(SPACE / "app.py")]
    done = subprocess.run(command, env={**os.environ, **zero}, capture_output=True, text=True, timeout=300)

    assert done.stdout.split() == ["2", "cuda:0"], done.stderr
