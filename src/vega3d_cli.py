"""The `vega3d` command. Argument parsing only: the package, which takes seconds to import, is imported in commands."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Questions about the space that a video shows, answered with a frozen video diffusion model at work.",
)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input ends with one line and exit code 2, never a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error


@contextmanager
def frame_bar(total: int | None, quiet: bool) -> Iterator:
    """A progress bar over the frames that the generator encodes, on standard error."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and not quiet
    with tqdm(total=total, desc="world simulator", unit="frame", disable=not shown, leave=False) as bar:
        yield lambda frames: bar.update(frames)


def quieten(quiet: bool) -> None:
    """Errors of the user are ours to tell; the libraries' hints to developers are not for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def read_visual(media: list[str], num_frames: int | None, fps: float | None):
    """The clip or image that the arguments name, read once for the model and for the gate figure."""
    from vega3d.hub.load import example_clip
    from vega3d.processing.video_vega3d import read_images, read_video

    sampling: dict = {"num_frames": num_frames, "fps": fps}
    if len(media) > 1:
        return read_images([Path(name) for name in media], **sampling), False
    path = Path(media[0])
    if not path.exists() and path.name == media[0] and not path.suffix:
        path = example_clip(media[0])
    if path.is_dir():
        return read_images(path, **sampling), False
    if path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp"):
        return read_images([path]), True
    return read_video(path, **sampling), False


@app.command(
    epilog="""Examples:

    vega3d ask room "Which is closer to the trash can: the shelf or the bed?"

    vega3d ask room "Which is closer to the trash can?" --options "the shelf" "the bed"

    vega3d ask kitchen.mp4 "How many chairs are there?" --model org/vega3d --4bit --save-gates gates.png

    vega3d ask view1.png view2.png view3.png "What is left of the door?" --json""",
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
    model: Annotated[str, typer.Option(help="vega3d-tiny (embedded), a folder, or a Hub id.")] = "vega3d-tiny",
    num_frames: Annotated[int | None, typer.Option(help="Frames sampled evenly.  [default: 16]")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames sampled a second, instead of --num-frames.")] = None,
    options: Annotated[
        list[str] | None, typer.Option(help="Choices; the likeliest is the answer. Two or more: --options A B ...")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of an open answer.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    save_gates: Annotated[Path | None, typer.Option(help="PNG file for the gate maps over the frames.")] = None,
    four_bit: Annotated[bool, typer.Option("--4bit", help="Language model in 4 bits.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [default: the GPU, if any]")] = None,
) -> None:
    """Answer a question about a video or images."""
    *media, question = arguments
    with one_line_errors():
        if not media:
            raise ValueError(
                "Give a video or images and then a question, such as: vega3d ask room 'Where is the bed?'"
            )
        if max_new_tokens < 1:
            raise ValueError(f"--max-new-tokens is {max_new_tokens}, but must be at least 1.")
        if save_gates is not None and not save_gates.absolute().parent.is_dir():
            raise ValueError(f"There is no folder {save_gates.absolute().parent} to write {save_gates.name} into.")
        quieten(as_json)
        from vega3d.hub.answer import answer_question
        from vega3d.hub.load import load_vega
        from vega3d.spatial_qa import SpatialQuestion

        clip, is_image = read_visual(media, num_frames, fps)
        visual = clip.frames[0] if is_image else clip
        asked = SpatialQuestion(visual, question, options or (), is_image)
        loaded, processor = load_vega(model, four_bit, device)
        if save_gates is not None:
            check_gates(loaded.config.fusion)
        if loaded.config.notice and not as_json:
            typer.echo(f"note: {loaded.config.notice}", err=True)
        with frame_bar(len(clip.frames), as_json) as on_frames:
            answer = answer_question(
                loaded,
                processor,
                asked,
                len(clip.frames),
                max_new_tokens=max_new_tokens,
                output_gates=save_gates is not None,
                streamer=None if as_json or options else answer_streamer(processor),
                on_frames=on_frames,
            )
        if save_gates is not None and answer.gates is not None:
            from vega3d.hub.gate_figure import save_gate_figure

            save_gate_figure(save_gates, clip.frames, answer.gates.numpy(), answer.frame_seconds)
    report(answer, question, model, as_json, bool(options))


def answer_streamer(processor):
    from transformers import TextStreamer

    return TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)


def check_gates(fusion: str) -> None:
    from vega3d.modeling.fusion_vega3d import ONE_GATE_A_TOKEN

    if fusion not in ONE_GATE_A_TOKEN:
        raise ValueError(f"fusion={fusion!r} has no gate for each token, so there is no map to save. Leave it out.")


def report(answer, question: str, model: str, as_json: bool, is_choice: bool) -> None:
    if as_json:
        from vega3d import __version__

        values = {"question": question, "model": model, **answer.to_dict(), "vega3d": __version__}
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    if is_choice:  # an open answer was streamed
        for letter, probability in answer.options.items():
            typer.echo(f"  {letter}: {probability:.1%}", err=True)
        typer.echo(answer.text)
    typer.echo(f"({answer.seconds:.1f} s)", err=True)


@app.command(
    epilog="""Examples:

    vega3d assemble --vlm Qwen/Qwen2.5-VL-7B-Instruct --generator Wan-AI/Wan2.1-T2V-1.3B-Diffusers vega3d-7b

    vega3d assemble --vlm qwen --generator wan out --fusion token_gated --set clip_mode=views --set max_area=921600"""
)
def assemble(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the checkpoint.")],
    vlm: Annotated[str, typer.Option(help="Hub id or folder of the vision-language model (Qwen2.5-VL).")],
    generator: Annotated[str, typer.Option(help="Hub id or folder of the generator (Wan2.1 T2V, diffusers layout).")],
    block: Annotated[
        int, typer.Option(help="Block whose output is read, 0-based; negative counts from the end.")
    ] = 20,
    timestep: Annotated[int, typer.Option(help="Noise level asked for, in [0, 1000).")] = 300,
    fusion: Annotated[str, typer.Option(help="How the two streams are fused.")] = "token_gated_residual",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other field of the two configs.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto (the VLM's), float32, bfloat16 or float16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the new weights of projector and fusion.")] = 0,
) -> None:
    """Make a checkpoint from a pretrained VLM and a pretrained generator."""
    with one_line_errors():
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"--dtype is {dtype!r}, but must be auto, float32, bfloat16 or float16.")
        given = parse_settings(settings or [])
        quieten(False)
        from vega3d.hub.assemble import assemble as write_checkpoint

        fields = {"block": block, "timestep": timestep, "fusion": fusion, **given}
        folder = write_checkpoint(vlm, generator, output, dtype=dtype, seed=seed, **fields)
    typer.echo(f"{folder}")


def parse_settings(settings: list[str]) -> dict:
    """`NAME=VALUE` with JSON values; what is not JSON is text. The configs check names and types."""
    parsed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {setting!r} is not NAME=VALUE, such as --set clip_mode=views.")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return parsed


@app.command(epilog="Example:\n\n    vega3d info vega3d-tiny --json")
def info(
    model: Annotated[str, typer.Argument(help="vega3d-tiny (embedded), a folder, or a Hub id.")] = "vega3d-tiny",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show the parts of a checkpoint: parameters, memory, block, step, fusion."""
    with one_line_errors():
        quieten(as_json)
        from vega3d.hub.assemble import describe
        from vega3d.hub.load import model_folder

        facts = describe(model_folder(model))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for part, number in facts.pop("parameters").items():
        typer.echo(f"{part:38} {number / 1e6:12.2f} M parameters")
    for name, value in facts.items():
        shown = f"{value / 1e6:.2f} M" if name.startswith(("parameters", "generator_parameters")) else value
        typer.echo(f"{name.replace('_', ' '):38} {shown if shown is not None else '-'}")


@app.command(
    epilog="""Examples:

    vega3d synthesize rooms-test --split test --scenes 20 --workers 2 --preview

    vega3d synthesize rooms --split train --scenes 1000 --walks 8 --size 128

    vega3d synthesize rooms-unseen --split test_unseen --furniture furniture_unseen.npz"""
)
def synthesize(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder, or one of an earlier run to continue.")],
    split: Annotated[str, typer.Option(help="train, validation, test or test_unseen; their rooms differ.")] = "train",
    scenes: Annotated[int, typer.Option(help="Rooms.")] = 10,
    workers: Annotated[int, typer.Option(help="Processes; the result does not depend on their number.")] = 1,
    walks: Annotated[int, typer.Option(help="Walkthroughs of a room, which share its light.")] = 1,
    size: Annotated[int, typer.Option(help="Edge of the frames [px].")] = 192,
    num_frames: Annotated[int, typer.Option(help="Frames of a walkthrough.")] = 17,
    questions_per_type: Annotated[int, typer.Option(help="Most questions of one type about a walkthrough.")] = 2,
    furniture: Annotated[
        Path | None, typer.Option(help="Pack of furniture, for test_unseen.  [default: the CC0 pack]")
    ] = None,
    videos: Annotated[bool, typer.Option(help="Videos and arrays, or tables alone.")] = True,
    preview: Annotated[bool, typer.Option("--preview", help="Draw a contact sheet, OUT/preview.png.")] = False,
) -> None:
    """Make a data set of rooms: walkthroughs, their geometry, and questions in VSI-Bench's form."""
    with one_line_errors():
        from tqdm import tqdm

        from vega3d.synthetic.dataset import DatasetSettings
        from vega3d.synthetic.dataset import synthesize as make_dataset

        settings = DatasetSettings(split, size, num_frames, walks, questions_per_type, videos)
        with tqdm(total=scenes, desc="rooms", unit="room", disable=not sys.stderr.isatty()) as bar:
            table = make_dataset(
                output,
                settings,
                scenes,
                workers,
                on_scene=lambda count: bar.update(),
                furniture=furniture,
                preview=preview,
            )
    typer.echo(f"{table}")


@app.command(
    epilog="""Examples:

    vega3d evaluate vega3d-tiny --limit 22

    vega3d evaluate --baseline chance --limit 22 --output chance.json

    vega3d evaluate org/vega3d --benchmark vsibench --data VSI-Bench --num-frames 32 --4bit --output vsi.json"""
)
def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="vega3d-tiny (embedded), a folder, or a Hub id; not needed by two baselines.")
    ] = None,
    benchmark: Annotated[str, typer.Option(help="rooms or vsibench.")] = "rooms",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with {dataset}/{scene_name}.mp4 and the table of questions, or its .parquet file.  "
            "[default: rooms are made, as many as are needed, and kept in the cache]"
        ),
    ] = None,
    table: Annotated[str | None, typer.Option(help="Table in the folder.  [default: test, or the only one]")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="chance, most-frequent, or blind (the model without the video).")
    ] = None,
    train_table: Annotated[
        Path | None, typer.Option(help="Questions that most-frequent counts on.  [default: 40 rooms of split train]")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Questions, balanced over the types.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames sampled evenly.  [default: the processor's]")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions answered at a time.")] = 8,
    output: Annotated[Path | None, typer.Option(help="JSON file with every answer; a killed run continues.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object, not as a table.")] = False,
    allow_missing: Annotated[bool, typer.Option(help="Leave out questions whose video is missing.")] = False,
    seed: Annotated[int, typer.Option(help="Of the limit, the bootstrap and chance.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that make rooms.")] = 1,
    four_bit: Annotated[bool, typer.Option("--4bit", help="Language model in 4 bits.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [default: the GPU, if any]")] = None,
) -> None:
    """Answer a benchmark: score by type, macro and micro average, 95 % intervals over scenes."""
    with one_line_errors():
        quieten(as_json)
        from vega3d.evaluation.benchmarks import PLAIN_BASELINES, check_baseline, load_benchmark, plain_baseline
        from vega3d.evaluation.report import format_table, overview
        from vega3d.evaluation.run import check_request
        from vega3d.evaluation.run import evaluate as run_benchmark

        check_request(output, batch_size)
        check_baseline(baseline, model, train_table)
        if baseline in PLAIN_BASELINES:
            with progress("rooms of split train", "room") as advance:
                answerer = plain_baseline(baseline, seed, data, train_table, workers, on_rooms=advance)
        else:
            answerer = model_answerer(str(model), baseline == "blind", num_frames, four_bit, device)
        with progress("rooms", "room") as advance:
            records, missing = load_benchmark(
                benchmark, data, table, limit, allow_missing, seed, workers, on_rooms=advance
            )
        with progress(benchmark, "question", len(records)) as advance:
            result = run_benchmark(
                answerer, records, output, benchmark, missing, seed, batch_size=batch_size, on_question=advance
            )
    typer.echo(json.dumps(overview(result), indent=2) if as_json else format_table(result))


@contextmanager
def progress(name: str, unit: str, total: int | None = None) -> Iterator:
    """A progress bar on standard error; yields a function of how much is newly done, and of how much is wanted."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit=unit, disable=not sys.stderr.isatty(), leave=False) as bar:

        def advance(count: int, wanted: int | None = total) -> None:
            bar.total = wanted
            bar.update(count)

        yield advance


def model_answerer(model: str, blind: bool, num_frames: int | None, four_bit: bool, device: str | None):
    from vega3d.evaluation.answerers import BlindAnswerer, ModelAnswerer
    from vega3d.hub.load import load_vega

    answerer = BlindAnswerer if blind else ModelAnswerer
    return answerer(*load_vega(model, four_bit, device), model, num_frames)


@app.command(
    epilog="""Example:

    vega3d compare --first fused-seed0.json fused-seed1.json --second plain-seed0.json plain-seed1.json"""
)
def compare(
    first: Annotated[list[Path], typer.Option(help="Result files of one model, one for each training seed.")],
    second: Annotated[list[Path], typer.Option(help="Result files of the other, on the same questions.")],
    scoring: Annotated[str, typer.Option(help="official, lmms_eval or likelihood.")] = "official",
    output: Annotated[Path | None, typer.Option(help="JSON file of the comparison.")] = None,
) -> None:
    """Compare two models on the same questions: differences with 95 % intervals over seeds and scenes."""
    with one_line_errors():
        quieten(False)
        from vega3d.evaluation.report import (
            check_output,
            compare_files,
            comparison_values,
            format_comparison,
            write_json,
        )

        check_output(output)
        differences = compare_files(first, second, scoring)
        if output is not None:
            write_json(output, comparison_values(first, second, scoring, differences))
    typer.echo(format_comparison(differences))


LISTS = ("--options", "--first", "--second")


def spread_lists(arguments: list[str]) -> list[str]:
    """`--options A B C` -> `--options A --options B --options C`: the parser takes one value an option."""
    spread: list[str] = []
    taking = None
    for argument in arguments:
        if argument in LISTS:
            taking = argument
        elif taking is not None and not argument.startswith("--"):
            spread += [taking, argument]
        else:
            taking = None
            spread.append(argument)
    return spread


def main() -> None:
    app(spread_lists(sys.argv[1:]))


if __name__ == "__main__":
    main()
