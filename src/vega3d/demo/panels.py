"""What the page shows of a comparison, as HTML; all text of models and visitors is escaped."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from vega3d.demo import texts
from vega3d.demo.compare import Comparison, Reply, Scene
from vega3d.demo.examples import Example
from vega3d.hub.gate_figure import gate_overlays


def notice_panel(notice: str | None) -> str:
    return f'<div class="vega-notice"><b>Note.</b> {escape(notice)}</div>' if notice else ""


def answer_panel(title: str, style: str, reply: Reply, options: Sequence[str] = ()) -> str:
    """One answer: its text so far, a bar an option, and the time taken."""
    parts = [f"<h3>{escape(title)}</h3>"]
    if reply.text:
        parts.append(f'<div class="vega-text">{escape(reply.text)}</div>')
    elif reply.seconds is not None:
        parts.append(f'<div class="vega-text vega-faint">{texts.NOTHING_SAID}</div>')
    else:
        parts.append('<div class="vega-faint">…</div>')
    if reply.options is not None:
        parts.append(bars(reply.options, options))
    if reply.seconds is not None:
        parts.append(f'<div class="vega-faint">{reply.seconds:.2f} s</div>')
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


def outcome_panel(state: Comparison, right: str | None) -> str:
    """The right answer, if it is known, and where the time went."""
    kept = "kept from an earlier question" if state.was_kept else f"read and encoded in {state.seconds_of_scene:.1f} s"
    parts = [f"{len(state.scene.seconds)} frames, {kept}."]
    if right is not None:
        parts.insert(0, f"<b>Right answer: {escape(right)}</b> (by the geometry of the room).")
    return f'<div class="vega-faint">{" ".join(parts)}</div>'


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
    gates = scene.gates
    scale = (
        f'Gate 0 <span class="vega-scale"></span> 1; here {float(gates.min()):.2f} to {float(gates.max()):.2f}, '
        f"mean {float(gates.mean()):.2f}."
    )
    return f'<div class="vega-faint">{texts.READ_GATES} {scale}</div>'


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
    image = f'<img src="{source}" alt="{caption}" tabindex="0">'
    return f'<figure class="vega-picture">{image}<figcaption>{caption}</figcaption></figure>'
