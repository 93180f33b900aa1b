"""`vega3d ground`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from vega3d_cli import common


@common.command(
    "Ask",
    """    vega3d ground kitchen "the chair closest to the door" --model OUT

    vega3d ground kitchen "the chair closest to the door" --model OUT --save-view chair.glb --save-picture chair.jpg

    vega3d ground scans/scene0011_00 "the brown chair by the desk" --model org/vega3d-grounding --num-frames 32 --skip-lost --proposals none

    vega3d ground rooms-test "every chair" --clip test_000007_00 --model OUT

    vega3d ground rgbd_dataset_freiburg3_office "the teddy bear" --model OUT --proposals boxes.json --json

A model for grounding is made by `vega3d assemble --grounding`, and trained (docs/grounding.md).""",  # noqa: E501
)
def ground(
    scan: Annotated[
        str,
        typer.Argument(
            metavar="SCAN",
            help="Folder of a clip with depth and poses, as of ScanNet, 7-Scenes, TUM RGB-D or rooms; or the name "
            "of a shipped one (kitchen).",
        ),
    ],
    expression: Annotated[str, typer.Argument(metavar="EXPRESSION", help="What is looked for.")],
    model: common.ModelOption = common.MODEL,
    proposals: Annotated[
        str | None,
        typer.Option(
            help="Boxes to choose from: a file {scan: [[cx, cy, cz, w, h, l], ...]} [m], JSON or .npz; or 'none', to "
            "read a box off the frames.  [default: proposals.json or .npz in the folder, else none]"
        ),
    ] = None,
    num_frames: common.NumFrames = None,
    clip_name: Annotated[
        str | None, typer.Option("--clip", help="Name of the clip, of a folder with several, such as a data set.")
    ] = None,
    layout: common.Layout = None,
    skip_lost: common.SkipLost = False,
    intrinsics: common.Intrinsics = None,
    as_json: common.AsJson = False,
    save_view: Annotated[
        Path | None, typer.Option(help="GLB file for the coloured points, one in each 2 cm, with the boxes.")
    ] = None,
    save_picture: Annotated[
        Path | None, typer.Option(help="JPEG file for the frames that show most of the box, with the box.")
    ] = None,
    four_bit: common.FourBit = False,
    cache: common.CacheOption = None,
    device: common.Device = None,
) -> None:
    """Find the box that a sentence describes in a posed RGB-D clip.

    Prints centre and size [m] with the score, the next best box, and whether nothing fits.
    """
    if not expression.strip():
        raise ValueError("The expression is empty. Describe an object, such as 'the chair closest to the door'.")
    common.quieten(as_json)
    view, picture = checked_place(save_view, ".glb"), checked_place(save_picture, ".jpg", ".jpeg")
    folder = scan_folder(scan)
    file, known = known_proposals(folder, proposals)
    checkpoint = common.grounding_folder(model)
    with common.loading(model):
        from vega3d import VegaConfig
        from vega3d.analysis.layouts import read_posed_video
        from vega3d.hub.load import load_processor, load_task
        from vega3d.modeling.boxes_vega3d import checked_boxes
        from vega3d.modeling.grounding_prompts_vega3d import ground_text
        from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
        from vega3d.processing.clip_geometry_vega3d import check_direction

        cameras, processor = common.intrinsics(intrinsics), load_processor(checkpoint)
        ground_text(processor, expression)  # refuses what cannot be asked
        clip = read_posed_video(folder, num_frames or processor.num_frames, layout, skip_lost, cameras, clip_name)
        if clip.geometry is not None:
            check_direction(clip.geometry)  # the processor does it, too, but not before weights are read
        boxes = None if known is None else boxes_of(clip.source, known, file)
        if boxes is not None:
            lower, upper = VegaConfig.from_pretrained(checkpoint).position_range
            checked_boxes(boxes, lower, upper, f"The boxes of {file}")
        features = common.open_cache(cache)
        start = time.perf_counter()
        loaded, processor = load_task(VegaForVisualGrounding, checkpoint, four_bit, device)
        loading_seconds = round(time.perf_counter() - start, 3)
    start = time.perf_counter()
    found: Any = loaded.ground(processor, clip, expression, boxes, cache=features, num_frames=len(clip))
    seconds = round(time.perf_counter() - start, 3)
    if view is not None:
        from vega3d.inference.box_views import save_box_view

        named = {"box": found.box, "runner-up": found.runner_up}
        save_box_view(view, clip, {name: box for name, box in named.items() if box is not None})
    if picture is not None:
        from vega3d.inference.box_views import save_box_picture

        save_box_picture(picture, clip, found.box)
    asked = Asked(expression, scan, model, None if boxes is None else len(boxes), len(clip), loaded.config.notice)
    report(found, asked, seconds, loading_seconds, as_json)


class Asked(NamedTuple):
    """What was looked for, where, and by which model."""

    expression: str
    scan: str
    model: str
    proposals: int | None  # boxes to choose from; None without them
    num_frames: int
    notice: str | None  # what the model says about itself


def checked_place(path: Path | None, *suffixes: str) -> Path | None:
    """The file for a view, if one is wanted; raises ValueError for another suffix, or a file of another making."""
    from vega3d.files import check_output
    from vega3d.inference.box_views import MARK

    if path is None:
        return None
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}. Give another name.")
    return check_output(path, mark=MARK.encode())


def scan_folder(scan: str) -> Path:
    """The folder that an argument names, or that of a shipped clip; raises ValueError if there is none."""
    from vega3d.shipped import posed_clip

    path = Path(scan)
    if path.name == scan and not path.exists():
        return posed_clip(scan)
    if not path.is_dir():
        raise ValueError(f"There is no folder {scan}. Give one with a posed RGB-D clip.")
    return path


def known_proposals(folder: Path, given: str | None) -> tuple[Path | None, dict | None]:
    """The file of proposals that is meant, and its boxes by the names of clips; None to do without.

    `given` is a file, `none`, or None for the file in the folder of the clip. Raises ValueError if it holds no boxes.
    """
    from vega3d.evaluation.scenes.scans import PROPOSAL_FILES, find_file, read_proposals
    from vega3d.evaluation.scenes.sources import WITHOUT_PROPOSALS
    from vega3d.files import check_input

    if given == WITHOUT_PROPOSALS:
        return None, None
    path = find_file(folder, PROPOSAL_FILES) if given is None else check_input(given)
    return path, None if path is None else read_proposals(path)


def boxes_of(name: str, known: dict, file: Path | None) -> Any:
    """float64[M, 6], the proposals of the clip of this name; raises ValueError if it has none."""
    if name not in known:
        raise ValueError(
            f"{file} has no boxes of {name}, but of {', '.join(sorted(known)[:5])}. Name them by the clip, or say "
            "--proposals none."
        )
    return known[name]


def report(found: Any, asked: Asked, seconds: float, loading_seconds: float, as_json: bool) -> None:
    if as_json:
        from vega3d import __version__

        values = asked._asdict() | {
            "box": box_values(found.box),
            "proposal": found.number,
            "score": found.score,
            "runner_up": box_values(found.runner_up),
            "runner_up_score": found.runner_up_score,
            "no_target_score": found.no_target_score,
            "is_found": found.is_found,
            "seconds": seconds,
            "loading_seconds": loading_seconds,
            "vega3d": __version__,
        }
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))
        return
    if asked.notice:
        typer.echo(f"note: {asked.notice}", err=True)
    typer.echo(box_line("box", found.box, found.score))
    if found.runner_up is not None:
        typer.echo(box_line("runner-up", found.runner_up, found.runner_up_score))
    if found.no_target_score is not None:
        wins = "" if found.is_found else ", the highest: nothing fits"
        typer.echo(f"no target: score {found.no_target_score:.3f}{wins}")
    origin = "read off the frames" if asked.proposals is None else f"of {asked.proposals} proposals"
    typer.echo(f"({origin}, {asked.num_frames} frames, {seconds:.1f} s)", err=True)


def box_values(box: Sequence[float] | None) -> dict | None:
    """Centre and size [m] of a box."""
    return None if box is None else {"center": list(box[:3]), "size": list(box[3:6])}


def box_line(name: str, box: Sequence[float], score: float) -> str:
    centre, size = (" ".join(f"{value:.2f}" for value in box[start : start + 3]) for start in (0, 3))
    return f"{name}: centre {centre} m, size {size} m, score {score:.3f}"
