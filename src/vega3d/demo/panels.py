"""What the page shows of a comparison, as HTML; all text of models and visitors is escaped."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from vega3d.demo import texts
from vega3d.demo.compare import Comparison, Reply, Scene
from vega3d.demo.examples import Example
from vega3d.demo.scores import COLUMNS, MACRO, Scores
from vega3d.hub.gate_figure import gate_overlays, gate_scale


def notice_panel(notice: str | None) -> str:
    return f'<div class="vega-notice"><b>Note.</b> {escape(notice)}</div>' if notice else ""


def answer_panel(title: str, style: str, reply: Reply, options: Sequence[str] = (), was_stopped: bool = False) -> str:
    """One answer: its text so far, a bar an option, and the time taken."""
    parts = [f"<h3>{escape(title)}</h3>"]
    if reply.text:
        parts.append(f'<div class="vega-text">{escape(reply.text)}</div>')
    elif reply.seconds is not None:
        parts.append(f'<div class="vega-text vega-faint">{texts.NOTHING_SAID}</div>')
    elif not was_stopped:
        parts.append('<div class="vega-faint">…</div>')
    if reply.options is not None:
        parts.append(bars(reply.options, options))
    if reply.seconds is not None:
        parts.append(f'<div class="vega-faint">{reply.seconds:.2f} s</div>')
    elif was_stopped:
        parts.append(texts.STOPPED)
    return panel(style, "".join(parts))


def empty_panel(title: str, style: str) -> str:
    return panel(style, f'<h3>{escape(title)}</h3><div class="vega-faint">{texts.WAITING}</div>')


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
    kept = "kept from an earlier question" if state.was_kept else f"read and encoded in {state.seconds_of_scene:.1f} s"
    parts = [f"{len(state.scene.seconds)} frames, {kept}."]
    if right is not None:
        parts.insert(0, f"<b>Right answer: {escape(right)}</b> (by the geometry of the room).")
    return f'{notice_panel(note)}<div class="vega-faint">{" ".join(parts)}</div>'


def right_answer(example: Example | None, question: str, options: Sequence[str]) -> str | None:
    """That of an example, as long as neither its question nor its options were changed."""
    if example is None or question != example.question or tuple(options) != example.options:
        return None
    if not options:
        return example.answer
    return f"{example.answer}. {options[ord(example.answer) - ord('A')]}"


def reading_panel(scene: Scene | None = None) -> str:
    """How to read the gate maps; of a scene also its range."""
    if scene is None:
        return f'<div class="vega-faint">{texts.READ_GATES}</div>'
    if scene.gates is None:
        return f'<div class="vega-faint">{texts.NO_GATES}</div>'
    return f'<div class="vega-faint">{scale_of(scene.gates)} {texts.READ_GATES}</div>'


def scale_of(gates: torch.Tensor) -> str:
    """The colours of the maps, with the gates at their ends."""
    low, high = gate_scale(gates.numpy())
    scale = f'<span class="vega-ends">{low:.2f} <span class="vega-scale"></span> {high:.2f}</span>'
    return f"Gates of this clip: {scale}, mean {float(gates.mean()):.2f}."


def gate_maps(scene: Scene | None = None) -> str:
    """The first frame of each temporal patch with the gate over it, and its time."""
    if scene is None or scene.gates is None:
        return '<div class="vega-frames empty"></div>'
    pictures = gate_overlays(scene.frames, scene.gates.numpy())
    figures = [picture(frame, f"{second:.1f} s") for frame, second in zip(pictures, scene.seconds[::2], strict=True)]
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
    head = "".join(f"<td>{title}</td>" for title in COLUMNS.values())
    rows = []
    for name, row in scores.scores.items():
        cells = "".join(f"<td>{100 * row[column]:.1f}</td>" for column in COLUMNS)
        style = ' class="vega-mean"' if name == MACRO else ""
        rows.append(f"<tr{style}><th>{escape(texts.CATEGORY_NAMES.get(name, name))}</th>{cells}</tr>")
    points = " ".join(f"{100 * scores.difference[end]:+.1f}" for end in ("low", "high")).replace(" ", " to ")
    caption = texts.SCORES.format(
        rooms=scores.rooms,
        questions=scores.questions,
        seeds=scores.seeds,
        difference=f"{100 * scores.difference['score']:+.1f} ({points})",
    )
    return (
        f'<div class="vega-heading">{texts.SCORES_TITLE}</div><table><tr><th></th>{head}</tr>{"".join(rows)}</table>'
        f'<div class="vega-faint">{caption}</div>'
    )
