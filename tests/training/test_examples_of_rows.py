import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from training_data import write_jsonl

from vega3d.extras import MissingExtraError
from vega3d.questions import SpatialQuestion
from vega3d.training import DataSource, load_examples
from vega3d.training.data import (
    ExampleDataset,
    MarkedVideo,
    as_datasets,
    fingerprint,
    stream_examples,
    training_example,
)

ASK = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Where?"}]}
SAY = {"role": "assistant", "content": "here"}
PLAIN = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Where?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "here"}]},
]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, SAY], "videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "<video>Where?"}, SAY], "videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "Where?"}, SAY], "videos": ["a.mp4"], "images": None},
        {"messages": [{**ASK, "content": [{"type": "video", "path": "a.mp4", "text": None}, ASK["content"][1]]}, SAY]},
        {
            "messages": [{**ASK, "content": [{"type": "video", "video": "a.mp4"}, ASK["content"][1]]}, SAY],
            "videos": [],
        },
        {"messages": [ASK, SAY], "videos": [{"path": "a.mp4", "bytes": None}]},
    ],
)
def test_ways_to_write_one_row(row):
    example = training_example(row, "1", Path("folder"))
    assert example.messages == PLAIN
    assert example.videos == [Path("folder/a.mp4")]
    assert example.images == []


def test_media_are_given_out_in_order():
    content = [{"type": "image"}, {"type": "video"}, {"type": "image", "image": "own.png"}, {"type": "image"}]
    row = {"messages": [{"role": "user", "content": content}, SAY], "videos": ["v.mp4"], "images": ["1.png", "2.png"]}
    example = training_example(row, "1")
    assert (example.images, example.videos) == (["1.png", "own.png", "2.png"], ["v.mp4"])


def test_a_question_becomes_its_prompt_and_answer():
    question = SpatialQuestion("a.mp4", "Which?", ("bed", "lamp"), answer="B", frame=1, marks=((0, 0, 4, 4),))
    example = training_example(question, "7")
    assert example.messages[0]["content"] == [{"type": "video"}, {"type": "text", "text": question.prompt}]
    assert example.messages[1]["content"] == [{"type": "text", "text": "B"}]
    assert example.videos == [MarkedVideo("a.mp4", 1, ((0, 0, 4, 4),))]
    assert example.media_files() == [Path("a.mp4")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "Row 7 cannot be trained on: it has no `messages`; its columns are"),
        ({"messages": [ASK, SAY]}, "more placeholders of type 'video' than videos"),
        ({"messages": [ASK, SAY], "videos": ["a", "b"]}, r"1 video\(s\) more than placeholders"),
        ({"messages": [ASK], "videos": ["a"]}, "no message of the assistant"),
        ({"messages": [ASK, {**SAY, "content": " "}], "videos": ["a"]}, "answer of the assistant is empty"),
        ({"id": "mine", "messages": [{**ASK, "role": "bot"}]}, "Row mine cannot be trained on: .* role 'bot'"),
        ({"messages": [{**ASK, "content": [{"type": "audio"}]}, SAY]}, "a part of a message is"),
        ({"messages": [ASK, SAY], "videos": [{"bytes": b"1", "path": None}]}, "bytes without a path"),
        ({"messages": [SAY], "videos": ["a"]}, "no message of the user"),
        (SpatialQuestion("a.mp4", "Where?"), "no `answer`"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        training_example(row, "7")


def test_files_of_either_kind_give_the_same_rows(talk, tmp_path):
    rows = [json.loads(line) for line in talk.read_text().splitlines()]
    for row in rows:  # a column of a table has one type
        for message in row["messages"]:
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
    table = talk.with_name("talk.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)

    first, second = (load_examples([DataSource(str(path))]) for path in (talk, table))

    assert [example.id for example in first] == [f"row{number}" for number in range(12)]
    assert first.examples == second.examples
    assert fingerprint(first) == fingerprint(second)

    streamed = stream_examples([DataSource(str(table))], seed=0, shuffle_buffer=1)
    assert [training_example(row, "") for row in streamed] == first.examples
    assert [training_example(row, "") for row in as_datasets(first)] == first.examples


def test_the_order_of_names_in_a_part_changes_nothing():
    turned = {**ASK, "content": [dict(reversed(part.items())) for part in ASK["content"]]}
    assert str(turned) != str(ASK)

    first, second = (
        ExampleDataset([training_example({"messages": [message, SAY], "videos": ["a.mp4"]}, "1")])
        for message in (ASK, turned)
    )

    assert fingerprint(first) == fingerprint(second)


def test_rooms_and_messages_may_be_mixed(rooms, talk):
    examples = load_examples([DataSource(str(rooms)), DataSource(str(talk))]).examples
    assert examples[0].id == "rooms/0" and examples[-1].id == "row11"
    assert examples[0].media_files()[0].parent == rooms / "rooms"


def test_missing_videos_are_found_before_training(talk):
    rows = [json.loads(line) for line in talk.read_text().splitlines()]
    for number in (2, 5):
        rows[number]["videos"] = [f"gone{number}.mp4"]
    path = write_jsonl(talk.with_name("holes.jsonl"), rows)
    with pytest.raises(
        ValueError, match=r"2 videos .* rows row2 \(.*gone2.mp4\), row5 \(.*gone5.mp4\). .* nothing takes"
    ):
        load_examples([DataSource(str(path))])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.jsonl", None, "There is no data"),
        ("bad.jsonl", '{"messages"\n', "line 1, is no JSON"),
        ("list.jsonl", "[1]\n", "is no object"),
        ("empty.jsonl", "", "There are no rows"),
        ("bad.parquet", "nonsense", "cannot be read"),
        ("table.csv", "a,b", "no file of rows"),
    ],
)
def test_files_that_are_no_data(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_examples([DataSource(str(tmp_path / name))])


def test_a_folder_without_rooms_and_a_stream_of_rooms(tmp_path, rooms):
    with pytest.raises(ValueError, match=r"has no train.parquet: it is no folder of rooms"):
        load_examples([DataSource(str(tmp_path))])
    with pytest.raises(ValueError, match="A stream reads one file"):
        stream_examples([DataSource(str(rooms))], 0, 1)


def test_streams_say_what_to_install(talk, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(MissingExtraError, match=r"needs the package datasets.* pip install 'vega3d\[train\]'"):
        stream_examples([DataSource(str(talk))], 0, 1)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (None, "null, but must have `messages`"),
        ([1], "must have `messages`"),
        ({"messages": "Where?"}, "no `messages`"),
        ({"messages": {"role": "user"}}, "no `messages`"),
        ({"messages": [5, SAY]}, "a message is int '5'"),
        ({"messages": [None, SAY]}, "a message is null"),
        ({"messages": ["Where?", SAY]}, "a message is str 'Where?'"),
        ({"messages": [{"role": "user", "content": 5}, SAY]}, "content of a message is int"),
        ({"messages": [{"role": "user", "content": True}, SAY]}, "content of a message is bool"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}, SAY]}, "content of a message is dict"),
        ({"messages": [{"role": "user", "content": [5]}, SAY]}, "a part of a message is int"),
        ({"messages": [{"role": "user", "content": ["Where?"]}, SAY]}, "a part of a message is str"),
        ({"messages": [{"role": "user", "content": [None]}, SAY]}, "a part of a message is null"),
        ({"messages": [{"role": ["user"], "content": "Where?"}, SAY]}, "role"),
        ({"messages": [ASK, SAY], "videos": 5}, "`videos` are int '5', but must be a list"),
        ({"messages": [ASK, SAY], "videos": "a.mp4"}, "`videos` are str 'a.mp4', but must be a list"),
        ({"messages": [ASK, SAY], "videos": {"path": "a.mp4"}}, "`videos` are dict"),
        ({"messages": [ASK, SAY], "videos": [5]}, "an image or video is int"),
        ({"messages": [ASK, SAY], "videos": [None]}, "an image or video is null"),
        ({"messages": [ASK, SAY], "videos": [True]}, "an image or video is bool"),
        ({"messages": [ASK, SAY], "videos": [""]}, "an image or video is str"),
        ({"messages": [ASK, SAY], "videos": [["a.png", 5]]}, "an image or video is int"),
        ({"messages": [ASK, SAY], "videos": [{"path": 5}]}, "an image or video is int"),
        ({"messages": [{**ASK, "content": [{"type": "video", "video": 5}]}, SAY]}, "an image or video is int"),
        ({"messages": [ASK, SAY], "videos": ["a.mp4"], "folder": 5}, "`folder` is int"),
        ({"messages": [ASK, SAY], "videos": ["a.mp4"], "folder": ["a"]}, "`folder` is list"),
    ],
)
def test_rows_of_another_shape_are_refused_by_name(row, words):
    with pytest.raises(ValueError) as refused:
        training_example(row, "seven")

    assert str(refused.value).startswith("Row seven cannot be trained on: ")
    assert words in str(refused.value)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff\xfe", b"5", b"null"])
def test_lines_that_are_no_rows_are_refused(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + b"\n")

    with pytest.raises(ValueError, match=r"rows\.jsonl"):
        load_examples([DataSource(str(path))])


def test_a_line_may_hold_any_character(tmp_path):
    """Such as U+2028, at which Python's splitlines would cut a row."""
    row = {"messages": [{"role": "user", "content": "one\u2028two"}, SAY]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")

    (example,) = load_examples([DataSource(str(tmp_path / "rows.jsonl"))]).examples

    assert example.messages[0]["content"][0]["text"] == "one\u2028two"
