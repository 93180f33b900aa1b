"""`vega3d ask`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vega3d_cli import common


@common.command(
    "Ask",
    """    vega3d ask study "How many desk(s) are in this room?" --number

    vega3d ask room "Where is the teddy bear, from the first frame?"

    vega3d ask room "What will be the first-time appearance order of the following categories in the video: bed, lamp, clock, trash can?" --options "bed, lamp, clock, trash can" "lamp, bed, clock, trash can"

    vega3d ask view1.png view2.png view3.png "How many chair(s) are in this room?" --number --json

    vega3d ask kitchen.mp4 "What is left of the door?" --model org/vega3d --4bit --save-gates gates.png

    vega3d ask kitchen.mp4 "What is left of the door?" --model org/vega3d --memory low

The embedded model answers VSI-Bench's questions in VSI-Bench's words, and says so if it is asked another.""",  # noqa: E501
    context_settings={"allow_interspersed_args": True},
)
def ask(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO_OR_IMAGES... QUESTION",
            help="A video file, a folder of images, one image, several images (views of one scene) or the name of a "
            "shipped clip (room, study); then the question.",
        ),
    ],
    model: common.ModelOption = common.MODEL,
    num_frames: common.NumFrames = None,
    fps: common.Fps = None,
    options: Annotated[
        list[str] | None,
        typer.Option(metavar=common.SEVERAL, help="Two choices or more; the likeliest is the answer."),
    ] = None,
    number: Annotated[bool, typer.Option("--number", help="Ask for a number, in VSI-Bench's words.")] = False,
    max_new_tokens: Annotated[int, typer.Option(**common.COUNT, help="Length of an open answer.")] = 64,
    as_json: common.AsJson = False,
    save_gates: Annotated[Path | None, typer.Option(help="PNG file for the gate maps over the frames.")] = None,
    four_bit: common.FourBit = False,
    memory: common.MemoryOption = "full",
    cache: common.CacheOption = None,
    device: common.Device = None,
) -> None:
    """Answer a question about a video or images."""
    *media, question = arguments
    if not media:
        raise ValueError(
            "Give a video or images and then a question, such as: "
            "vega3d ask room 'Where is the bed, from the first frame?'"
        )
    if number and options:
        raise ValueError("--number and --options exclude each other. Give one of them.")
    common.quieten(as_json)
    from vega3d.processing.sampling_vega3d import check_sampling
    from vega3d.questions import SpatialQuestion
    from vega3d.shipped import model_folder

    check_sampling(num_frames, fps)
    paths = media_paths(media)
    SpatialQuestion(media, question, options or (), is_numeric=number)  # refuses what cannot be asked
    if save_gates is not None:
        from vega3d.files import check_output
        from vega3d.inference.gate_figure import SOFTWARE

        common.needs("matplotlib")
        save_gates = check_output(save_gates, *media_files(media), mark=SOFTWARE.encode())
    folder = model_folder(model)
    with common.loading(model):
        from transformers import TextStreamer

        from vega3d.hub.load import load_processor, load_vega
        from vega3d.inference.answer import notices
        from vega3d.inference.session import Session
        from vega3d.processing.media_vega3d import read_visual

        features = common.open_cache(cache)
        usual = load_processor(folder).num_frames
        clip, is_image = read_visual(paths, num_frames, fps, usual)  # once, for gate maps too
        asked = SpatialQuestion(clip.frames[0] if is_image else clip, question, options or (), is_image, number)
        start = time.perf_counter()
        loaded, processor = load_vega(folder, four_bit, device, memory=memory)
        loading_seconds = round(time.perf_counter() - start, 3)
    if save_gates is not None:
        check_gates(loaded.config.fusion)
    for notice in () if as_json else notices(loaded.config, asked):
        typer.echo(f"note: {notice}", err=True)
    session = Session(loaded, processor, cache=features, num_frames=len(clip.frames))
    is_streamed = not (as_json or options or (number and loaded.config.answers_in_words))
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with common.progress("world simulator", "frame", len(clip.frames), quiet=as_json) as on_progress:
        answer = session.answer(
            asked,
            max_new_tokens=max_new_tokens,
            output_gates=save_gates is not None,
            streamer=streamer if is_streamed else None,
            on_progress=on_progress,
        )
    if save_gates is not None and answer.gates is not None:
        from vega3d.inference.gate_figure import save_gate_figure

        save_gate_figure(save_gates, clip.frames, answer.gates.numpy(), answer.frame_seconds)
    report(answer, question, model, loading_seconds, as_json, is_streamed)


def media_files(media: list[str]) -> Iterator[Path]:
    """Each file that is read, those of a folder too."""
    for name in media:
        path = Path(name)
        yield from path.iterdir() if path.is_dir() else [path]


def check_gates(fusion: str) -> None:
    from vega3d.modeling.fusion_vega3d import ONE_GATE_A_TOKEN

    if fusion not in ONE_GATE_A_TOKEN:
        raise ValueError(f"fusion={fusion!r} has no gate for each token, so there is no map to save. Leave it out.")


def report(answer, question: str, model: str, loading_seconds: float, as_json: bool, is_streamed: bool) -> None:
    if as_json:
        from vega3d import __version__

        values = {"question": question, "model": model, **answer.to_dict()}
        values |= {"loading_seconds": loading_seconds, "vega3d": __version__}
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
        return
    for letter, probability in (answer.options or {}).items():
        typer.echo(f"  {letter}: {probability:.1%}", err=True)
    if not is_streamed:
        if answer.reason:
            typer.echo(f"({answer.reason})", err=True)
        typer.echo(answer.text)
    typer.echo(f"({answer.seconds:.1f} s)", err=True)


def media_paths(media: list[str]) -> list[str]:
    """Paths of what the arguments name; raises ValueError if one is none, or of nothing that is there."""
    from vega3d.processing.media_files_vega3d import check_file, local_path
    from vega3d.shipped import example_clip

    paths = []
    for place, name in enumerate(media):
        if not name.strip():
            raise ValueError(f"VIDEO_OR_IMAGES {place + 1} is empty text. Give the path of a video or image.")
        if name.startswith(("http://", "https://")):
            raise ValueError(f"{name} is an address, but files of this machine are read. Download it first.")
        path = local_path(name, "video or image")
        if len(media) == 1 and path.name == name and not path.suffix and not path.exists():
            path = example_clip(name)
        if len(media) > 1 or not path.is_dir():
            check_file(path, "image" if len(media) > 1 else "video")
        paths.append(str(path))
    return paths
