"""An answer that is being generated: its text piece by piece, where it ends, and what may end it early."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.cli.serving.utils import DirectStreamer

from vega3d.inference.answer import CheckedLogits
from vega3d.inference.session import Session
from vega3d.serving.settings import ApiError

Reason = Literal["stop", "length"]


class StopTextError(Exception):
    """Raised within `generate`, as transformers' own cancelling is, when a text that ends the answer was written."""


class GeneratedAnswer(DirectStreamer):
    """A streamer of transformers' server that ends at a stop text, and knows why the answer ended.

    The texts are looked for on the thread that generates, so the number of tokens does not depend on who listens.

    Args:
        tokenizer: the fast tokenizer of the model.
        stops: texts that end the answer, and are no part of it.
        ends: tokens that end the answer.
    """

    def __init__(self, tokenizer, stops: Sequence[str], ends: Sequence[int]):
        self.pieces: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        super().__init__(tokenizer._tokenizer, asyncio.get_running_loop(), self.pieces)
        self.stops, self.ends = stops, ends
        self.reason: Reason = "length"
        self._held = ""  # may begin a stop text

    def put(self, value: torch.Tensor) -> None:
        is_prompt = self._first
        super().put(value)  # raises if the answer was cancelled
        if not is_prompt and value.item() in self.ends:
            self.reason = "stop"

    def _enqueue(self, item: str | None) -> None:
        """Hands text on, but for an end that may begin a stop text; at the end (None) all of it."""
        if item is None:
            self._send(self._held)
            super()._enqueue(None)
            return
        text = self._held + item
        found = [place for place in (text.find(stop) for stop in self.stops) if place >= 0]
        if found:
            self._held, self.reason = "", "stop"
            self._send(text[: min(found)])
            raise StopTextError
        kept = max((begun(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - kept :]
        self._send(text[: len(text) - kept])

    def _send(self, text: str) -> None:
        if text:
            super()._enqueue(text)

    def run(self, generate: Callable[[], object]) -> None:
        """Generates on the calling thread, and tells the listener whatever becomes of it."""
        try:
            if self._cancelled.is_set():
                raise stopped()
            generate()
        except StopTextError:
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, None)
        except Exception as error:  # cancelled, or a fault, which the listener raises
            told = stopped() if self._cancelled.is_set() else error
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, told)

    async def text(self) -> AsyncIterator[str]:
        """The pieces of the text; raises what `generate` raised."""
        while (piece := await self.pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def stopped() -> ApiError:
    """What a client is told whose answer the server ended; one who hung up is told nothing."""
    return ApiError(503, "The server is being stopped. Ask again later.", "stopped")


def begun(text: str, stop: str) -> int:
    """The most letters at the end of a text that begin a stop text."""
    return next((count for count in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-count:])), 0)


def generate(
    session: Session, inputs: dict, config: GenerationConfig, seed: int | None, answer: GeneratedAnswer
) -> None:
    """Runs the model; a seed holds for this answer alone."""
    device = session.model.device
    options = {"generation_config": config, "logits_processor": LogitsProcessorList([CheckedLogits()])}
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        session.model.generate(**inputs, **options, streamer=answer)
