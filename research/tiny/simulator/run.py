"""One stage of the training of a generator, from its config: train, continue what was killed, leave what loads."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import AutoencoderKLWan

from research.tiny.simulator.config import GeneratorConfig, StageOptions
from research.tiny.simulator.dit import DiTTrainer, build_dit, empty_prompt
from research.tiny.simulator.export import export_generator, export_part
from research.tiny.simulator.latents import LatentEncoder, LatentStore
from research.tiny.simulator.loop import Loop, Stage
from research.tiny.simulator.pictures import save_curves
from research.tiny.simulator.rooms import FrameFiles, RoomStream, WalkWindow, pixels, rooms_until, validation_stream
from research.tiny.simulator.stages import DiTStage, VAEStage
from research.tiny.simulator.vae import VAETrainer, build_vae, gate, latent_statistics, reconstruction
from vega3d.files import only_run, write_json
from vega3d.rooms.dataset.stream import write_frames
from vega3d.runs import check_same_settings, hash_folder, versions
from vega3d.training.checkpoints import last_whole_checkpoint

SETTINGS_FILE, RESULT_FILE, CURVES_FILE = "settings.json", "result.json", "curves.png"
VIDEO, TWIN, FRAMES = "generator", "image-twin", "frames"
OnStep = Callable[[int, int], None]
OnLog = Callable[[dict], None]


@dataclasses.dataclass(frozen=True)
class Watch:
    """
    Args:
        max_minutes: the run writes a checkpoint and ends when so much time is gone since `started`.
        started: of `time.monotonic()`.
        on_step: called with the steps newly done and those of the whole run.
        on_log: called with each entry of the log.
    """

    max_minutes: float | None = None
    started: float = dataclasses.field(default_factory=time.monotonic)
    on_step: OnStep | None = None
    on_log: OnLog | None = None

    @property
    def deadline(self) -> float | None:
        return None if self.max_minutes is None else self.started + 60 * self.max_minutes

    @property
    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


def accelerator_for(config: GeneratorConfig, options: StageOptions) -> Accelerator:
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if config.on_gpu else "float32"
    if config.on_gpu:
        torch.backends.cudnn.benchmark = True  # all batches have the same shapes
    # The VAE's temporal kernels take no part in steps on single frames.
    partly_used = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        cpu=not config.on_gpu,
        kwargs_handlers=[partly_used],
    )


class Run(NamedTuple):
    """A folder with its settings, and the checkpoint that is continued."""

    folder: Path
    settings: dict[str, Any]
    checkpoint: Path | None


@contextmanager
def open_run(folder: Path, settings: dict[str, Any], accelerator: Accelerator) -> Iterator[Run]:
    """Holds the folder of a run.

    Raises:
        ValueError: before anything is made, if the folder holds a run with other settings, or another run writes it.
    """
    settings = {**settings, "processes": accelerator.num_processes}
    folder.mkdir(parents=True, exist_ok=True)
    with only_run(folder) if accelerator.is_main_process else nullcontext():
        with accelerator.main_process_first():
            checkpoint = last_whole_checkpoint(folder)
            if checkpoint is not None:
                check_same_settings(folder / SETTINGS_FILE, settings)
        if accelerator.is_main_process:
            write_json(folder / SETTINGS_FILE, settings)
        yield Run(folder, settings, checkpoint)


def run_loop(stage: Stage, accelerator: Accelerator, run: Run, watch: Watch) -> tuple[Loop, dict[str, Any]]:
    """Trains from the checkpoint; returns the loop, and the result so far."""
    listeners = (watch.on_step, watch.on_log) if accelerator.is_main_process else ()
    loop = Loop(stage, accelerator, run.folder, *listeners)
    if run.checkpoint is not None:
        loop.load(run.checkpoint)
        loop.on_step(loop.step, stage.options.steps)
    done = loop.run(watch.deadline)
    speeds = sorted(entry["clips_per_second"] for entry in loop.log)
    return loop, {
        "finished": done,
        "steps": loop.step,
        "steps_wanted": stage.options.steps,
        "seconds": loop.seconds,
        "clips_per_second": speeds[len(speeds) // 2] if speeds else None,
        "parameters": sum(parameter.numel() for parameter in stage.module.parameters()),
        "device": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else "cpu",
        "continued_from": run.checkpoint.name if run.checkpoint else None,
        "settings": run.settings,
        "versions": versions("torch", "diffusers", "accelerate", "numpy"),
        "log": loop.log,
    }


def make_rooms(config: GeneratorConfig, watch: Watch | None = None) -> dict[str, Any]:
    """Renders the rooms of both stages beforehand, into `OUT/frames`; those that are there stay.

    May run beside a stage, which makes a room itself that is not there yet.

    Returns:
        `finished`, `rooms` that are there and `rooms_wanted`, and `clips_per_second`.

    Raises:
        ValueError: if another process makes them.
    """
    watch = watch or Watch()
    walks, folder = config.rooms.walks, config.output / FRAMES
    wanted = max(rooms_until(options, walks, options.steps - 1) for options in (config.vae, config.dit))
    jobs = [
        (FrameFiles(folder, validation_stream(config.rooms)), config.rooms.validation_rooms),
        (FrameFiles(folder, RoomStream(config.rooms)), wanted),
    ]
    total = sum(count for _, count in jobs)
    tasks = [task for files, count in jobs for task in files.tasks(count)]
    began, made = time.monotonic(), 0
    folder.mkdir(parents=True, exist_ok=True)
    with only_run(folder), closing(write_frames(tasks, max(config.rooms.workers, 1))) as written:
        while not watch.is_late and next(written, None) is not None:
            made += 1
            if watch.on_step:
                watch.on_step(1, total)
    rate = sum(task.job.walks for task in tasks[:made]) * config.rooms.num_clips / (time.monotonic() - began)
    there = total - sum(len(files.missing(count)) for files, count in jobs)
    return {"finished": there == total, "rooms": there, "rooms_wanted": total, "clips_per_second": rate}


def train_vae(config: GeneratorConfig, watch: Watch | None = None) -> dict[str, Any] | None:
    """Trains the VAE, or continues; at its end measures its latents, exports it and checks gate G1.

    Returns:
        What is in `OUT/runs/vae/result.json`; None on all processes but the first.

    Raises:
        ValueError: for an output with a run of other settings, or held by another run; for a loss that is not finite.
    """
    watch = watch or Watch()
    accelerator = accelerator_for(config, config.vae)
    with open_run(config.output / "runs" / "vae", config.binding("vae"), accelerator) as run:
        return run_vae(config, accelerator, run, watch)


def run_vae(config: GeneratorConfig, accelerator: Accelerator, run: Run, watch: Watch) -> dict[str, Any] | None:
    """What `train_vae` does once the folder is held."""
    options = config.vae
    module = VAETrainer(build_vae(options, config.seed), options)
    with closing(RoomStream(config.rooms)) as stream, closing(validation_stream(config.rooms)) as validation:
        rooms = FrameFiles(config.output / FRAMES, stream)
        window = WalkWindow(
            options,
            config.rooms.walks,
            config.seed,
            lambda number: rooms.frames(number).to(accelerator.device),
            accelerator.process_index,
        )
        known = FrameFiles(config.output / FRAMES, validation)
        walks = torch.cat([known.frames(number) for number in range(config.rooms.validation_rooms)])
        validation.close()
        stage = VAEStage(module, options, config.rooms, window, walks, accelerator.device, config.seed)
        loop, result = run_loop(stage, accelerator, run, watch)
        if result["finished"] and accelerator.is_main_process:
            with loop.averaged():
                result |= finish_vae(config, stage, accelerator)
    if accelerator.is_main_process:
        panels = {
            "errors": {"pixel_error": "pixels", "edge_error": "edges"},
            "PSNR [dB]": {"psnr": "clips", "psnr_single_frames": "single frames"},
            "KL [nats]": {"kl": "a latent"},
        }
        write_result(run.folder, result, panels)
    accelerator.wait_for_everyone()
    return result if accelerator.is_main_process else None


def finish_vae(config: GeneratorConfig, stage: VAEStage, accelerator: Accelerator) -> dict[str, Any]:
    """Statistics of the latents on training rooms, the exported VAE, and its reconstruction as it was exported."""
    vae, options, length = stage.module.vae, config.vae, config.rooms.clip_frames
    rooms = stage.window.fill(options.steps - 1)[-options.statistics_rooms :]
    with accelerator.autocast():
        mean, spread = latent_statistics(
            vae, (pixels(part[:, :length], stage.device) for walks in rooms for part in walks.split(8))
        )
    vae.register_to_config(latents_mean=mean, latents_std=spread)
    export_part(vae, config.output / VIDEO, "vae")
    exported = load_vae(config.output / VIDEO / "vae", stage.device)
    figures = reconstruction(exported, stage.batches())
    return {**figures, "latents_mean": mean, "latents_std": spread, "gate": gate(figures)}


def load_vae(folder: Path, device: torch.device) -> AutoencoderKLWan:
    """The frozen VAE in float32.

    Raises:
        ValueError: if it is not there.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no VAE: train the stage vae first.")
    vae = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)
    return vae.requires_grad_(False).eval().to(device)


def train_dit(config: GeneratorConfig, image_twin: bool = False, watch: Watch | None = None) -> dict[str, Any] | None:
    """Trains the transformer on latents of the trained VAE, or continues; exports the generator.

    Args:
        config: of the run.
        image_twin: trains on single frames only, with the same clips, steps and tokens.
        watch: clock and listeners.

    Returns:
        What is in `OUT/runs/generator/result.json` (`runs/image-twin/` for the twin); None on all
        processes but the first.

    Raises:
        ValueError: without a trained VAE; for an output with a run of other settings, or held by another run; for a
            loss that is not finite.
    """
    watch = watch or Watch()
    name = TWIN if image_twin else VIDEO
    if image_twin:
        config = dataclasses.replace(config, dit=dataclasses.replace(config.dit, mixture=("frame",)))
    accelerator = accelerator_for(config, config.dit)
    files = config.output / VIDEO / "vae"
    vae, vae_hash = load_vae(files, accelerator.device), hash_folder(files)
    settings = {**config.binding("dit"), "name": name, "vae_sha256": vae_hash}
    with open_run(config.output / "runs" / name, settings, accelerator) as run:
        return run_dit(config, name, vae, accelerator, run, watch)


def run_dit(
    config: GeneratorConfig, name: str, vae: AutoencoderKLWan, accelerator: Accelerator, run: Run, watch: Watch
) -> dict[str, Any] | None:
    """What `train_dit` does once the folder is held."""
    options, rooms = config.dit, config.rooms
    files, vae_hash = config.output / VIDEO / "vae", run.settings["vae_sha256"]
    module = DiTTrainer(build_dit(options, vae.config.z_dim, config.seed), options)
    if options.compile:
        module.transformer.compile_repeated_blocks(fullgraph=True)
    encoder = LatentEncoder(vae, rooms, accelerator)
    with closing(RoomStream(rooms)) as stream, closing(validation_stream(rooms)) as validation:
        frames = config.output / FRAMES
        known = LatentStore(config.output / "latents", FrameFiles(frames, validation), encoder, vae_hash)
        latents = torch.cat([known.room(number) for number in range(rooms.validation_rooms)])
        validation.close()
        store = LatentStore(config.output / "latents", FrameFiles(frames, stream), encoder, vae_hash)
        window = WalkWindow(options, rooms.walks, config.seed, store.room, accelerator.process_index)
        stage = DiTStage(module, options, rooms, window, latents, vae, config.seed)
        loop, result = run_loop(stage, accelerator, run, watch)
    if accelerator.is_main_process:
        with loop.averaged():
            facts, prompt = facts_of(config, name, result), empty_prompt(options)
            export_generator(module.transformer, files, config.output / name, prompt, facts)
        write_result(run.folder, result, panels_of(loop.log))
    accelerator.wait_for_everyone()
    return result if accelerator.is_main_process else None


def facts_of(config: GeneratorConfig, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """What `generator.json` says."""
    return {
        "kind": "image" if name == TWIN else "video",
        "num_frames": 1 if name == TWIN else config.rooms.clip_frames,
        "size": config.rooms.size,
        "prompt_length": config.dit.prompt_tokens,
        **{key: result[key] for key in ("finished", "steps", "settings", "versions")},
    }


def panels_of(log: list[dict]) -> dict[str, dict[str, str]]:
    names = list(dict.fromkeys(name for entry in log for name in entry))
    kinds = [name for name in names if name.startswith("validation_loss_") and name.count("_") == 2]
    fixed = [name for name in names if name.startswith("validation_loss_") and name.count("_") == 3]
    levels = [name for name in names if name.startswith("loss_sigma_")]
    return {
        "loss": {"loss": "training", **{name: name.removeprefix("validation_loss_") for name in kinds}},
        "training loss by sigma": {name: name.removeprefix("loss_sigma_").replace("_", " to ") for name in levels},
        "validation loss by sigma": {name: name.removeprefix("validation_loss_").replace("_", " ") for name in fixed},
    }


def write_result(folder: Path, result: dict[str, Any], panels: dict[str, dict[str, str]]) -> None:
    save_curves(folder / CURVES_FILE, result["log"], panels)
    write_json(folder / RESULT_FILE, result)
