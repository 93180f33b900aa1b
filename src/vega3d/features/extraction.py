"""The features of a corpus, computed ahead: which clips it has, and one pass over each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vega3d.features.cache import FeatureCache, clips_of
from vega3d.features.clips import sampled_clip
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.questions import Mark
from vega3d.rooms.dataset.dataset_questions import load_spatial_questions

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


class CorpusClip(NamedTuple):
    """A video as a model sees it, with the boxes that a question marks in one of its frames."""

    video: Path
    marked_frame: int | None = None
    marks: tuple[Mark, ...] = ()


def corpus_clips(data: str | Path, split: str | None = None) -> list[CorpusClip]:
    """All different clips of a corpus.

    Args:
        data: a data set of rooms, any folder of videos, or one video.
        split: table of a data set of rooms.

    Raises:
        ValueError: if there is none.
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


def question_clips(folder: Path, split: str | None) -> Iterator[CorpusClip]:
    """The clips that the questions of a data set of rooms need, in all of its tables or in that of a split."""
    for name in [split] if split else sorted(table.stem for table in folder.glob("*.parquet")):
        for question in load_spatial_questions(folder, name):
            yield CorpusClip(Path(question.visual), question.frame if question.marks else None, tuple(question.marks))


def extract(
    cache: FeatureCache,
    generator: VegaGenerator,
    processor: VegaProcessor,
    clips: Iterable[CorpusClip],
    num_frames: int | None = None,
    fps: float | None = None,
    blocks: Sequence[int] | None = None,
    timesteps: Sequence[int] | None = None,
    on_clip: Callable[[int], None] | None = None,
) -> int:
    """Computes and stores what the cache lacks of each clip, in one pass over it.

    Args:
        cache: to fill.
        generator: loaded from files; with `blocks`, deep enough.
        processor: of the model.
        clips: of the corpus.
        num_frames: frames sampled evenly; the processor's own if neither this nor `fps` is given.
        fps: frames sampled a second instead.
        blocks: several, each stored alone; those of the generator's config, as a model asks for them, if None.
        timesteps: several noise levels; that of the generator's config if None. Only with `blocks`.
        on_clip: called with 1 after each clip.

    Returns:
        How many clips there were.
    """
    count = 0
    frames = processor.num_frames if num_frames is None and fps is None else num_frames
    for item in clips:
        clip = sampled_clip(item.video, frames, fps, item.marked_frame, item.marks)
        inputs = processor.generator_inputs(videos=[clip], num_frames=len(clip))
        [pixels] = clips_of(inputs, generator.config.patch_size)
        if blocks is None:
            cache.features(generator, [pixels])
        else:
            for _ in cache.read(generator, pixels, blocks, timesteps or [generator.config.timestep]):
                pass
        count += 1
        if on_clip is not None:
            on_clip(1)
    return count
