"""Words of the page, and what it shows of a comparison as HTML; all text of models and visitors is escaped."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from vega3d.demo.compare import Comparison
from vega3d.demo.examples import CATEGORY_NAMES, COLUMNS, MACRO, Example, Scores, holds_number, points
from vega3d.inference.answer import Answer
from vega3d.inference.encoding import EncodedClip
from vega3d.inference.gate_figure import gate_overlays, gate_scale

TITLE = "VEGA-3D"
INTRODUCTION = (
    "Ask a question about the space that a video shows. A frozen video diffusion model, the *world simulator*, looks "
    "at the frames beside the vision encoder of a language model, and a gate decides for each token how much of it to "
    "take in. The same model answers twice: with it, and with it switched off."
)
WITH, WITHOUT = "With the world simulator", "Without"
ABOUT = {
    WITHOUT: "The simulator's part of each visual token is left out. The model was never trained on such tokens, so "
    "expect no answer."
}
EXAMPLES, QUESTION, KIND = "Examples", "Question", "Answer with"
ASK_HERE, OPTIONS_HERE = "What do you want to know about the space?", "Options, one a line"
GATES = "Gate maps over the frames"
MARKED = "The frame with the boxes"
WAITING = "The answer appears here."
STOPPED = '<div class="vega-faint">Stopped.</div>'
NOTHING_SAID = "(nothing but blank space)"
NO_NUMBER, WRITTEN = "No answer: no number.", "What the model wrote"
READ_GATES = (
    "Each picture is a moment of the video; each square over it is one visual token. <b>Dark</b> squares take in the "
    "most from the world simulator, <b>bright</b> ones keep more of what the vision encoder sees. Click to enlarge."
)
NO_GATES = "The fusion of this model has not one gate for each token, so there is no map to show."
FOOTNOTE = (
    "Without: the vision encoder's own tokens go on unfused, through the same weights, which were not trained that "
    "way. So the difference shows what this model draws from its world simulator, not what a model trained without "
    "one could do. Uploaded files are deleted after an hour and used for nothing else."
)
BAD_REQUEST = (
    "The request does not fit. `/answer` takes four values: a video that was uploaded (`handle_file` of a file), a "
    "question, a kind of answer and options, each text."
)
FAILED = "Something failed on the server; its log says what. Try again."
NO_MEMORY = "The GPU has no memory left for this. Try again, or with a smaller video."
NO_ROOM = "The server holds as many uploads as it takes. Try again in a minute."
OTHER_HOST = (
    "The demo does not answer to this name. Open it under the address that it printed; for a name of its own, or of a "
    "proxy, start it with --allow-host NAME."
)
OTHER_ORIGIN = (
    "The demo does not answer the pages of other sites. For a proxy under another name start it with "
    "--allow-host NAME."
)
SCORES_TITLE = "How good is it, over many rooms? [%]"
SCORES = (
    "{rooms:,} rooms that it was not trained on, {questions:,} questions. <b>Constant</b>: an answer that ignores "
    "picture and question. "
)
OFF = (
    "<b>Switched off</b>: the same weights without the world simulator; the difference is {difference} points (95 % "
    "interval). "
)
TRAINED = (
    "<b>Trained with</b> a world simulator, <b>without</b> one: means over {seeds} models each; the difference is "
    "{difference} points (95 % interval). "
)
TRAINED_ELSEWHERE = (
    "Models <b>trained</b> with one score {with_it:.1f} on {rooms:,} rooms, those trained without one {without:.1f}: "
    "means over {seeds} models each; the difference is {difference} points (95 % interval)."
)


def notice_panel(notice: str | None) -> str:
    return f'<div class="vega-notice"><b>Note.</b> {escape(notice)}</div>' if notice else ""


def answer_panel(
    title: str,
    style: str,
    answer: Answer,
    options: Sequence[str] = (),
    was_stopped: bool = False,
    is_numeric: bool = False,
) -> str:
    """One answer: its text so far, a bar an option, and the time taken.

    A number is shown when it is whole, and a text that is none, as VSI-Bench reads it, only when it is asked for.
    """
    parts = [heading(title)]
    if is_numeric and answer.seconds is None:
        answer = replace(answer, text="")
    if is_numeric and answer.text and not holds_number(answer.text):
        parts.append(no_number(answer))
        answer = replace(answer, reason=None)
    elif answer.text:
        parts.append(f'<div class="vega-text">{escape(answer.text)}</div>')
    elif answer.seconds is not None:
        parts.append(f'<div class="vega-text vega-faint">{NOTHING_SAID}</div>')
    elif not was_stopped:
        parts.append('<div class="vega-faint">…</div>')
    if answer.reason:
        parts.append(f'<div class="vega-faint">{escape(answer.reason)}</div>')
    if answer.options is not None:
        parts.append(bars(answer.options, options))
    if answer.seconds is not None:
        parts.append(f'<div class="vega-faint">{answer.seconds:.2f} s</div>')
    elif was_stopped:
        parts.append(STOPPED)
    return panel(style, "".join(parts))


def heading(title: str) -> str:
    """The title of a panel, and what is to be known before its answer is read."""
    about = f'<div class="vega-about">{escape(ABOUT[title])}</div>' if title in ABOUT else ""
    return f"<h3>{escape(title)}</h3>{about}"


def no_number(answer: Answer) -> str:
    """In place of a text without a number, with the text one click away."""
    written = escape(". ".join(text for text in (answer.reason, answer.text) if text))
    return (
        f'<div class="vega-text vega-faint">{NO_NUMBER}</div>'
        f'<details class="vega-faint"><summary>{WRITTEN}</summary>{written}</details>'
    )


def empty_panel(title: str, style: str) -> str:
    return panel(style, f'{heading(title)}<div class="vega-faint">{WAITING}</div>')


def panel(style: str, content: str) -> str:
    return f'<div class="vega-answer {style}" aria-live="polite">{content}</div>'


def bars(probabilities: dict[str, float], options: Sequence[str]) -> str:
    rows = []
    for (letter, probability), option in zip(probabilities.items(), options, strict=True):
        text = f"{letter}. {escape(option)}"
        rows.append(f'<div class="vega-bar"><i style="width:{100 * probability:.1f}%"></i><span>{text}</span></div>')
        rows.append(f"<b>{probability:.0%}</b>")
    return f'<div class="vega-bars">{"".join(rows)}</div>'


def outcome_panel(state: Comparison, right: str | None, note: str | None = None) -> str:
    """What is to be said of this question, the right answer if it is known, and where the time went."""
    origin = f"read and encoded in {state.encoding_seconds:.1f} s"
    if state.was_stored:
        origin = "kept from an earlier question"
    parts = [f"{len(state.clip.seconds or ())} frames, {origin}."]
    if right is not None:
        parts.insert(0, f"<b>Right answer: {escape(right)}</b> (by the geometry of the room).")
    return f'{notice_panel(note)}<div class="vega-faint">{" ".join(parts)}</div>'


def right_answer(example: Example | None, question: str, options: Sequence[str]) -> str | None:
    """That of an example, as long as neither its question nor its options were changed."""
    if example is None or question != example.question or tuple(options) != example.options:
        return None
    return example.right


def reading_panel(clip: EncodedClip | None = None) -> str:
    """How to read the gate maps; of a clip also the range of its gates."""
    if clip is None:
        return f'<div class="vega-faint">{READ_GATES}</div>'
    if clip.gates is None:
        return f'<div class="vega-faint">{NO_GATES}</div>'
    low, high = gate_scale(clip.gates.numpy())
    scale = f'<span class="vega-ends">{low:.2f} <span class="vega-scale"></span> {high:.2f}</span>'
    gates = f"Gates of this clip: {scale}, mean {float(clip.gates.mean()):.2f}."
    return f'<div class="vega-faint">{gates} {READ_GATES}</div>'


def gate_maps(clip: EncodedClip | None = None) -> str:
    """The first frame of each temporal patch with the gate over it, and its time."""
    if clip is None or clip.gates is None or clip.frames is None or clip.seconds is None:
        return '<div class="vega-frames empty"></div>'
    pictures = gate_overlays(clip.frames, clip.gates.numpy())
    figures = [picture(frame, f"{second:.1f} s") for frame, second in zip(pictures, clip.seconds[::2], strict=True)]
    return f'<div class="vega-frames">{"".join(figures)}</div>'


def picture(frame: np.ndarray, caption: str) -> str:
    """uint8[H, W, 3] inside the page itself: Gradio never removes the files that it makes of pictures."""
    file = BytesIO()
    Image.fromarray(frame).save(file, format="webp", quality=85)
    source = f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"
    caption = escape(caption)
    image = f'<img src="{source}" alt="{caption}" tabindex="0" role="button">'
    return f'<figure class="vega-picture">{image}<figcaption>{caption}</figcaption></figure>'


def scoreboard(scores: Scores) -> str:
    """A table of the scores over many rooms [%], with how far the interval of the difference reaches."""
    columns = scores.columns
    head = "".join(f"<td>{COLUMNS[column]}</td>" for column in columns)
    rows = []
    for name, row in scores.scores.items():
        cells = "".join(f"<td>{100 * row[column]:.1f}</td>" for column in columns)
        style = ' class="vega-mean"' if name == MACRO else ""
        rows.append(f"<tr{style}><th>{escape(CATEGORY_NAMES.get(name, name))}</th>{cells}</tr>")
    table = f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    caption = f'<div class="vega-faint">{scores_caption(scores)}</div>'
    return f'<div class="vega-heading">{SCORES_TITLE}</div>{table}{caption}'


def scores_caption(scores: Scores) -> str:
    """What the columns are, and how far the intervals of the differences reach."""
    caption = SCORES.format(rooms=scores.rooms, questions=scores.questions)
    if "off" in scores.columns:
        caption += OFF.format(difference=points(scores.difference))
    if "without" in scores.columns:
        caption += TRAINED.format(seeds=scores.seeds, difference=points(scores.difference))
    if scores.trained is not None:
        values = {name: scores.trained[name] for name in ("rooms", "seeds")}
        means = {"with_it": 100 * scores.trained["with"], "without": 100 * scores.trained["without"]}
        caption += TRAINED_ELSEWHERE.format(**values, **means, difference=points(scores.trained["difference"]))
    return caption
