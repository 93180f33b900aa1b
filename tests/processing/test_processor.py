"""VegaProcessor: both pixel streams from the same frames, tokens, real times, saving and loading, clear errors."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from processing.builders import build_processor
from processing.video_files import numbered_frame, write_video
from tiny_checkpoints import FROZEN
from vega3d.processing.generator_frames_vega3d import (
    FrameSettings,
    generator_frame_size,
    pack_patches,
    resize_and_center_crop,
)
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.video_vega3d import clip_from_frames, read_images, read_video

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


class ProcessorTestConfig(PreTrainedConfig):
    """Stands for the model's config, which knows which processor belongs to it."""

    model_type = "vega3d_processor_test"


VLM_PROCESSORS = ("Qwen2_5_VLProcessor", "Qwen3VLProcessor")


@pytest.fixture(scope="module", params=VLM_PROCESSORS)
def processor(request) -> VegaProcessor:
    return build_processor(request.param)


def random_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def user(*content) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


def unpack(patches: torch.Tensor, grid: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Puts packed patches of one clip together again: [T, 3, H, W]."""
    frames, rows, columns = grid.tolist()
    blocks = patches.reshape(frames, rows, columns, 3, patch_size, patch_size).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(frames, 3, rows * patch_size, columns * patch_size)


def assert_same_batch(first, second):
    assert set(first) == set(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


# The generator's frames


def test_packed_rows_are_patches_in_time_row_column_order():
    frames = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)

    patches, grid = pack_patches(frames, patch_size=2)

    assert grid.tolist() == [2, 2, 3]
    assert patches[0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31, 48, 49, 54, 55]
    assert torch.equal(patches[6 + 3 + 2], frames[1, :, 2:4, 4:6].reshape(-1))
    assert torch.equal(unpack(patches, grid, 2), frames)
    with pytest.raises(ValueError, match=r"multiples of 4, but got \[2, 3, 4, 6\]"):
        pack_patches(frames, patch_size=4)


@pytest.mark.parametrize(
    ("frame", "fitted"),
    [
        ((480, 640), (480, 640)),
        ((480, 832), (480, 832)),
        ((1080, 1920), (480, 832)),
        ((1920, 1080), (832, 480)),
        ((2000, 2000), (624, 624)),
        ((47, 65), (48, 64)),
        ((7, 5), (16, 16)),
        ((100, 100), (96, 96)),
    ],
)
def test_size_for_the_generator(frame, fitted):
    assert generator_frame_size(*frame, patch_size=16, max_area=399360) == fitted


def test_size_for_the_generator_keeps_its_promises():
    generator = np.random.default_rng(0)
    for height, width in generator.integers(16, 3000, (300, 2)).tolist():
        rows, columns = generator_frame_size(height, width, patch_size=16, max_area=399360)
        assert rows % 16 == columns % 16 == 0 and rows * columns <= 399360
        assert rows < height + 16 and columns < width + 16
        assert rows * columns > 0.8 * min(399360, (height - 8) * (width - 8))
        # The aspect ratio is off by less than one patch at the shorter side.
        assert abs(np.log(rows * width / (columns * height))) < np.log(1 + 16 / min(rows, columns))
    with pytest.raises(ValueError, match=r"2010x10 \(width x height\) is more than 200 times"):
        generator_frame_size(10, 2010, patch_size=16, max_area=399360)


def test_official_centre_crop_fixture(pytestconfig):
    path = pytestconfig.rootpath / "tests/fixtures/golden/wan_frame_prep.safetensors"
    with safe_open(path, "pt") as fixture:
        cases = json.loads(fixture.metadata()["config"])["resize_cases"]
        for case in cases:
            frames = fixture.get_tensor(f"input.resize.{case['index']}")
            expected = fixture.get_tensor(f"expected.resize.{case['index']}")
            torch.testing.assert_close(resize_and_center_crop(frames, *case["out_hw"]), expected, rtol=0, atol=1e-5)


def test_frames_that_fit_reach_the_generator_unchanged(processor):
    frames = random_frames(3, 48, 64)

    batch = processor(text=VIDEO, videos=[frames], seconds=[[0, 1, 2]])

    assert batch["generator_pixel_values_videos"].dtype == torch.uint8
    assert batch["generator_video_grid_thw"].tolist() == [[3, 3, 4]]
    unpacked = unpack(batch["generator_pixel_values_videos"], batch["generator_video_grid_thw"][0], 16)
    assert np.array_equal(unpacked.permute(0, 2, 3, 1).numpy(), frames)


def test_frames_are_averaged_when_they_shrink():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::4] = 255

    batch = build_processor(generator_max_area=16 * 16)(text=VIDEO, videos=stripes)

    inner = batch["generator_pixel_values_videos"].reshape(3, 16, 16)[:, :, 1:-1].float()
    assert inner.min() > 40 and inner.max() < 90


def test_three_rows_of_pixels_are_not_taken_for_channels(processor):
    batch = processor(text=VIDEO + IMAGE, videos=random_frames(2, 3, 90), images=random_frames(1, 3, 90)[0])

    for name in ("video_grid_thw", "image_grid_thw", "generator_video_grid_thw", "generator_image_grid_thw"):
        assert batch[name][0, 2] > 2 * batch[name][0, 1], name


def test_centre_crop_option():
    processor = build_processor(generator_frame_fit="center_crop", generator_frame_size=(32, 48))
    frames = random_frames(2, 40, 100)

    batch = processor(text=VIDEO, videos=frames)

    unpacked = unpack(batch["generator_pixel_values_videos"], batch["generator_video_grid_thw"][0], 16)
    expected = resize_and_center_crop(torch.from_numpy(frames).permute(0, 3, 1, 2).float(), 32, 48)
    assert (unpacked.float() - expected).abs().max() <= 0.5


# Both streams look at the same place


def brightness_by_token(batch, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean brightness float[t, h, w] of each token of the VLM and of each patch of the generator."""
    suffix = "_videos" if kind == "video" else ""
    frames, rows, columns = batch[f"{kind}_grid_thw"][0].tolist()
    semantic = batch[f"pixel_values{suffix}"].mean(-1).reshape(frames, rows // 2, columns // 2, 4).mean(-1)
    frames, rows, columns = batch[f"generator_{kind}_grid_thw"][0].tolist()
    generative = batch[f"generator_pixel_values{suffix}"].float().mean(-1).reshape(frames, rows, columns)
    return semantic, generative


def centre_of_mark(brightness: torch.Tensor) -> tuple[float, float]:
    """Returns the centre of what is brighter than the dark background, (down, right), relative to the frame."""
    weights = (brightness - brightness.min()).double()
    weights = weights / weights.sum()
    down, right = ((torch.arange(n) + 0.5) / n for n in weights.shape)
    return float((weights.sum(1) * down).sum()), float((weights.sum(0) * right).sum())


@pytest.mark.parametrize(
    ("height", "width"), [(96, 128), (128, 96), (97, 161), (161, 97), (64, 256), (50, 50), (720, 500)]
)
@pytest.mark.parametrize(("down", "right"), [(0.1, 0.1), (0.1, 0.9), (0.9, 0.1), (0.5, 0.5), (0.85, 0.6)])
@pytest.mark.parametrize("vlm", VLM_PROCESSORS)
def test_a_mark_is_at_the_same_place_and_time_in_both_streams(vlm, height, width, down, right):
    processor = build_processor(vlm, generator_max_area=96 * 128)
    for count, marked in ((6, 0), (6, 3), (6, 4), (5, 4)):
        frames = np.zeros((count, height, width, 3), np.uint8)
        reach = max(height, width) // 12
        top, left = int(down * height), int(right * width)
        frames[marked, max(top - reach, 0) : top + reach, max(left - reach, 0) : left + reach] = 255
        painted = np.argwhere(frames[marked, ..., 0]).mean(0) + 0.5

        semantic, generative = brightness_by_token(processor(text=VIDEO, videos=frames), "video")

        assert semantic.amax((1, 2)).argmax() == marked // 2
        assert generative.amax((1, 2)).argmax() == marked
        expected = painted / (height, width)
        for brightness, time in ((semantic, marked // 2), (generative, marked)):
            token = 1 / np.array(brightness.shape[1:])
            assert (np.abs(centre_of_mark(brightness[time]) - expected) < 0.3 * token).all()


def test_a_mark_in_an_image_is_at_the_same_place_in_both_streams(processor):
    image = np.zeros((70, 130, 3), np.uint8)
    image[50:66, 100:125] = 255

    semantic, generative = brightness_by_token(processor(text=IMAGE, images=image), "image")

    assert centre_of_mark(semantic[0]) == pytest.approx((58 / 70, 112.5 / 130), abs=0.05)
    assert centre_of_mark(generative[0]) == pytest.approx((58 / 70, 112.5 / 130), abs=0.05)


# Batches


def test_batch_of_mixed_sizes_and_lengths_is_its_singles(processor):
    videos = [random_frames(5, 48, 64, 1), random_frames(2, 65, 47, 2), random_frames(8, 32, 96, 3)]
    image = random_frames(1, 40, 56, 4)[0]
    prompts = [f"first {VIDEO}{VIDEO} and {IMAGE}", f"{VIDEO} second", "only text"]

    batch = processor(text=prompts, videos=[videos[:2], [videos[2]], []], images=[[image], [], []], padding=True)
    singles = [
        processor(text=prompts[0], videos=videos[:2], images=image),
        processor(text=prompts[1], videos=videos[2]),
        processor(text=prompts[2]),
    ]

    assert batch["generator_video_grid_thw"].tolist() == [[5, 3, 4], [2, 4, 3], [8, 2, 6]]
    for name in ("pixel_values_videos", "video_grid_thw", "generator_pixel_values_videos", "generator_video_grid_thw"):
        assert torch.equal(batch[name], torch.cat([single[name] for single in singles[:2]])), name
    for name in ("pixel_values", "image_grid_thw", "generator_pixel_values", "generator_image_grid_thw"):
        assert torch.equal(batch[name], singles[0][name]), name
    for name in ("input_ids", "mm_token_type_ids"):
        for row, single in enumerate(singles):
            length = single["input_ids"].shape[1]
            assert torch.equal(batch[name][row, -length:], single[name][0])
            assert batch["attention_mask"][row, -length:].all() and not batch["attention_mask"][row, :-length].any()
    assert set(singles[2]) == {"input_ids", "attention_mask", "mm_token_type_ids"}


def test_token_counts_and_types_follow_the_grids(processor):
    batch = processor(text=f"{IMAGE}{VIDEO}", videos=random_frames(6), images=random_frames(1, 32, 32)[0])

    types = batch["mm_token_type_ids"][0]
    assert (types == 1).sum() == batch["image_grid_thw"].prod() // 4 == 4
    assert (types == 2).sum() == batch["video_grid_thw"].prod() // 4 == 3 * 12
    assert torch.equal(types == 2, batch["input_ids"][0] == processor.video_token_id)


def test_padding_side_of_the_tokenizer_is_kept():
    batch = build_processor(padding_side="right")(text=["a", "long"], padding=True)

    assert batch["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]


def test_every_form_of_a_video_is_the_same_video(processor, tmp_path):
    frames = random_frames(4)
    paths = [tmp_path / f"{number}.png" for number in (2, 9, 10, 11)]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    expected = processor(text=VIDEO, videos=frames)
    forms = [
        [frames],
        [[frames]],
        frames[None],
        torch.from_numpy(frames),
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        [Image.fromarray(frame) for frame in frames],
        list(frames),
        clip_from_frames(frames),
        read_images(tmp_path),
        tmp_path,
        str(tmp_path),
        [str(path) for path in paths],
        [[paths]],
    ]
    for videos in forms:
        assert_same_batch(processor(text=[VIDEO], videos=videos), expected)


def test_every_form_of_an_image_is_the_same_image(processor, tmp_path):
    image = random_frames(1)[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = processor(text=IMAGE, images=image)
    tensor = torch.from_numpy(image)
    path = tmp_path / "image.png"
    for images in (image[None], [[image]], tensor, tensor.permute(2, 0, 1), Image.fromarray(image), path, [str(path)]):
        assert_same_batch(processor(text=[IMAGE], images=images), expected)


# Frames and times


def test_sampled_frames_are_those_of_the_reader(processor, tmp_path):
    path = write_video(tmp_path / "video.mp4", 40)
    for sampling in ({}, {"num_frames": 4}, {"fps": 2.0}, {"videos_kwargs": {"num_frames": 4}}):
        options = sampling.get("videos_kwargs", sampling)
        clip = read_video(path, **options)
        batch = processor(text=VIDEO, videos=path, **sampling)
        assert batch["generator_video_grid_thw"][0, 0] == len(clip)
        assert_same_batch(batch, processor(text=VIDEO, videos=clip, do_sample_frames=False))
    assert processor(text=VIDEO, videos=path, do_sample_frames=False)["generator_video_grid_thw"][0, 0] == 40
    assert build_processor(num_frames=3)(text=VIDEO, videos=path)["generator_video_grid_thw"][0, 0] == 3


def prompt_times(processor: VegaProcessor, batch) -> list[float]:
    """The times [s] that Qwen3-VL reads in the first prompt."""
    return [float(time) for time in re.findall(r"<([\d.]+) seconds>", processor.decode(batch["input_ids"][0]))]


VARIABLE_RATE = [0, 40, 100, 130, 1000, 1100, 5000, 5033, 6000, 6001]  # [ms]


def test_seconds_per_grid_and_metadata_are_the_real_times(tmp_path):
    processor, path = build_processor(), write_video(tmp_path / "variable.mp4", 10, VARIABLE_RATE)

    batch = processor(text=VIDEO * 2, videos=[path, random_frames(3)], num_frames=4, return_metadata=True)

    assert batch["video_metadata"][0].timestamps == pytest.approx([0, 1.1, 5.0, 6.001], abs=1e-4)
    assert batch["video_metadata"][1].timestamps == [0, 1, 2]
    assert batch["second_per_grid_ts"].tolist() == pytest.approx([2 * 6.001 / 3, 2.0], abs=1e-4)
    assert "video_metadata" not in processor(text=VIDEO, videos=path)


@pytest.mark.parametrize("milliseconds", [None, VARIABLE_RATE], ids=["even", "variable"])
@pytest.mark.parametrize(
    "sampling",
    [{"num_frames": 4}, {"num_frames": 5}, {"num_frames": 1}, {"fps": 3.0}, {"do_sample_frames": False}],
    ids=str,
)
def test_qwen3_vl_reads_the_mean_times_of_both_frames_of_a_patch(tmp_path, milliseconds, sampling):
    """An odd clip repeats its last frame; the metadata that we return know nothing of it."""
    processor, path = build_processor("Qwen3VLProcessor"), write_video(tmp_path / "a.mp4", 10, milliseconds)
    clip = read_video(path, **({"num_frames": 10} if "do_sample_frames" in sampling else sampling))

    batch = processor(text=f"{VIDEO}{VIDEO}", videos=[path, path], return_metadata=True, **sampling)

    seconds = [*clip.seconds, clip.seconds[-1]] if len(clip) % 2 else list(clip.seconds)
    expected = [(first + second) / 2 for first, second in zip(seconds[::2], seconds[1::2], strict=True)]
    assert prompt_times(processor, batch) == pytest.approx(expected * 2, abs=0.05001)  # written with one decimal
    assert len(expected) == batch["video_grid_thw"][0, 0]
    for metadata in batch["video_metadata"]:
        assert metadata.timestamps == pytest.approx(clip.seconds, abs=1e-6)


def test_metadata_given_to_the_processor_stay_as_they_are(processor):
    indices = [0, 2, 5]
    given = [{"fps": 2.0, "frames_indices": indices, "total_num_frames": 9}]

    batches = [processor(text=VIDEO, videos=[random_frames(3)], video_metadata=given) for _ in range(2)]

    assert indices == [0, 2, 5]
    assert given == [{"fps": 2.0, "frames_indices": indices, "total_num_frames": 9}]
    assert_same_batch(*batches)


def test_a_single_frame_is_a_video_of_one_patch(processor):
    frames = random_frames(1)

    batch = processor(text=VIDEO, videos=frames, seconds=[[3.0]], return_metadata=True)

    assert batch["video_grid_thw"].tolist() == [[1, 6, 8]] and batch["generator_video_grid_thw"].tolist() == [
        [1, 3, 4]
    ]
    assert batch["video_metadata"][0].timestamps == [3.0]
    patches = batch["pixel_values_videos"].reshape(48, 3, 2, 8, 8)
    assert torch.equal(patches[:, :, 0], patches[:, :, 1])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_video_text_is_what_stands_in_the_prompt(processor, count):
    clip = clip_from_frames(random_frames(count), seconds=np.arange(count) * 0.7)

    batch = processor(text=f"a{VIDEO}b", videos=clip)

    text = VIDEO.replace(processor.video_token, processor.video_text(clip, batch["video_grid_thw"][0]))
    assert processor.decode(batch["input_ids"][0]) == f"a{text}b"


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_given_times(processor, count):
    frames, seconds = random_frames(count), (np.arange(count) * 0.25 + 3).tolist()
    expected = 2 * 0.25 if count > 1 else 2.0

    by_seconds = processor(text=VIDEO, videos=frames, seconds=seconds)
    by_metadata = processor(
        text=VIDEO,
        videos=[frames],
        video_metadata={"fps": 4, "frames_indices": np.arange(count) + 12, "total_num_frames": 99},
    )

    if "second_per_grid_ts" in processor.model_input_names:
        assert by_seconds["second_per_grid_ts"].tolist() == pytest.approx([expected])
    assert_same_batch(by_seconds, by_metadata)
    by_rate = processor(text=VIDEO, videos=frames, video_metadata={"fps": 4}, return_metadata=True)
    assert by_rate["video_metadata"][0].timestamps == [0.25 * number for number in range(count)]
    assert_same_batch(by_seconds, processor(text=VIDEO, videos=clip_from_frames(frames, seconds=seconds)))


def test_given_times_of_a_folder_allow_sampling_by_rate(processor, tmp_path):
    for number, frame in enumerate(random_frames(9)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")

    batch = processor(
        text=VIDEO, videos=[tmp_path], seconds=[[0.5 * n for n in range(9)]], fps=1, return_metadata=True
    )

    assert batch["video_metadata"][0].timestamps == [0, 1, 2, 3, 4]


# Chat


def test_chat_template_renders_and_prepares(processor, tmp_path):
    path = write_video(tmp_path / "video.mp4", 20)
    image = Image.fromarray(random_frames(1)[0])
    messages = user(
        {"type": "video", "path": str(path)}, {"type": "image", "image": image}, {"type": "text", "text": "Where?"}
    )

    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    batch = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", num_frames=6
    )

    assert prompt == f"<|im_start|>user\n{VIDEO}{IMAGE}Where?<|im_end|>\n<|im_start|>assistant\n"
    assert_same_batch(batch, processor(text=prompt, videos=path, images=image, num_frames=6))
    assert batch["generator_video_grid_thw"][0, 0] == 6
    ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, num_frames=6)
    assert torch.equal(ids, batch["input_ids"])


def test_batched_conversations(processor, tmp_path):
    path = write_video(tmp_path / "video.mp4", 20)
    frames = random_frames(4)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    conversations = [
        user({"type": "video", "video": str(path)}, {"type": "text", "text": "Where?"}),
        user(
            {"type": "text", "text": "Compare."},
            {"type": "video", "path": str(tmp_path)},
            {"type": "video", "video": frames},
        ),
        user({"type": "video", "video": [str(tmp_path / f"{number}.png") for number in range(4)]}),
        [{"role": "user", "content": "No picture."}],
    ]

    batch = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, fps=None, num_frames=5, processor_kwargs={"padding": True}
    )

    assert batch["input_ids"].shape[0] == 4
    assert batch["generator_video_grid_thw"][:, 0].tolist() == [5, 4, 4, 4]
    patches = batch["generator_pixel_values_videos"][60:].reshape(3, -1)
    assert torch.equal(patches[0], patches[1]) and torch.equal(patches[0], patches[2])


def test_assistant_tokens_mask(processor):
    messages = [
        *user({"type": "video", "video": random_frames(4)}, {"type": "text", "text": "Where?"}),
        {"role": "assistant", "content": "left"},
    ]

    batch = processor.apply_chat_template(
        [messages, messages[1:]],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )

    for ids, mask in zip(batch["input_ids"], batch["assistant_masks"], strict=True):
        assert processor.decode(ids[torch.as_tensor(mask).bool()]) == "left<|im_end|>"


def test_the_calls_of_the_pipeline(processor, tmp_path):
    """`pipeline("image-text-to-text")` renders, prepares, casts, decodes; and calls with images and text directly."""
    image = Image.fromarray(random_frames(1)[0])
    messages = user({"type": "image", "image": image}, {"type": "text", "text": "Where?"})

    inputs = processor.apply_chat_template(
        messages,
        continue_final_message=False,
        return_tensors="pt",
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={},
    ).to(dtype=torch.bfloat16)
    direct = processor(images=[image], text=f"{IMAGE}Where?", return_tensors="pt").to(dtype=torch.bfloat16)

    assert inputs["pixel_values"].dtype == direct["pixel_values"].dtype == torch.bfloat16
    texts = processor.post_process_image_text_to_text(inputs["input_ids"], skip_special_tokens=True)
    assert texts == ["user\nWhere?\nassistant\n"]
    assert processor.batch_decode(inputs["input_ids"], skip_special_tokens=True) == texts


# Casting, names, saving


def test_generator_pixels_stay_bytes_through_a_cast(processor):
    batch = processor(text=f"{IMAGE}{VIDEO}", videos=random_frames(4), images=random_frames(1)[0])
    before = {name: value.clone() for name, value in batch.items()}

    cast = batch.to("cpu", torch.bfloat16)

    for name in ("generator_pixel_values", "generator_pixel_values_videos"):
        assert cast[name].dtype == torch.uint8
        assert torch.equal(cast[name], before[name])
    assert cast["pixel_values_videos"].dtype == torch.bfloat16


@pytest.mark.parametrize("vlm", VLM_PROCESSORS)
def test_every_output_is_a_model_input(vlm):
    processor = build_processor(vlm)

    batch = processor(text=f"{IMAGE}{VIDEO}", videos=random_frames(4), images=random_frames(1)[0])

    assert set(batch) <= set(processor.model_input_names)


def test_each_pixel_processor_claims_its_outputs(processor):
    """Serving engines cut a batch into its images and videos by these names."""
    batch = processor(text=f"{IMAGE}{VIDEO}", videos=random_frames(4), images=random_frames(1)[0])
    images, videos = (
        {name for name in batch if name in part.model_input_names}
        for part in (processor.image_processor, processor.video_processor)
    )

    pixels = {name for name in batch if "pixel" in name or "grid_thw" in name}
    assert images == {name for name in pixels if "video" not in name} and videos == pixels - images
    assert "model_input_names" not in processor.to_json_string()
    assert len(processor.model_input_names) == len(set(processor.model_input_names))


def test_the_processor_of_the_vlm_keeps_its_names(processor):
    own = processor.vlm_processor
    own.image_processor = type(own.image_processor)(**own.image_processor.to_dict())
    del own.image_processor.model_input_names

    VegaProcessor.from_vlm_processor(own)

    assert own.image_processor.model_input_names == ["pixel_values", "image_grid_thw"]


def test_numbers_of_placeholders_are_known_before_there_is_anything_to_prepare(processor):
    images, videos = [(48, 64), (20, 200), (256, 300)], [(1, 48, 64), (4, 96, 60), (5, 300, 256)]

    told = processor._get_num_multimodal_tokens(image_sizes=images, video_sizes=videos)

    for number, (height, width) in enumerate(images):
        batch = processor(text=IMAGE, images=random_frames(1, height, width)[0])
        assert told["num_image_patches"][number] == len(batch["pixel_values"])
        assert told["num_image_tokens"][number] == (batch["input_ids"] == processor.image_token_id).sum()
    for number, size in enumerate(videos):
        batch = processor(text=VIDEO, videos=random_frames(*size))
        assert told["num_video_tokens"][number] == (batch["input_ids"] == processor.video_token_id).sum()
    assert "num_video_tokens" in told and processor._get_num_multimodal_tokens(images)["num_video_tokens"] is None


def without_auto_map(values):
    """A save notes where the code is, in the processor and in its parts."""
    if not isinstance(values, dict):
        return values
    return {key: without_auto_map(value) for key, value in values.items() if key != "auto_map"}


@pytest.mark.parametrize("vlm", VLM_PROCESSORS)
def test_saved_and_loaded_processor_is_the_same(vlm, tmp_path):
    settings = {
        "num_frames": 5,
        "generator_patch_size": 8,
        "generator_max_area": 4096,
        "generator_frame_fit": "center_crop",
        "generator_frame_size": (32, 48),
    }
    processor = build_processor(vlm, **settings)
    values = processor.to_dict()
    processor.save_pretrained(tmp_path)
    inputs = {"text": f"{IMAGE}{VIDEO} where?", "videos": random_frames(9), "images": random_frames(1)[0]}
    expected = processor(**inputs)

    AutoProcessor.register(ProcessorTestConfig, VegaProcessor, exist_ok=True)
    for loader in (VegaProcessor, AutoProcessor):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is VegaProcessor
        assert without_auto_map(loaded.to_dict()) == without_auto_map(values)
        assert loaded.chat_template == processor.chat_template
        assert_same_batch(loaded(**inputs), expected)
    assert VegaProcessor.from_pretrained(tmp_path, generator_max_area=999424).generator_max_area == 999424


def test_a_processor_saved_under_the_earlier_name_of_the_patch_size_loads(tmp_path):
    saved = FROZEN / "processor_config.json"
    assert json.loads(saved.read_text())["generator_cell"] == 16

    processor = VegaProcessor.from_pretrained(saved.parent)
    processor.save_pretrained(tmp_path)

    assert processor.frame_settings == FrameSettings(16, max_area=192 * 192)
    stored = json.loads((tmp_path / "processor_config.json").read_text())
    assert stored["generator_patch_size"] == 16 and "generator_cell" not in stored


def test_another_patch_size_under_the_earlier_name_is_read(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    values = json.loads(file.read_text())
    del values["generator_patch_size"]
    file.write_text(json.dumps({**values, "generator_cell": 8}))

    assert VegaProcessor.from_pretrained(tmp_path).generator_patch_size == 8


def test_saved_code_travels_with_the_processor(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(VegaProcessor, "_auto_class", "AutoProcessor")
    processor.save_pretrained(tmp_path)

    remote_class = get_class_from_dynamic_module("processing_vega3d.VegaProcessor", tmp_path)
    loaded = remote_class.from_pretrained(tmp_path)

    assert remote_class.__module__.startswith("transformers_modules.")
    inputs = {"text": VIDEO, "videos": random_frames(9)}
    assert_same_batch(loaded(**inputs), processor(**inputs))


def test_the_vlm_stream_is_what_the_vlm_processor_gives(processor):
    frames, size = random_frames(6), dict(processor.video_processor.size)
    expected = processor.vlm_processor(
        text=[VIDEO],
        videos=[frames],
        video_metadata=[{"fps": 1.0, "total_num_frames": 6, "frames_indices": list(range(6))}],
        return_tensors="pt",
    )

    batch = processor(text=VIDEO, videos=frames)

    assert_same_batch({name: batch[name] for name in expected}, expected)
    assert dict(processor.video_processor.size) == size


# Errors


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"text": VIDEO}, r"hold 1 video placeholder\(s\), but 0 video\(s\) were given"),
        ({"text": IMAGE + VIDEO, "videos": random_frames(2)}, r"hold 1 image placeholder\(s\), but 0 image\(s\)"),
        ({"text": "no place", "videos": random_frames(2)}, r"hold 0 video placeholder\(s\), but 1 video\(s\)"),
        ({"text": VIDEO, "videos": [random_frames(2)] * 3}, r"hold 1 video placeholder\(s\), but 3 video\(s\)"),
        (
            {"text": [VIDEO, VIDEO], "videos": [[random_frames(2)] * 2, []]},
            r"hold 2 .* but 2 video\(s\) were given \(prompt by prompt \[1, 1\] and \[2, 0\]\)",
        ),
        ({"text": VIDEO, "videos": ["missing.mp4"]}, "missing.mp4: there is no such video file"),
        ({"text": VIDEO, "videos": 3}, "Got int as a video. Give a path, a VideoClip"),
        ({"text": VIDEO, "videos": np.zeros((4, 4), np.uint8)}, r"Got ndarray of shape \[4, 4\] as a video"),
        ({"text": VIDEO, "videos": np.zeros((2, 32, 32, 3), np.float32)}, r"got ndarray float32\[2, 32, 32, 3\]"),
        ({"text": IMAGE, "images": np.zeros((32, 32, 3), np.float32)}, r"got ndarray float32"),
        ({"text": VIDEO, "videos": random_frames(2), "num_frames": 2, "fps": 1.0}, "exclude each other"),
        ({"text": VIDEO, "videos": random_frames(2), "num_frames": 0}, "at least 1, but got 0"),
        ({"text": VIDEO, "videos": random_frames(2), "fps": 1.0}, "needs the time of each frame"),
        ({"text": VIDEO, "videos": [random_frames(2)], "seconds": [[0, 1], [0, 1]]}, r"holds 2 entries for 1 video"),
        ({"text": VIDEO, "videos": random_frames(2), "seconds": [[0, 1, 2]]}, r"got 2 frames and times \(3,\)"),
        (
            {"text": VIDEO, "videos": random_frames(2), "seconds": [0, 1], "video_metadata": {"fps": 2}},
            "`seconds` and `video_metadata` exclude each other",
        ),
        ({"text": VIDEO, "videos": clip_from_frames(random_frames(2), fps=1), "seconds": [0, 1]}, "knows the times"),
    ],
)
def test_inputs_that_do_not_fit(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "`num_frames` must be a whole number of at least 1, but got 0"),
        ({"generator_patch_size": 0}, "`generator_patch_size` must be a whole number of at least 1, but got 0"),
        ({"generator_max_area": 255}, r"`generator_max_area` \(255 px\) must hold at least one patch of 16x16 px"),
        ({"generator_max_area": 10**12}, "frames of 1000000000000 px, but the most is 67108864 px"),
        ({"generator_frame_fit": "stretch"}, "must be one of .* but got 'stretch'"),
        ({"generator_frame_fit": "center_crop"}, "got None and 'center_crop'. Give both or neither"),
        ({"generator_frame_size": (32, 32)}, r"got \[32, 32\] and 'resize'"),
        (
            {"generator_frame_fit": "center_crop", "generator_frame_size": (32, 40)},
            r"in multiples of `generator_patch_size` \(16 px\), but got \[32, 40\]",
        ),
        ({"generator_frame_fit": "center_crop", "generator_frame_size": (32,)}, r"but got \[32\]"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        build_processor(**settings)


@pytest.mark.parametrize("name", ["Qwen2_5_VLModel", "AutoProcessor", "os", "", None])
def test_only_processors_of_transformers_are_looked_up(processor, name):
    with pytest.raises(ValueError, match="must name a processor class of transformers, such as 'Qwen2_5_VLProcessor'"):
        VegaProcessor(
            processor.image_processor, processor.tokenizer, processor.video_processor, vlm_processor_class=name
        )


def test_numbered_frames_stay_in_order_in_both_streams(processor):
    frames = np.stack([numbered_frame(number) for number in range(8)])

    semantic, generative = brightness_by_token(processor(text=VIDEO, videos=frames), "video")

    assert (semantic.mean((1, 2)).diff() > 0).all()
    assert (generative.mean((1, 2)).diff() > 0).all()
