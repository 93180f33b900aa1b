"""A video of attempts of a policy: each camera, beside it the gate map of the query that the step belongs to.

Of a recorded episode the predicted and the recorded actions are drawn below, up to the present step.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vega3d.files import whole_file
from vega3d.inference.gate_figure import gate_overlays, gate_scale
from vega3d.video_files import write_video

if TYPE_CHECKING:  # it imports torch, which refusals do without
    from vega3d.inference.acting import Attempt

MARK = "vega3d act"  # stands at the end of the file, by which a video of an earlier run is known
PANEL, LINE, EDGE = 224, 18, 8  # side of a picture, height of a line of text, and distance between things [px]
PLOT = 48  # height of the plot of one number of the actions [px]
END = 20  # frames for which the end of an attempt is shown
INK, PALE, PAPER = (30, 30, 30), (170, 170, 170), (255, 255, 255)
BLUE, GREEN, RED = (31, 119, 180), (0, 130, 60), (190, 30, 30)


def save_action_video(path: Path, attempts: Sequence["Attempt"], fps: int) -> tuple[float, float] | None:
    """Writes an MP4 of attempts, one after another; returns the gates at the ends of the colours, None without gates.

    The colours are the same for all attempts.
    """
    maps = [gate for one in attempts for query in one.queries for gate in (query.gates or {}).values()]
    scale = gate_scale(np.concatenate([gate.ravel() for gate in maps])) if maps else None
    with whole_file(path) as partial:
        write_video(partial, (frame for one in attempts for frame in attempt_frames(one, scale)), fps)
        note = MARK.encode()
        with partial.open("ab") as opened:
            opened.write(struct.pack(">I4s", 8 + len(note), b"free") + note)  # a box that players pass over
    return scale


def attempt_frames(attempt: "Attempt", scale: tuple[float, float] | None) -> Iterator[np.ndarray]:
    """uint8[H, W, 3] of each step, and at last `END` times of how it came out."""
    overlays = query_overlays(attempt, scale)
    steps = len(attempt.actions)
    for step in range(steps):
        yield step_picture(attempt, step, overlays, scale, None)
    ending = step_picture(attempt, steps - 1, overlays, scale, outcome(attempt))
    for _ in range(END):
        yield ending


def query_overlays(attempt: "Attempt", scale: tuple[float, float] | None) -> dict[str, list[np.ndarray]]:
    """uint8[H, W, 3] of each camera and query, its gate map over its image; empty without gates."""
    if scale is None:
        return {}
    overlays = {}
    for camera in attempt.frames:
        images = np.stack([query.images[camera] for query in attempt.queries])
        gates = np.stack([query.gates[camera] for query in attempt.queries if query.gates is not None])
        overlays[camera] = gate_overlays(np.repeat(images, 2, axis=0), gates, scale)
    return overlays


def step_picture(
    attempt: "Attempt",
    step: int,
    overlays: dict[str, list[np.ndarray]],
    scale: tuple[float, float] | None,
    end: tuple[str, tuple[int, int, int]] | None,
) -> np.ndarray:
    """uint8[H, W, 3] of one step; `end` is a line with its colour that takes the place of the step's number."""
    numbers = 0 if attempt.recorded is None else attempt.recorded.shape[1]
    width = 2 * PANEL + 3 * EDGE
    height = (PANEL + LINE + EDGE) * len(attempt.frames) + 3 * LINE + 2 * EDGE + (PLOT + EDGE) * numbers
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    query = attempt.query_of[step]
    top = EDGE
    for camera, frames in attempt.frames.items():
        write(draw, (EDGE, top), camera)
        paste(canvas, frames[step], (EDGE, top + LINE))
        if overlays:
            write(draw, (2 * EDGE + PANEL, top), f"{camera}: gate at query {query + 1}")
            paste(canvas, overlays[camera][query], (2 * EDGE + PANEL, top + LINE))
        top += PANEL + LINE + EDGE
    words, colour = end or (f"step {step + 1} of {len(attempt.actions)}, query {query + 1}", INK)
    legend = no_gates(attempt.fusion) if scale is None else f"gate {scale[0]:.2f} (dark: generator) to {scale[1]:.2f}"
    for text, ink in ((attempt.instruction, INK), (words, colour), (legend, INK)):
        write(draw, (EDGE, top), text, ink)
        top += LINE
    for number in range(numbers):
        plot(draw, attempt, number, step, top + EDGE)
        top += PLOT + EDGE
    return np.asarray(canvas)


def no_gates(fusion: str) -> str:
    """Why there is no gate map, in words."""
    return "no generator, no gate map (fusion none)" if fusion == "none" else f"no gate map: {fusion} has no gate"


def outcome(attempt: "Attempt") -> tuple[str, tuple[int, int, int]]:
    """How an attempt came out, in words and a colour."""
    if attempt.episode is not None:
        steps = f"after {attempt.episode.steps} steps"
        return (f"SUCCESS {steps}", GREEN) if attempt.episode.success else (f"FAILED: not done {steps}", RED)
    error = " ".join(f"{value:.3g}" for value in replay_error(attempt))
    return f"mean difference of each number: {error}", INK


def replay_error(attempt: "Attempt") -> list[float]:
    """Mean absolute difference of predicted and recorded actions, of each of their numbers, in their own units."""
    assert attempt.recorded is not None
    return np.abs(attempt.actions - attempt.recorded).mean(0).tolist()


def plot(draw: ImageDraw.ImageDraw, attempt: "Attempt", number: int, step: int, top: int) -> None:
    """One number of the actions over the steps: recorded in grey, predicted in blue up to `step`."""
    assert attempt.recorded is not None
    both = (attempt.recorded[:, number], attempt.actions[: step + 1, number])
    low = min(float(values.min()) for values in (attempt.recorded[:, number], attempt.actions[:, number]))
    high = max(float(values.max()) for values in (attempt.recorded[:, number], attempt.actions[:, number]))
    width, span, last = 2 * PANEL + EDGE, max(high - low, 1e-6), max(len(attempt.actions) - 1, 1)
    draw.rectangle((EDGE, top, EDGE + width, top + PLOT), outline=PALE)
    for values, colour in zip(both, (PALE, BLUE), strict=True):
        places = [
            (EDGE + width * at / last, top + PLOT - 2 - (PLOT - 4) * (float(value) - low) / span)
            for at, value in enumerate(values)
        ]
        draw.line([places[0], *places], fill=colour, width=2)
    write(draw, (EDGE + 4, top + 2), f"action[{number}]  {low:.2g} to {high:.2g}, blue predicted, grey recorded")


def paste(canvas: Image.Image, image: np.ndarray, place: tuple[int, int]) -> None:
    """Draws uint8[H, W, 3] into a square of `PANEL` px, as large as its shape allows."""
    height, width = image.shape[:2]
    factor = PANEL / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    canvas.paste(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), place)


def write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: tuple[int, int, int] = INK) -> None:
    """One line of text, cut to the width of the picture."""
    font = lettering()
    while font.getlength(text) > 2 * PANEL + EDGE:
        text = text[:-2].rstrip("…") + "…"
    draw.text(place, text, fill=colour, font=font)


@lru_cache(maxsize=1)
def lettering() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
