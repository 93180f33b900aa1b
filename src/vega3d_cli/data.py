"""Commands that make data: `vega3d synthesize` and `cache`."""

import json
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from vega3d.rooms.dataset import DatasetSettings
from vega3d_cli import common


@common.command(
    "Data",
    """    vega3d synthesize rooms-test --split test --scenes 20 --workers 2 --preview

    vega3d synthesize rooms --split train --scenes 1000 --trajectories 8 --size 128

    vega3d synthesize rooms-unseen --split test_unseen --furniture furniture_unseen.npz""",
)
def synthesize(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder, or one of an earlier run to continue.")],
    settings: DatasetSettings,
    scenes: Annotated[int, typer.Option(**common.COUNT, help="Rooms.")] = 10,
    workers: Annotated[
        int, typer.Option(**common.COUNT, help="Processes; the result does not depend on their number.")
    ] = 1,
    furniture: Annotated[
        Path | None, typer.Option(help="Pack of furniture, for test_unseen.  [default: the CC0 pack]")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Draw a contact sheet, OUT/preview.png.")] = False,
) -> None:
    """Make a data set of rooms: walkthroughs, their geometry, questions in VSI-Bench's form, and grounding in 3D."""
    common.needs("embreex", "scipy", "pyarrow", *(["matplotlib"] if preview else []))
    from vega3d.rooms.dataset.dataset import synthesize as make_dataset  # heavy, so after the checks

    with common.progress("rooms", "room", scenes) as advance:
        table = make_dataset(
            output, settings, scenes, workers, on_progress=advance, furniture=furniture, preview=preview
        )
    typer.echo(f"{table}")


LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # variables that torchrun and accelerate give to a process
MIB = 2**20
GIB = 2**30
MOST_GIB = 2**33


@common.command(
    "Data",
    """    vega3d cache rooms-train --model vega3d-tiny --cache features

    vega3d cache videos/ --model org/vega3d --num-frames 32 --cache features --max-gib 200

    vega3d cache rooms-train --model vega3d-tiny --block 1,2,3 --timestep 100,300,500 --cache features

    torchrun --nproc_per_node 8 -m vega3d_cli cache videos/ --model org/vega3d --cache features

    srun vega3d cache videos/ --model org/vega3d --shard $SLURM_PROCID/$SLURM_NTASKS --cache features

    vega3d cache --merge features-of-another-machine --cache features

    vega3d cache --verify --cache features""",
)
def cache(
    data: Annotated[Path | None, typer.Argument(help="A data set of rooms, a folder of videos, or one video.")] = None,
    model: common.ModelOption = common.MODEL,
    folder: Annotated[
        Path | None, typer.Option("--cache", help="Folder of the cache.  [default: beside the Hub's own cache]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Table of a data set of rooms.  [default: all]")] = None,
    num_frames: common.NumFrames = None,
    fps: common.Fps = None,
    block: Annotated[
        str | None, typer.Option(help="Blocks with commas, each stored alone.  [default: the model's]")
    ] = None,
    timestep: Annotated[
        str | None, typer.Option(help="Noise levels with commas, with --block.  [default: the model's]")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Every N-th clip from clip I on, I from 0 to N-1.  [default: the launcher's]"
        ),
    ] = None,
    max_gib: Annotated[float | None, typer.Option(help="Size limit; what was used longest ago goes first.")] = None,
    merge: Annotated[
        Path | None, typer.Option("--merge", help="Take over the entries of another cache, and stop.")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Show number and size of the entries, and stop.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read all entries, remove bad ones, and stop.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries, and stop.")] = False,
    as_json: common.AsJson = False,
    device: common.Device = None,
) -> None:
    """Compute the generator's features of a corpus beforehand, or look after those that are stored."""
    named = {"--merge": merge, "--stats": stats, "--verify": verify, "--clear": clear}
    actions = [name for name, given in named.items() if given]
    if len(actions) + (data is not None) != 1:
        given = " and ".join([*(["DATA"] if data else []), *actions]) or "nothing"
        raise ValueError(f"Give DATA, --merge, --stats, --verify or --clear, and one of them only, not {given}.")
    of_data = {
        "--split": split,
        "--num-frames": num_frames,
        "--fps": fps,
        "--block": block,
        "--timestep": timestep,
        "--shard": shard,
        "--device": device,
    }
    unused = [name for name, value in of_data.items() if value is not None]
    if actions and unused:
        raise ValueError(f"{actions[0]} reads no clips, so {', '.join(unused)} would have no effect. Leave it out.")
    blocks, timesteps = common.numbers("--block", block), common.numbers("--timestep", timestep)
    if timesteps and not blocks:
        raise ValueError("--timestep goes with --block: name the blocks that are read at these noise levels.")
    if max_gib is not None and not 1 / GIB <= max_gib <= MOST_GIB:  # not so for NaN
        raise ValueError(
            f"--max-gib is {max_gib}, but must be positive (a byte at least) and at most {MOST_GIB}. Leave it out "
            "for no limit."
        )
    number, count = share(shard)
    from vega3d.features.clips import corpus_clips, share_of_clips
    from vega3d.processing.sampling_vega3d import check_sampling

    check_sampling(num_frames, fps)
    common.quieten(as_json)
    clips = [] if data is None else share_of_clips(corpus_clips(data, split), number, count)
    with common.loading(model if data is not None else "the cache"):
        from vega3d.features.cache import FeatureCache, default_folder

    features = FeatureCache(folder or default_folder(), None if max_gib is None else int(max_gib * GIB))
    if data is not None:
        fill(features, clips, model, num_frames, fps, blocks, timesteps, device or device_of_process())
    result = features.stats()
    if count > 1:
        result |= {"shard": f"{number}/{count}", "clips": len(clips)}
    if merge is not None:
        with common.progress("entries", "entry") as advance:
            result |= features.merge(merge, on_progress=advance)
    if verify:
        with common.progress("entries", "entry", result["entries"]) as advance:
            result |= features.verify(on_progress=advance)
    if clear:
        result |= {"removed": features.clear()}
    if actions:
        result |= features.stats()
    if as_json:
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
        return
    from vega3d.tables import two_columns

    sizes = {name: f"{result[name] / MIB:.1f} MiB" for name in ("bytes", "max_bytes") if result.get(name) is not None}
    typer.echo("\n".join(two_columns({**result, **sizes}, width=24)))


def share(given: str | None) -> tuple[int, int]:
    """Which share of the clips this process extracts, from 0, and how many there are: as given, or of its launcher.

    Raises ValueError for a share that is none, or one that is given beside a launcher's.
    """
    rank, processes = (int(os.environ.get(name, usual)) for name, usual in zip(LAUNCHER[:2], (0, 1), strict=True))
    if given is None:
        return rank, processes
    if processes > 1:
        raise ValueError(
            f"--shard is {given!r}, but a launcher has started {processes} processes, which share the clips already "
            "(RANK, WORLD_SIZE). Leave out one of them."
        )
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", given)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"--shard is {given!r}, but must be I/N with I from 0 to N-1, such as 0/2 and 1/2.")
    return int(found[1]), int(found[2])


def device_of_process() -> str | None:
    """The GPU of one of several processes of a machine; None without a launcher or GPUs."""
    import torch

    local = os.environ.get(LAUNCHER[2])
    count = torch.cuda.device_count()
    return None if local is None or count == 0 else f"cuda:{int(local) % count}"


def fill(features, clips: list, model: str, num_frames, fps, blocks, timesteps, device) -> None:
    with common.loading(model):
        from vega3d.features.clips import extract
        from vega3d.hub.load import load_vega

        loaded, processor = load_vega(model, device=device)
    generator = loaded.generator_module
    if blocks:
        generator = generator.variant(block=-1, extra_blocks=())
    with common.progress("clips", "clip", len(clips)) as advance:
        extract(features, generator, processor, clips, num_frames, fps, blocks, timesteps, on_progress=advance)
