import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, ImageColor
from published import (
    PUBLISHED,
    chat,
    hound_rows,
    llava_rows,
    picture,
    spar_rows,
    vlm3r_rows,
    vsi590k_rows,
    write_media,
    write_rows,
)

from tiny_checkpoints import FROZEN
from vega3d.hub.load import load_processor
from vega3d.training import DataSource, VegaCollator, load_examples, make_config, stream_examples
from vega3d.training.collator import image_pixels
from vega3d.training.config import RowFormat
from vega3d.training.data import training_example
from vega3d.training.published_rows import FORMATS
from vega3d.training.spar_marks import COLORS, TYPES, MarkedImage, draw_spar_marks, marks_of_images

RED, BLUE, GREEN = (ImageColor.getrgb(name) for name in ("red", "blue", "green"))
ASKED = {"vsi590k": "name its format", "llava": "name its format"}


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def collator() -> VegaCollator:
    return VegaCollator(load_processor(FROZEN), num_frames=2)


def test_the_config_knows_the_formats_that_are_read():
    assert get_args(RowFormat) == tuple(FORMATS)


@pytest.mark.parametrize("format", PUBLISHED)
def test_a_published_file_is_trained_on_as_it_is(format, media, collator, tmp_path):
    name, rows = PUBLISHED[format]
    path = write_rows(tmp_path / name, rows())
    source = DataSource(str(path), format=format, media_root=media)

    examples = load_examples([source]).examples
    batch = collator(examples)

    assert len(examples) == len(rows())
    for example, row in zip(examples, rows(), strict=True):
        said = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
        answers = [one["content"] for one in example.messages if one["role"] == "assistant"]
        assert answers == [[{"type": "text", "text": text}] for text in said]
        assert all(path.is_relative_to(media) for path in example.media_files())
    assert (batch["labels"] >= 0).any(1).all()
    streamed = [training_example(row, "") for row in stream_examples([source], 0, 1)]
    assert [(one.messages, one.images, one.videos) for one in streamed] == [
        (one.messages, one.images, one.videos) for one in examples
    ]


def test_formats_are_recognised_by_keys_of_their_own(media, tmp_path):
    rows = [*spar_rows(), *hound_rows(), *vlm3r_rows()]
    recognised = load_examples([DataSource(str(write_rows(tmp_path / "all.json", rows)), media_root=media)]).examples

    assert [len(one.images) for one in recognised] == [3, 1, 2, 0, 0]
    assert [type(image) for image in recognised[0].images] == [MarkedImage] * 3
    for rows in (vsi590k_rows(), llava_rows()):
        path = write_rows(tmp_path / "unclear.jsonl", rows)
        with pytest.raises(ValueError, match=r"do not tell its format. Give `format`: llava, spar, "):
            load_examples([DataSource(str(path), media_root=media)])


def test_rows_of_a_parquet_table_with_empty_columns(media, tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [*spar_rows(), *hound_rows()]
    empty = dict.fromkeys(name for row in rows for name in row)  # a table has all columns in each row
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**empty, **row} for row in rows]), path)

    examples = load_examples([DataSource(str(path), media_root=media)]).examples

    assert [(len(one.images), len(one.videos)) for one in examples] == [(3, 0), (1, 0), (2, 0), (0, 1)]


def test_a_placeholder_of_an_image_stands_for_the_video_alone(media):
    (row,) = vlm3r_rows()
    example = training_example(row, "", media)
    assert example.messages[0]["content"][0] == {"type": "video"}
    assert example.messages[0]["content"][1]["text"].startswith("These are frames of a video.")
    assert example.videos == [media / row["video"]]


def drawn(info: dict, *frames: np.ndarray) -> list[np.ndarray]:
    marks = marks_of_images(info, len(frames))
    return [draw_spar_marks(frame, one) if one else frame for frame, one in zip(frames, marks, strict=True)]


def grey(width: int = 400, height: int = 300) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def places(frame: np.ndarray, color: tuple) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of all pixels of a colour."""
    rows, columns = np.nonzero((frame == color).all(-1))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_points_are_drawn_on_the_images_that_the_row_names():
    info = json.loads(spar_rows()[0]["spar_info"])
    first, second, third = drawn(info, grey(), grey(), grey(800))

    assert places(first, RED) == (158 - 20, 26 - 20, 158 + 20, 26 + 20)  # int(.395 * 400), int(.089 * 300)
    assert places(third, BLUE) == (395 - 20, 186 - 20, 395 + 20, 186 + 20)
    assert places(second, GREEN) == (351 - 20, 221 - 20, 351 + 20, 221 + 20)
    assert not (first == BLUE).all(-1).any() and not (third == RED).all(-1).any()


def test_boxes_have_a_thick_edge_outside_of_them():
    (frame,) = drawn({"type": "spatial_volume_infer", "red_bbox": [[250, 250, 500, 750]]}, grey())

    assert places(frame, RED) == (82, 57, 217, 242)  # 17.5 px outside of 100, 75, 200, 225
    inner = frame[57 + 20 : 242 - 19, 82 + 20 : 217 - 19]
    assert (inner == 90).all()


def test_marks_of_a_list_have_labels():
    info = {"type": "spatial_imagination_map_mv", "bbox_list": [[[100, 100, 300, 300]] * 2], "bbox_img_idx": [[1, 0]]}
    first, second = drawn(info, grey(), grey())
    assert places(first, (0, 0, 255)) == places(second, (0, 0, 255)) == (10, 0, 150, 120)
    assert (first == (0, 255, 0)).all(-1).any() and not np.array_equal(first, second)  # object1 and object0
    info = {"type": "distance_infer_center_oo_video", "point_list": [[[500, 500]] * 2], "point_img_idx": [[0, 1]]}
    assert [mark.label for (mark,) in marks_of_images(info, 2)] == ["objectA", "object0"]


def full_info(kind: str) -> dict:
    """All marks that any type may ask for, on the first images."""
    boxes = {f"{color}_bbox": [[100, 100, 300, 300]] for color in COLORS}
    points = {f"{color}_point": [[500, 500]] for color in COLORS}
    lists = {"bbox_list": [[[100, 100, 300, 300]]], "point_list": [[[500, 500]]]}
    if kind == "obj_spatial_relation_oo_mv":
        boxes["red_bbox"] = None
    return {"type": kind, **boxes, **points, **lists, "bbox_img_idx": [[0, 1, 2, 3]], "point_img_idx": [[0, 1, 2, 3]]}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_drawn_and_asks_for_its_marks(kind):
    info = full_info(kind)
    frames = drawn(info, *[grey() for _ in range(4)])
    has_marks = any((frame != 90).any() for frame in frames)
    if not has_marks:
        assert marks_of_images({"type": kind}, 4) == [()] * 4
        return
    with pytest.raises(ValueError, match=r"it has no `|but the row has \[\]"):
        marks_of_images({"type": kind}, 4)
    if any(mark for one in marks_of_images(info, 4)[1:] for mark in one):
        with pytest.raises(ValueError, match=r"a mark is on image \d, counted from 0, but the row has 1 image"):
            marks_of_images(info, 1)


def test_marks_reach_the_model_before_frames_are_resized(media, collator):
    row = spar_rows()[1]
    marked = training_example(row, "", media)
    plain = replace(marked, images=[marked.images[0].visual])

    assert places(image_pixels(marked.images[0]), RED) == (22, 12, 97, 107)
    for stream in ("pixel_values", "generator_pixel_values"):
        assert not np.array_equal(collator([marked])[stream], collator([plain])[stream])


def test_rows_of_spar_itself_get_their_placeholders(media):
    """SPAR-7M's own files have the marks in the row, `image`, and no placeholders."""
    frames = spar_rows()[0]["images"]
    row = {"id": "1", "conversations": chat("How far?", "1"), "image": frames[:2], "type": "distance_prediction_oo_mv"}
    row |= {"red_point": [[1, 2]], "blue_point": [[3, 4]], "point_img_idx": [[0, 1]]}
    content = training_example(row, "", media).messages[0]["content"]
    assert content == [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "How far?"}]

    film = {"id": "2", "conversations": chat("<video>\nHow many?", "1"), "image": frames, "type": "obj_count"}
    texts = [part.get("text", "<image>") for part in training_example(film, "", media).messages[0]["content"]]
    assert "".join(texts) == "Frame-1: <image>\nFrame-2: <image>\nFrame-3: <image>\nHow many?"


def changed(rows, number: int = 0, **values) -> list[dict]:
    rows = [dict(row) for row in rows()]
    rows[number] |= values
    return rows


INFO = json.loads(spar_rows()[0]["spar_info"])
BAD = {
    "no marks": ("spar", changed(spar_rows, spar_info=None), "says no type of SPAR (it is None)"),
    "no type": ("spar", changed(spar_rows, spar_info="{}"), "says no type of SPAR (it is None)"),
    "unknown type": ("spar", changed(spar_rows, spar_info='{"type": "zzz"}'), "(it is 'zzz')"),
    "no JSON": ("spar", changed(spar_rows, spar_info="{"), "its `spar_info` is no JSON"),
    "a list": ("spar", changed(spar_rows, spar_info="[1]"), "it is list"),
    "a mark less": (
        "spar",
        changed(spar_rows, spar_info=json.dumps({**INFO, "red_point": None})),
        "it has no `red_point`, which its type depth_prediction_oo_mv draws",
    ),
    "outside": (
        "spar",
        changed(spar_rows, spar_info=json.dumps({**INFO, "red_point": [[1001, 5]]})),
        "its `red_point` is [1001, 5], but must be x and y in thousandths, 0 to 1000",
    ),
    "no image of the mark": (
        "spar",
        changed(spar_rows, spar_info=json.dumps({**INFO, "point_img_idx": [[0, 3, 1]]})),
        "a mark is on image 3",
    ),
    "few numbers": (
        "spar",
        changed(spar_rows, spar_info=json.dumps({**INFO, "point_img_idx": [[0, 1]]})),
        "its `point_img_idx` is [0, 1], which has no place 2",
    ),
    "no media": ("spar", changed(spar_rows, images=None), "a mark is on image 0, counted from 0, but the row has 0"),
    "an image less": ("spar", changed(spar_rows, 2, images=["a.jpg"]), "<image> 2 time(s), but it has 1 images"),
    "no video": ("llava_hound", changed(hound_rows, video=None), "it has no `video`, but llava_hound is"),
    "two videos": ("llava_hound", changed(hound_rows, video=["a", "b"]), "<video> 1 time(s), but it has 2 videos"),
    "no placeholder": (
        "llava_hound",
        changed(hound_rows, conversations=chat("What?", "It.")),
        "<video> 0 time(s), but it has 1 videos",
    ),
    "video is a number": ("llava_hound", changed(hound_rows, video=5), "its `video` is 5, but must be a path"),
    "no scene": ("vlm3r", changed(vlm3r_rows, scene_name=None), "it has no `scene_name`"),
    "no question type": ("vsi590k", changed(vsi590k_rows, question_type=None), "it has no `question_type`"),
    "image and images": ("llava", changed(llava_rows, images=["a"]), "it has both `images` and `image`"),
    "other keys": ("llava", [{"id": "1", "question": "Where?", "video": "a"}], "it has no `conversations`"),
    "messages": ("llava", [{"id": "1", "messages": []}], "its columns are ['id', 'messages']"),
    "turn": ("llava", changed(llava_rows, conversations=["a"]), "a turn is 'a', but must hold `from`"),
    "no turn": ("llava", changed(llava_rows, conversations=[]), "its `conversations` are []"),
    "turn of another": (
        "llava",
        changed(llava_rows, conversations=[{"from": "bot", "value": "a"}]),
        "a turn is from 'bot'",
    ),
    "an answer is a number": (
        "llava",
        changed(llava_rows, 1, conversations=[{"from": "human", "value": "a"}, {"from": "gpt", "value": 4}]),
        "must hold `from`, and text in `value`",
    ),
    "no answer": ("llava", changed(llava_rows, 1, conversations=chat("a", "b")[:1]), "no message of the assistant"),
    "rows of messages": ("messages", vlm3r_rows(), "it has no `messages`"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_refused_with_its_file_and_its_id(case, media, tmp_path):
    format, rows, words = BAD[case]
    path = write_rows(tmp_path / "rows.json", rows)

    with pytest.raises(ValueError) as refused:
        load_examples([DataSource(str(path), format=format, media_root=media)])

    ids = [str(row.get("id", f"rows.json/{number}")) for number, row in enumerate(rows)]
    assert words in str(refused.value)
    assert str(refused.value).startswith(
        (f"{path}: Row {ids[0]} ", f"{path}: Row {ids[-1]} ", f"{path}: Row {ids[len(ids) // 2]} ")
    )


def test_missing_media_and_empty_folders_are_found_before_training(media, tmp_path):
    (tmp_path / "llava_hound" / "frames" / "23230678").mkdir(parents=True)
    path = write_rows(tmp_path / "rows.json", [*hound_rows(), *spar_rows()[:1]])

    with pytest.raises(ValueError) as refused:
        load_examples([DataSource(str(path), media_root=tmp_path)])

    assert f"{path}: 4 videos or images of the data are missing" in str(refused.value)
    assert f"23230678_1 ({tmp_path}/llava_hound/frames/23230678)" in str(refused.value)
    assert "scene0012_01_1661 (" in str(refused.value)


def test_a_folder_of_frames_of_two_sizes_is_refused_with_its_row(media, collator, tmp_path):
    folder = tmp_path / hound_rows()[0]["video"]
    folder.mkdir(parents=True)
    for number, size in enumerate(((64, 64), (64, 32))):
        picture(number, size).save(folder / f"{number}.png")

    with pytest.raises(ValueError, match=r"Row 23230678_1 .* must have one size, but .*0.png .*1.png"):
        collator([training_example(hound_rows()[0], "", tmp_path)])


def test_images_of_a_row_may_differ_in_size(collator, tmp_path):
    for number, size in enumerate(((64, 64), (96, 32))):
        picture(number, size).save(tmp_path / f"{number}.png")
    row = {"images": ["0.png", "1.png"], "conversations": chat("<image><image>Which?", "One.")}

    batch = collator([training_example(row, "", tmp_path, "llava")])

    assert len(batch["image_grid_thw"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "zzz"}, "format is 'zzz', but must be one of ['messages', 'llava', 'spar'"),
        ({"media_root": Path("none")}, "media_root is none, but there is no such folder"),
        ({"path": "."}, ". is a folder, of which rooms are read"),
        ({"path": "none-*.tar"}, "There is no shard none-*.tar"),
    ],
)
def test_options_of_a_source_that_cannot_be_used(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.json", llava_rows())

    with pytest.raises(ValueError) as refused:
        load_examples([DataSource(**{"path": "rows.json", "format": "llava", **options})])

    assert words in str(refused.value)


def test_a_run_without_a_format_keeps_the_settings_that_it_is_known_by():
    config = make_config({"model": "m", "data": "a.jsonl", "output": "o"})
    assert config.binding()["data"] == [{"path": "a.jsonl", "split": "train"}]
    config = make_config(
        {"model": "m", "data": {"path": "a.json", "format": "spar", "media_root": "x"}, "output": "o"}
    )
    assert config.binding()["data"][0] == {"path": "a.json", "split": "train", "format": "spar", "media_root": "x"}


def test_an_image_that_is_a_film_is_refused_with_its_row(media, collator, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    row = {"image": str(media / vsi590k_rows()[0]["video"]), "conversations": chat("<image>\nWhat?", "It.")}

    with pytest.raises(ValueError, match=r"Row one has a video or image that cannot be used: .* is a film"):
        collator([training_example(row, "one", None, "llava")])
