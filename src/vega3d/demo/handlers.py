"""What the page does when something is clicked."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
import torch

from vega3d.demo import panels
from vega3d.demo.checks import CHOICE, check_video, make_question, split_options
from vega3d.demo.compare import Comparer
from vega3d.demo.examples import Example
from vega3d.inference.answer import Answer, notices
from vega3d.questions import SpatialQuestion

logger = logging.getLogger(__name__)

# Both answers, outcome, gate maps, how to read them.
NO_ANSWER = (
    panels.empty_panel(panels.WITH, "fused"),
    panels.empty_panel(panels.WITHOUT, "semantic"),
    "",
    panels.gate_maps(),
    panels.reading_panel(),
)


@contextmanager
def shown_errors(video: str | None) -> Iterator[None]:
    """Faults reach the visitor as a message, without the server's folders; what is not the input's fault is logged."""
    try:
        yield
    except ValueError as error:
        message = str(error) if video is None else str(error).replace(video, Path(video).name)
        raise gr.Error(escape(message), print_exception=False) from error
    except gr.Error:
        raise
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        logger.exception("Out of memory.")
        raise gr.Error(panels.NO_MEMORY, print_exception=False) from error
    except Exception as error:
        logger.exception("A request failed.")
        raise gr.Error(panels.FAILED, print_exception=False) from error


class Handlers:
    """The functions behind the page's buttons and its endpoints for programs.

    Args:
        examples: of `load_examples`.
        on_gpu: wraps each function that needs the model, as `spaces.GPU` does, which runs it in another process. So
            their arguments and results are plain values, and who stops an answer is asked outside of them.
    """

    def __init__(
        self,
        comparer: Comparer,
        examples: dict[str, dict[str, Example]],
        on_gpu: Callable[[Callable], Callable] = lambda function: function,
    ):
        self.comparer, self.examples = comparer, examples
        self._compared, self._plain = on_gpu(self.compared), on_gpu(self.plain)
        self._stopped: set[str | None] = set()  # sessions whose answer is to end

    @property
    def categories(self) -> list[str]:
        return list(next(iter(self.examples.values())))

    def choose_room(self, room: str, request: gr.Request) -> tuple:
        return self.chosen(next(iter(self.examples[room].values())), request)

    def choose_category(self, category: str, room: str | None, request: gr.Request) -> tuple:
        """The question about the room chosen, or about the first room after an upload."""
        return self.chosen(self.examples[room or next(iter(self.examples))][category], request)

    def choosing(self, category: str) -> Callable[[str | None, gr.Request], tuple]:
        """`choose_category` of one category; Gradio finds no request in a partial function."""

        def choose(room: str | None, request: gr.Request) -> tuple:
            return self.choose_category(category, room, request)

        return choose

    def chosen(self, example: Example, request: gr.Request) -> tuple:
        """The form of an example, its chip marked; an answer to what was there before ends and is taken away."""
        self.stop(request)
        return (*fill_in(example), *self.chips(example.category), *NO_ANSWER)

    def chips(self, category: str | None) -> list:
        """The buttons of the examples, with that of the chosen one marked."""
        return [gr.update(variant="primary" if name == category else "secondary") for name in self.categories]

    def show_options(self, kind: str):
        return gr.update(visible=kind == CHOICE)

    def check_upload(self, video: str | None, request: gr.Request) -> Iterator[tuple]:
        """Takes away what belongs to the last video first, so that it does not stay if this one is refused."""
        yield self.forget_example(request)
        with shown_errors(video):
            check_video(video)

    def forget_example(self, request: gr.Request) -> tuple:
        """No room, marked frame, example, chip or answer."""
        self.stop(request)
        return (None, gr.update(value="", visible=False), None, *self.chips(None), *NO_ANSWER)

    def mark(self, question: str, kind: str, options: str, example: Example | None) -> list:
        """The chip of the example is marked as long as its question stands there, unchanged."""
        asked = (question, kind, tuple(split_options(options)) if kind == CHOICE else ())
        is_asked = example is not None and asked == (example.question, example.kind, example.options)
        return self.chips(example.category if example is not None and is_asked else None)

    def ask(
        self,
        video: str | None,
        question: str,
        kind: str,
        options: str,
        example: Example | None,
        request: gr.Request,
        progress=gr.Progress(),  # noqa: B008 (Gradio finds it by its default)
    ) -> Iterator[tuple]:
        """The panels of the page as the answers grow: both answers, outcome, gate maps, how to read them."""
        with shown_errors(video):
            yield NO_ANSWER
            choices = split_options(options) if kind == CHOICE else []
            asked = make_question(video, question, kind, choices, example)
            note = self.note(asked)
            yield (*answers(Answer(), Answer(), asked), panels.notice_panel(note), gr.skip(), gr.skip())
            self._stopped.discard(request.session_hash)
            for shown, if_stopped in self._compared(asked, video, choices, example, note, progress):
                yield shown
                if if_stopped is not None and request.session_hash in self._stopped:
                    yield (*if_stopped, panels.STOPPED, gr.skip(), gr.skip())
                    return

    def compared(
        self,
        asked: SpatialQuestion,
        video: str | None,
        choices: list[str],
        example: Example | None,
        note: str | None,
        progress: gr.Progress,
    ) -> Iterator[tuple[tuple, tuple[str, str] | None]]:
        """The panels of `ask` that need the model, each with both answers as they are shown if it ends there."""
        with shown_errors(video):
            states = self.comparer.compare(
                asked, on_progress=frame_counter(progress, self.comparer.session.num_frames)
            )
            first = next(states)
            outcome = panels.outcome_panel(first, None, note)
            yield (gr.skip(), gr.skip(), outcome, panels.gate_maps(first.clip), panels.reading_panel(first.clip)), None
            for state in states:
                shown = answers(state.fused, state.semantic, asked)
                stopped = answers(state.fused, state.semantic, asked, True)
                yield (*shown, gr.skip(), gr.skip(), gr.skip()), stopped
            right = panels.right_answer(example, asked.question, choices)
            yield (gr.skip(), gr.skip(), panels.outcome_panel(first, right, note), gr.skip(), gr.skip()), None

    def note(self, asked: SpatialQuestion) -> str | None:
        """What is to be said of this question in particular; the model's own notice stands on the page."""
        config = self.comparer.session.model.config
        return " ".join(text for text in notices(config, asked) if text != config.notice) or None

    def stop(self, request: gr.Request) -> None:
        """Ends the answer being made for this visitor; after Gradio's own `cancels` the next question can hang."""
        self._stopped.add(request.session_hash)

    def answer(self, video: str | None, question: str, kind: str, options: str) -> dict:
        """Both answers as plain values.

        Args:
            video: an uploaded file.
            question: what to ask about it.
            kind: "free text", "a number" or "a choice".
            options: those of a choice, one a line.
        """
        with shown_errors(video):
            choices = split_options(options or "") if kind == CHOICE else []
            asked = make_question(video, question, kind, choices)
            return self._plain(asked, video)

    def plain(self, asked: SpatialQuestion, video: str | None) -> dict:
        """What `answer` returns."""
        with shown_errors(video):
            *_, state = self.comparer.compare(asked)
            gates = state.clip.gates
            return {
                "with_world_simulator": plain_values(state.fused),
                "without": plain_values(state.semantic),
                "frame_seconds": state.clip.seconds,
                "gates": None if gates is None else np.round(gates.tolist(), 4).tolist(),
                "notice": state.fused.notice,
            }

    def examples_for_programs(self) -> list[dict]:
        """The examples of questions about the shipped clips, with their right answers."""
        return [asdict(example) for by_category in self.examples.values() for example in by_category.values()]


def plain_values(answer: Answer) -> dict:
    return {"text": answer.text, "options": answer.options, "seconds": answer.seconds}


def fill_in(example: Example) -> tuple:
    """Values of video, room, question, kind, options, marked frame and the example itself."""
    marked = example.marked_picture()
    return (
        str(example.video),
        example.clip,
        example.question,
        example.kind,
        gr.update(value="\n".join(example.options), visible=bool(example.options)),
        gr.update(value="" if marked is None else panels.picture(marked, panels.MARKED), visible=marked is not None),
        example,
    )


def answers(fused: Answer, semantic: Answer, asked: SpatialQuestion, was_stopped: bool = False) -> tuple[str, str]:
    """Both panels, with and without the world simulator."""
    how = (asked.options, was_stopped, asked.is_numeric)
    return (
        panels.answer_panel(panels.WITH, "fused", fused, *how),
        panels.answer_panel(panels.WITHOUT, "semantic", semantic, *how),
    )


def frame_counter(progress: gr.Progress, total: int | None) -> Callable[[int], None]:
    """Shows how many frames the world simulator has done of those sampled at most."""
    done = 0

    def add(frames: int) -> None:
        nonlocal done
        done += frames
        progress((done, total), desc="world simulator", unit="frames")

    return add
