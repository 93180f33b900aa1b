"""The clips that a model sees: sampled, with the boxes of a question drawn in; and the features of a whole corpus."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vega3d.processing.sampling_vega3d import choose_frames
from vega3d.questions import Mark
from vega3d.rooms.questions.marks import draw_marks

if TYPE_CHECKING:  # they import torch, which a refusal of `corpus_clips` does not wait for
    from vega3d.features.cache import FeatureCache
    from vega3d.modeling.generator_vega3d import VegaGenerator
    from vega3d.processing.processing_vega3d import VegaProcessor
    from vega3d.processing.video_vega3d import VideoClip

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


def sampled_clip(
    visual: "str | Path | VideoClip",
    num_frames: int | None,
    fps: float | None = None,
    marked_frame: int | None = None,
    marks: Sequence[Mark] = (),
) -> "VideoClip":
    """Samples a video evenly, or at `fps` frames a second, and draws in the boxes that a question marks.

    The frame with the boxes is always among the sampled ones. Where sampling leaves it out, it takes the place of the
    sampled frame that is nearest in time.

    Args:
        visual: a video file, or a whole clip.
        num_frames: frames wanted; None with `fps`.
        fps: frames a second instead.
        marked_frame: number of the frame in the whole video that the boxes are on.
        marks: left, top, right, bottom [px] of boxes A, B, ...

    Raises:
        ValueError: if the video cannot be read, or lacks the frame or a marked place; if boxes have no frame.
    """
    from vega3d.processing.video_vega3d import VideoClip, read_video

    if marks:
        check_marked_frame(marked_frame, marks)
    if not isinstance(visual, VideoClip):
        if not marks:
            return read_video(visual, num_frames, fps)
        visual = read_video(visual, sys.maxsize)
    chosen = choose_frames(visual.seconds, num_frames, fps)
    if marks and marked_frame is not None:
        clip, place = clip_with_frame(visual, chosen, marked_frame)
        clip.frames[place] = draw_marks(clip.frames[place], marks)
        return clip
    return chosen_frames(visual, chosen)


def check_marked_frame(frame: int | None, marks: Sequence[Mark]) -> None:
    if not isinstance(frame, Integral) or frame < 0:
        raise ValueError(
            f"{len(marks)} boxes are marked on frame {frame!r}, but that must be a whole number from 0. Give "
            "the number of the frame of the whole video that they are on."
        )


def clip_with_frame(visual: "VideoClip", chosen: np.ndarray, frame: int) -> "tuple[VideoClip, int]":
    """The chosen frames of a whole clip with one more of its frames in the place of the nearest, and that place.

    Raises ValueError if the clip lacks the frame.
    """
    if frame >= len(visual):
        raise ValueError(
            f"Frame {frame} is marked, but {visual.source} has {len(visual)} frames. Give the video that "
            "the question was made for."
        )
    place = int(np.abs(visual.seconds[chosen] - visual.seconds[frame]).argmin())
    chosen = chosen.copy()
    chosen[place] = frame
    return chosen_frames(visual, chosen), place


def chosen_frames(visual: "VideoClip", chosen: np.ndarray) -> "VideoClip":
    """The clip of some frames of a whole one."""
    geometry = None if visual.geometry is None else visual.geometry.of_frames(chosen, len(visual))
    return replace(visual, frames=visual.frames[chosen], seconds=visual.seconds[chosen], geometry=geometry)


class CorpusClip(NamedTuple):
    """A video as a model sees it, with the boxes that a question marks in one of its frames."""

    video: Path
    marked_frame: int | None = None
    marks: tuple[Mark, ...] = ()


def corpus_clips(data: str | Path, split: str | None = None) -> list[CorpusClip]:
    """All different clips of a corpus: a data set of rooms (with `split` one table of it), a folder of videos, or one.

    Raises ValueError if there is none, or `split` is given without a data set of rooms.
    """
    path = Path(data)
    if split is not None and not (path.is_dir() and list(path.glob("*.parquet"))):
        raise ValueError(
            f"split is {split!r}, but {path} is no data set of rooms, which alone has tables. Leave it out."
        )
    if path.is_file():
        return [CorpusClip(path)]
    if not path.is_dir():
        raise ValueError(f"{path} is not there. Give a video, a folder of videos, or a data set of rooms.")
    if list(path.glob("*.parquet")):
        return list(dict.fromkeys(question_clips(path, split)))
    videos = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if not videos:
        raise ValueError(f"{path} has no videos ({', '.join(VIDEO_SUFFIXES)}). Give a folder that has.")
    return [CorpusClip(video) for video in videos]


def share_of_clips(clips: Sequence[CorpusClip], number: int, count: int) -> list[CorpusClip]:
    """The clips that one of `count` processes extracts, itself `number` from 0: every `count`-th, so that shares of
    long and of short videos take as long; together they are all clips, each once."""
    return list(clips[number::count])


def question_clips(folder: Path, split: str | None) -> Iterator[CorpusClip]:
    """The clips that the questions of a data set of rooms ask about, in all of its tables or in one (`split`)."""
    # Here, because it needs pyarrow, which is not installed where no data set of rooms is read.
    from vega3d.rooms.dataset.files import load_spatial_questions

    for name in [split] if split else sorted(table.stem for table in folder.glob("*.parquet")):
        for question in load_spatial_questions(folder, name):
            yield CorpusClip(Path(question.visual), question.frame if question.marks else None, tuple(question.marks))


def extract(
    cache: "FeatureCache",
    generator: "VegaGenerator",
    processor: "VegaProcessor",
    clips: Iterable[CorpusClip],
    num_frames: int | None = None,
    fps: float | None = None,
    blocks: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Computes and stores what the cache lacks of each clip, in one pass over it.

    Args:
        cache: takes the features.
        generator: loaded from files, up to the deepest of `blocks`.
        processor: of the same model; it samples and fits the frames.
        clips: see `corpus_clips`.
        num_frames: frames sampled evenly; the processor's own number if neither this nor `fps` is given.
        fps: frames sampled a second instead.
        blocks: several blocks, each stored alone; None stores those of the generator's config together, as a model
            asks for them.
        timesteps: several noise levels, only with `blocks`; None takes that of the generator's config.
        on_progress: called with 1 after each clip.

    Returns:
        How many clips there were.
    """
    from vega3d.modeling.inputs_vega3d import unpacked_clips

    count = 0
    frames = processor.num_frames if num_frames is None and fps is None else num_frames
    for item in clips:
        clip = sampled_clip(item.video, frames, fps, item.marked_frame, item.marks)
        inputs = processor.generator_inputs(videos=[clip], num_frames=len(clip))
        [pixels] = unpacked_clips(inputs, processor.generator_patch_size)
        if blocks is None:
            cache.features(generator, [pixels])
        else:
            for _ in cache.read(generator, pixels, blocks, timesteps or [generator.config.timestep]):
                pass
        count += 1
        if on_progress is not None:
            on_progress(1)
    return count
