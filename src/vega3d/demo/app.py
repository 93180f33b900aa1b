"""The page: `build` makes it for a loaded model, `launch` serves it. The Space and `vega3d demo` use both."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_space
from starlette.middleware import Middleware

from vega3d.demo import panels
from vega3d.demo.checks import KINDS, MAX_MIB, MAX_SECONDS
from vega3d.demo.compare import Comparer
from vega3d.demo.examples import CLIPS, Example, load_examples, read_scores
from vega3d.demo.guard import Guard, GuardedBlocks, own_uploads
from vega3d.demo.handlers import Handlers
from vega3d.hosts import served_hosts
from vega3d.questions import KnownQuestions

STORED_SECONDS, SWEEP_SECONDS = 3600, 600  # of uploads, and between removals
QUEUE = 16
STYLE, SCRIPT = Path(__file__).with_name("style.css"), Path(__file__).with_name("page.js")
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}


def build(comparer: Comparer, on_gpu: Callable[[Callable], Callable] = lambda function: function) -> gr.Blocks:
    """The page for a model; `launch` serves it. `on_gpu` is as in `Handlers`."""
    own_uploads()  # before Gradio keeps the first clip
    model = comparer.session.model
    scores = read_scores(model.name_or_path)
    examples = load_examples(KnownQuestions.from_config(model.config.questions), scores)
    handlers = Handlers(comparer, examples, on_gpu)
    first = next(iter(next(iter(examples.values())).values()))
    with GuardedBlocks(
        title=panels.TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, STORED_SECONDS), fill_width=True
    ) as page:
        gr.Markdown(f"# {panels.TITLE}\n{panels.INTRODUCTION}", elem_id="head")
        if model.config.notice:
            gr.HTML(panels.notice_panel(model.config.notice))
        example = gr.State(first)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                asked = question_column(examples, first)
            with gr.Column(scale=6, min_width=320):
                shown = answer_column()
                if scores is not None:
                    gr.HTML(panels.scoreboard(scores), elem_id="scores")
        gr.Markdown(panels.FOOTNOTE, elem_classes="vega-faint")
        wire_form(handlers, asked, example, shown)
        wire(handlers, asked, example, shown)
    return page.queue(max_size=QUEUE, default_concurrency_limit=4)


def question_column(examples: dict, first: Example) -> dict:
    video = gr.Video(
        first.video,
        label=f"Video, up to {MAX_MIB} MiB, {MAX_SECONDS // 60} min",
        sources=["upload"],
        height=200,
        elem_id="video",
    )
    bare: dict[str, Any] = {"show_label": False, "container": False}
    with gr.Row(elem_classes="vega-line"):
        gr.HTML(f'<div class="vega-heading">{panels.EXAMPLES}</div>')
        room = gr.Radio(list(examples), value=first.clip, label=panels.EXAMPLES, elem_id="room", **bare)
    with gr.Row(elem_id="chips"):
        chips = [
            gr.Button(category, size="sm", variant="primary" if category == first.category else "secondary")
            for category in examples[first.clip]
        ]
    marked = gr.HTML(visible=False, elem_id="marked")
    gr.HTML(f'<div class="vega-heading">{panels.QUESTION}</div>')
    question = gr.Textbox(
        first.question, label="Question", placeholder=panels.ASK_HERE, lines=2, max_lines=6, elem_id="question", **bare
    )
    with gr.Row(elem_classes="vega-line"):
        gr.HTML(f'<div class="vega-heading">{panels.KIND}</div>')
        kind = gr.Radio(list(KINDS), value=first.kind, label=panels.KIND, elem_id="kind", **bare)
    options = gr.Textbox(
        "\n".join(first.options),
        label="Options",
        placeholder=panels.OPTIONS_HERE,
        lines=2,
        max_lines=8,
        visible=bool(first.options),
        elem_id="options",
        **bare,
    )
    with gr.Row():
        ask = gr.Button("Ask", variant="primary", scale=3, elem_id="ask")
        stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
    return {
        "video": video,
        "room": room,
        "chips": chips,
        "marked": marked,
        "question": question,
        "kind": kind,
        "options": options,
        "ask": ask,
        "stop": stop,
    }


def wire_form(handlers: Handlers, asked: dict, example: gr.State, shown: list) -> None:
    """What fills the form, and takes away an answer that no longer belongs to it."""
    video, room, chips, kind = asked["video"], asked["room"], asked["chips"], asked["kind"]
    rest = [*chips, *shown]
    filled = [video, room, asked["question"], kind, asked["options"], asked["marked"], example, *rest]
    forgotten = [room, asked["marked"], example, *rest]
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", **PRIVATE}
    room.input(handlers.choose_room, room, filled, **quick)
    for chip in chips:
        chip.click(handlers.choosing(chip.value), room, filled, **quick)
    kind.change(handlers.show_options, kind, asked["options"], **quick)
    form = [asked["question"], kind, asked["options"]]
    gr.on([part.change for part in form], handlers.mark, [*form, example], chips, trigger_mode="always_last", **quick)
    video.upload(handlers.check_upload, video, forgotten, **{**quick, "queue": True})  # its errors are shown
    video.clear(handlers.forget_example, None, forgotten, **quick)


def answer_column() -> list:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=250):
            fused = gr.HTML(panels.empty_panel(panels.WITH, "fused"), elem_id="fused")
        with gr.Column(min_width=250):
            semantic = gr.HTML(panels.empty_panel(panels.WITHOUT, "semantic"), elem_id="semantic")
    outcome = gr.HTML(elem_id="outcome")
    gr.HTML(f'<div class="vega-heading">{panels.GATES}</div>')
    gates = gr.HTML(panels.gate_maps(), elem_id="gates")
    reading = gr.HTML(panels.reading_panel(), elem_id="reading")
    return [fused, semantic, outcome, gates, reading]


def wire(handlers: Handlers, asked: dict, example: gr.State, shown: list) -> None:
    """The main button, its stop, and the two endpoints for programs."""
    inputs = [asked["video"], asked["question"], asked["kind"], asked["options"]]
    gr.on(
        [asked["ask"].click, asked["question"].submit],
        handlers.ask,
        [*inputs, example],
        shown,
        show_progress="minimal",
        show_progress_on=shown[2],
        trigger_mode="once",
        **ONE_AT_A_TIME,
        **PRIVATE,
    )
    asked["stop"].click(handlers.stop, None, None, queue=False, **PRIVATE)
    gr.Button(visible=False).click(handlers.answer, inputs, gr.JSON(visible=False), api_name="answer", **ONE_AT_A_TIME)
    gr.api(handlers.examples_for_programs, api_name="examples")


def launch(
    page: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    block: bool = True,
    allow_hosts: Sequence[str] = (),
) -> str:
    """Serves a page of `build`, without analytics and without anything from the internet; returns the local address.

    Args:
        host: address to listen on; this machine alone if None, or what the Space says.
        port: 7860 or what the Space says if None.
        share: also make a public address through Gradio's own service.
        block: return only when the server ends.
        allow_hosts: names under which it may be asked for, beside its own; any for a Space and with `share`.

    Raises:
        ValueError: if one of `allow_hosts` is no name.
    """
    own = own_uploads()
    own.spare_what_is_there()
    hosts = served_hosts(host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", allow_hosts)
    is_public = share or get_space() is not None
    guard = Middleware(Guard, hosts=None if is_public else hosts, uploads=own)
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, address, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        show_error=False,
        app_kwargs={"middleware": [guard]},
        ssr_mode=False,
        run_history=False,
        footer_links=["api"],
        max_file_size=MAX_MIB * 2**20,
        allowed_paths=[str(CLIPS)],
        theme=gr.themes.Default(primary_hue="indigo", **fonts),
        css_paths=STYLE,
        head=f"<script>{SCRIPT.read_text()}</script>",
    )
    print(f"The demo is at {address}{f' and {public}' if public else ''}", flush=True)
    if block:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as by Ctrl-C: uploads are deleted
        page.block_thread()
    return address
