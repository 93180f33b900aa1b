"""Options and times that callers bring: each is honoured, or refused with the value and what to give instead."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from processing.builders import build_processor
from processing.video_files import write_video
from vega3d.processing.video_vega3d import choose_frames, clip_from_frames, read_video

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
FRAMES = np.zeros((20, 48, 64, 3), np.uint8)


@pytest.fixture(scope="module", params=["Qwen2_5_VLProcessor", "Qwen3VLProcessor"])
def processor(request):
    return build_processor(request.param)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", 20)


def times(processor, **options) -> list[float]:
    batch = processor(text=VIDEO, videos=[FRAMES], do_sample_frames=False, return_metadata=True, **options)
    return batch["video_metadata"][0].timestamps


def user(*content) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


# Types and ranges


@pytest.mark.parametrize("fps", [[2.0], "2", (1,), True, {}, Decimal(2), np.nan, -np.inf, np.array([2.0]), 1j])
def test_a_rate_that_is_no_number_is_refused(film, fps):
    for read in (lambda: choose_frames(np.arange(4.0), fps=fps), lambda: read_video(film, fps=fps)):
        with pytest.raises(ValueError, match="`fps` must be a finite number above 0"):
            read()


@pytest.mark.parametrize("num_frames", [[4], "4", True, 4.0, np.float64(4), np.nan, -1, 0, {}])
def test_a_number_of_frames_that_is_no_number_is_refused(film, num_frames):
    for read in (lambda: choose_frames(np.arange(4.0), num_frames), lambda: read_video(film, num_frames)):
        with pytest.raises(ValueError, match="`num_frames` must be a whole number of at least 1"):
            read()


@pytest.mark.parametrize("fps", [1e8, 1e10, 1e308, 10**400, np.float32(1e20), Fraction(10**30, 7)])
def test_a_huge_rate_asks_for_every_frame(fps):
    seconds = np.array([0.0, 0.04, 3600.0, 3600.001])

    assert choose_frames(seconds, fps=fps).tolist() == [0, 1, 2, 3]


def test_a_huge_number_of_frames_asks_for_every_frame():
    assert choose_frames(np.arange(4.0), num_frames=10**400).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [np.int64(2), np.uint8(2), 2])
def test_numbers_of_numpy_are_numbers(number):
    assert len(choose_frames(np.arange(4.0), num_frames=number)) == 2
    assert len(choose_frames(np.arange(4.0), fps=number)) == 4


def test_rates_choose_the_nearest_frames():
    """As trying each instant does."""
    random = np.random.default_rng(0)
    for _ in range(300):
        seconds = np.cumsum(random.integers(1, 60, random.integers(1, 40))) / 100
        fps = float(random.choice([0.3, 1, 2, 7.5, 24, 50, 100]))

        instants = np.arange(int((seconds[-1] - seconds[0]) * fps + 1e-6) + 1) / fps + seconds[0]
        nearest = {int(np.abs(seconds - instant).round(9).argmin()) for instant in instants}

        assert choose_frames(seconds, fps=fps).tolist() == sorted(nearest)


@pytest.mark.parametrize("seconds", [5, "abc", ["a"] * 20, [None] * 20, [True] * 20, [10**400] * 20])
def test_times_that_are_no_numbers_are_refused(processor, seconds):
    with pytest.raises(ValueError, match="`seconds`"):
        times(processor, seconds=seconds)


@pytest.mark.parametrize("seconds", [np.arange(20) / 4, torch.arange(20) / 4, [n / 4 for n in range(20)], range(20)])
def test_times_are_a_list_an_array_or_a_tensor(processor, seconds):
    assert times(processor, seconds=seconds) == pytest.approx([float(second) for second in seconds])
    assert clip_from_frames(FRAMES, seconds=seconds).timed


@pytest.mark.parametrize("value", [None, "yes", 1, [True]])
def test_a_flag_is_true_or_false(processor, value):
    with pytest.raises(ValueError, match="`do_sample_frames` must be True or False"):
        processor(text=VIDEO, videos=[FRAMES], do_sample_frames=value)


# Options of a call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"videos_kwargs": {"fps": 2, "max_frames": 4}}, "`max_frames` in `videos_kwargs` .4. is not supported"),
        ({"videos_kwargs": {"min_frames": 4}}, "`min_frames`"),
        ({"max_frames": 4}, "`max_frames`"),
        ({"videos_kwargs": {"nframes": 4}}, "`nframes` in `videos_kwargs` .4. is no option"),
        ({"videos_kwargs": {"total_pixels": 4}}, "`total_pixels`"),
        ({"videos_kwargs": {"video_start": 1}}, "`video_start`"),
        ({"videos_kwargs": {"do_center_crop": True}}, "`do_center_crop`.*Both pixel streams"),
        ({"videos_kwargs": {"fps": [2.0]}}, "`fps` must be a finite number"),
        ({"videos_kwargs": {"num_frames": 4, "fps": 2}}, "exclude each other"),
        ({"videos_kwargs": {"num_frames": 4}, "num_frames": 5}, "`num_frames` is given twice, as 5 and as 4"),
        ({"videos_kwargs": {"num_frames": 4}, "fps": 5}, "exclude each other"),
        ({"videos_kwargs": [4]}, "`videos_kwargs` must be a dict"),
        ({"do_sample_frames": False, "fps": 2.0}, "`do_sample_frames=False` keeps every frame"),
        ({"videos_kwargs": {"do_sample_frames": False}, "num_frames": 2}, "`do_sample_frames=False` keeps every"),
        ({"images_kwargs": {"resized_height": 4}}, "`resized_height` in `images_kwargs`"),
        ({"images_kwargs": {"crop_size": 4}}, "`crop_size` in `images_kwargs`"),
        ({"images_kwargs": {"input_data_format": "channels_first"}}, "`input_data_format`"),
        ({"text_kwargs": {"fps": 4}}, "`fps` in `text_kwargs`"),
        ({"common_kwargs": {"max_frames": 4}}, "`max_frames` in `common_kwargs`"),
        ({"do_sample": True}, "`do_sample` .True. is an option of `generate`.*`generate_kwargs` of a pipeline"),
        ({"temperature": 0.5}, "`temperature` .0.5. is an option of `generate`"),
        ({"resized_height": 4}, "`resized_height` .4. is no option"),
        ({"nframes": 4}, "`nframes`"),
    ],
)
def test_an_option_without_effect_is_refused(processor, film, options, message):
    with pytest.raises(ValueError, match=message):
        processor(text=VIDEO, videos=film, **options)
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(
            user({"type": "video", "video": film}), tokenize=True, return_dict=True, processor_kwargs=options
        )


def test_an_option_of_both_kinds_of_pixels_has_an_effect_on_both(processor):
    """Qwen3-VL's processor of videos knows no `max_pixels`, that of images does."""
    inputs = {"text": f"{VIDEO}{IMAGE}", "videos": [FRAMES[:2]], "images": FRAMES[0]}
    if "max_pixels" not in processor.video_processor.valid_kwargs.__annotations__:
        with pytest.raises(ValueError, match=r"`max_pixels` .1024. has no effect on videos"):
            processor(**inputs, max_pixels=1024)
        return

    usual, small = processor(**inputs), processor(**inputs, max_pixels=1024)

    for grid in ("video_grid_thw", "image_grid_thw"):
        assert small[grid].prod() < usual[grid].prod()


def test_sound_is_refused(processor, film):
    with pytest.raises(ValueError, match="`audio` is given, but sound is not read"):
        processor(text=VIDEO, videos=film, audio=[1.0])


@pytest.mark.parametrize("options", [{"videos_kwargs": {"image_mean": "x"}}, {"images_kwargs": {"do_resize": 7}}])
def test_an_option_of_the_wrong_type_is_refused(processor, film, options):
    with pytest.raises(ValueError, match=r"An option of the VLM's processor cannot be used.*(image_mean|do_resize)"):
        processor(text=f"{VIDEO}{IMAGE}", videos=film, images=FRAMES[0], **options)


@pytest.mark.parametrize("name", ["max_frames", "nframes", "resized_height", "video_start"])
def test_an_unknown_argument_of_the_chat_template_is_refused(processor, film, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        processor.apply_chat_template(
            user({"type": "video", "video": film}), tokenize=True, return_dict=True, **{name: 4}
        )


@pytest.mark.parametrize(
    "options",
    [
        {"videos_kwargs": {"num_frames": 4}},
        {"videos_kwargs": {"num_frames": 4}, "num_frames": 4},
        {"num_frames": 4, "videos_kwargs": {"do_sample_frames": True}},
        {"num_frames": 4, "videos_kwargs": {"do_center_crop": False}},
        {"num_frames": 4, "do_sample": False},
        {"num_frames": 4, "padding": True, "text_kwargs": {"padding_side": "left"}, "audio": None},
    ],
)
def test_options_that_are_honoured(processor, film, options):
    batch = processor(text=VIDEO, videos=film, **options)

    assert batch["generator_video_grid_thw"][0, 0] == 4
    assert batch["video_grid_thw"][0, 0] == 2


@pytest.mark.parametrize("name", ["videos_kwargs", "images_kwargs"])
def test_the_size_of_the_vlms_pixels_is_honoured(processor, name):
    size = {name: {"size": {"shortest_edge": 256, "longest_edge": 32 * 32}}}
    inputs = {"videos_kwargs": {"videos": [FRAMES[:2]], "text": VIDEO}, "images_kwargs": {"images": FRAMES[0]}}[name]
    grid = "video_grid_thw" if name == "videos_kwargs" else "image_grid_thw"
    inputs.setdefault("text", IMAGE)

    usual, small = processor(**inputs), processor(**inputs, **size)

    assert small[grid].prod() < usual[grid].prod()
    assert torch.equal(small[f"generator_{grid}"], usual[f"generator_{grid}"])


# Entries of a message


@pytest.mark.parametrize(
    "option",
    [
        "fps",
        "nframes",
        "num_frames",
        "max_frames",
        "video_start",
        "video_end",
        "min_pixels",
        "resized_height",
        "other",
    ],
)
def test_an_option_in_a_message_is_refused(processor, film, option):
    messages = user({"type": "video", "video": film, option: 1}, {"type": "text", "text": "Where?"})

    for conversation in (messages, [messages, messages]):
        with pytest.raises(ValueError, match=f"'{option}', which would have no effect"):
            processor.apply_chat_template(conversation, tokenize=True, return_dict=True)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "image", "image": Image.new("RGB", (8, 8)), "max_pixels": 9}, "'max_pixels'"),
        ({"type": "text", "text": "Where?", "image": "a.png"}, "'image', which would have no effect"),
        ({"type": "audio", "audio": "a.wav"}, "entry of type 'audio'"),
        ({"image": "a.png"}, "entry of type None"),
        ("Where?", "entry of type None"),
        ({"type": "video", "video": "a.mp4", "path": "b.mp4"}, "holds 2 videos"),
    ],
)
def test_an_entry_of_a_message_that_would_be_passed_over_is_refused(processor, block, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(user(block), tokenize=True, return_dict=True)


def test_entries_without_a_value_are_none(processor, film):
    """Tables give every entry every column."""
    messages = user(
        {"type": "video", "video": film, "fps": None, "text": None}, {"type": "text", "text": "Where?", "video": None}
    )

    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, num_frames=4)

    assert batch["generator_video_grid_thw"][0, 0] == 4


def test_a_message_that_is_only_rendered_may_hold_options_of_other_readers(processor):
    messages = user({"type": "video", "video": "a.mp4", "fps": 1.0}, {"type": "text", "text": "Where?"})

    assert VIDEO in processor.apply_chat_template(messages)


# Metadata


@pytest.mark.parametrize(
    ("metadata", "spacing"),
    [
        ({"duration": 10.0}, 0.5),
        ({"duration": 10, "total_num_frames": 20}, 0.5),
        ({"fps": 2.0, "duration": 10.0, "total_num_frames": 20}, 0.5),
        ({"fps": 2.0, "duration": 9.5}, 0.5),
        ({"fps": np.float32(4)}, 0.25),
        ({"fps": 30.0, "duration": 10.0, "total_num_frames": 300, "frames_indices": list(range(0, 300, 15))}, 0.5),
        ({"duration": 10.0, "total_num_frames": 300, "frames_indices": np.arange(0, 300, 15)}, 0.5),
        ({"fps": 29.97, "duration": 10.01, "total_num_frames": 300, "frames_indices": range(0, 300, 15)}, 15 / 29.97),
        ({"total_num_frames": 20, "width": 64, "height": 48, "video_backend": "av"}, 1.0),
    ],
)
def test_times_from_metadata(processor, metadata, spacing):
    expected = pytest.approx(np.arange(20) * spacing, abs=1e-5)

    assert times(processor, video_metadata=[metadata]) == expected
    assert times(processor, videos_kwargs={"video_metadata": [[metadata]]}) == expected


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"total_num_frames": 300, "duration": 10.0}, "says 300 frames, but 20 are given. Give `frames_indices`"),
        ({"fps": 30.0, "duration": 10.0, "total_num_frames": 300}, "says 300 frames, but 20 are given"),
        ({"fps": 30.0, "duration": 10.0}, "contradicts itself: 20 frames at 30 frames a second last 0.667 s"),
        ({"fps": 2.0, "total_num_frames": 30}, "says 30 frames, but 20 are given"),
        ({"fps": 2.0, "frames_indices": list(range(19))}, "`frames_indices` must be 20 increasing whole numbers"),
        ({"fps": 2.0, "frames_indices": [0] * 20}, "`frames_indices` must be 20 increasing"),
        ({"fps": 2.0, "frames_indices": np.arange(20) - 1}, "`frames_indices` must be 20 increasing"),
        ({"fps": 2.0, "frames_indices": np.arange(20) + 0.5}, "`frames_indices` must be 20 increasing"),
        ({"fps": 2.0, "frames_indices": "abc"}, "`frames_indices` must hold"),
        ({"fps": 2.0, "frames_indices": range(20), "total_num_frames": 10}, "contradicts itself: it says 10 frames"),
        ({"fps": 2.0, "frames_indices": range(20), "duration": 5.0}, "is shown at 9.500 s, but the video lasts 5 s"),
        ({"frames_indices": range(20)}, "no `fps`"),
        ({"frames_indices": range(20), "duration": 5.0}, "no `fps`"),
        ({"fps": 30.0, "duration": 100.0, "total_num_frames": 300, "frames_indices": range(20)}, "300 frames at 30"),
        ({"fps": 0}, "`fps` must be a finite number"),
        ({"fps": "2"}, "`fps` must be a finite number"),
        ({"duration": -1.0}, "`duration` of `video_metadata` must be"),
        ({"duration": "10"}, "`duration` of `video_metadata` must hold"),
        ({"total_num_frames": 20.5}, "`total_num_frames` of `video_metadata` must be"),
        ({"fps": 2.0, "speed": 3}, "holds .'speed'."),
        (3, "must hold a dict for each video"),
    ],
)
def test_metadata_that_contradicts_itself_or_the_frames_is_refused(processor, metadata, message):
    with pytest.raises(ValueError, match=message):
        times(processor, video_metadata=[metadata])


def test_metadata_of_a_folder_count_its_images(processor, tmp_path):
    for number in range(4):
        Image.new("RGB", (64, 48), (number,) * 3).save(tmp_path / f"{number}.png")

    batch = processor(text=VIDEO, videos=[tmp_path], video_metadata=[{"duration": 2.0}], return_metadata=True)

    assert batch["video_metadata"][0].timestamps == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize("metadata", [{"fps": 2.0}, {"duration": 2.0}, {"total_num_frames": 3}])
def test_metadata_of_a_film_that_knows_its_times_are_refused(processor, film, metadata):
    with pytest.raises(ValueError, match="knows the times of its frames"):
        processor(text=VIDEO, videos=[film], video_metadata=[metadata])
