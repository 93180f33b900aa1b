"""What a visitor asks, checked before the model runs: the video's format, size and length, and the question."""

from collections.abc import Sequence
from pathlib import Path

from vega3d.demo.examples import Example
from vega3d.features.clips import VIDEO_SUFFIXES
from vega3d.processing.video_decoding_vega3d import decode_timeline, read_timeline
from vega3d.questions import SpatialQuestion

MAX_MIB = 100
MAX_SECONDS = 300
MAX_CHARACTERS = 1000  # of a question
MAX_OPTIONS = 8
MAX_OPTION_CHARACTERS = 200
CHOICE = "a choice"
KINDS = ("free text", "a number", CHOICE)


def check_video(path: str | Path | None) -> Path:
    """Raises ValueError if there is no video, or it is none, broken, or beyond the limits of the demo."""
    if path is None:
        raise ValueError("There is no video yet. Upload one, or choose an example room.")
    path = Path(path)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(
            f"{path.name} is not in a video format that is taken here ({', '.join(VIDEO_SUFFIXES)}). Convert it."
        )
    if not path.is_file():
        raise ValueError("The video is no longer there: uploads are removed after an hour. Upload it again.")
    size = path.stat().st_size / 2**20  # [MiB]
    if size > MAX_MIB:
        raise ValueError(f"{path.name} has {size:.1f} MiB, but at most {MAX_MIB} MiB are taken. Shorten it.")
    timeline = read_timeline(path) or decode_timeline(path)
    seconds = float(timeline.seconds[-1])
    if seconds > MAX_SECONDS:
        raise ValueError(f"{path.name} is {seconds:.0f} s long, but at most {MAX_SECONDS} s are taken. Shorten it.")
    return path


def split_options(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def make_question(
    video: str | Path | None, question: str, kind: str, options: Sequence[str], example: Example | None = None
) -> SpatialQuestion:
    """What a visitor asks, as the model is asked it.

    Args:
        video: path of the upload or of an example.
        question: as it was typed.
        kind: of the answer, one of `KINDS`.
        options: texts of the choices; read only for a choice.
        example: the one that was clicked on, whose marked boxes are drawn in.

    Raises:
        ValueError: as `check_video`, and if the question is empty or too long or the options do not fit the kind.
    """
    path = check_video(video)
    for text in (question, kind, *options):
        if not isinstance(text, str):
            raise ValueError(f"Question, kind of answer and options must be text, but one is {type(text).__name__}.")
        if any("\ud800" <= letter <= "\udfff" for letter in text) or "\0" in text:
            raise ValueError("The text holds half of a character, or a null. Write it again.")
    question = question.strip()
    if not question:
        raise ValueError("The question is empty. Write one, or click on an example.")
    if len(question) > MAX_CHARACTERS:
        raise ValueError(f"The question has {len(question)} characters, but at most {MAX_CHARACTERS} are taken.")
    if kind not in KINDS:
        raise ValueError(f"There is no kind of answer {kind!r}. The kinds are {', '.join(KINDS)}.")
    chosen = check_options(options) if kind == CHOICE else []
    marked = example if example is not None and example.marks else None
    return SpatialQuestion(
        path,
        question,
        chosen,
        is_numeric=kind == "a number",
        frame=marked.frame if marked else None,
        marks=marked.marks if marked else (),
    )


def check_options(options: Sequence[str]) -> list[str]:
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise ValueError(f"A choice needs 2 to {MAX_OPTIONS} options, one a line, but there are {len(options)}.")
    for option in options:
        if len(option) > MAX_OPTION_CHARACTERS:
            raise ValueError(f"An option has {len(option)} characters, but at most {MAX_OPTION_CHARACTERS} are taken.")
    if len(set(options)) < len(options):
        raise ValueError("Two options are the same. Leave one out.")
    return list(options)
