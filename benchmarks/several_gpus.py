"""Training and extraction by several processes: samples a second of gate and LoRA, clips a second, steps of FSDP2.

    torchrun --nproc_per_node 1 benchmarks/several_gpus.py --full --folder made --output one.json
    torchrun --nproc_per_node 2 benchmarks/several_gpus.py --full --folder made --output two.json
    torchrun --nproc_per_node 2 benchmarks/several_gpus.py --full --folder made --parts ddp --all-used
    accelerate launch --config_file recipes/accelerate/fsdp2.yaml benchmarks/several_gpus.py --parts fsdp --full \\
        --folder made --output fsdp.json
    python benchmarks/several_gpus.py --compare one.json two.json

Without `--full` shapes are tiny, and without a GPU processes talk by gloo. Weights are random, and `--folder` keeps
them for the next run. A sample is one question about 32 frames, a batch of one a process. `VegaTrainer` trains gate,
projector and adapters on it (DDP), or gate, projector and the whole language model (FSDP2). All of them are used in
every step, so that DDP need not look for others (`--all-used`). Extraction goes through the feature cache, into one
folder; the time is that of the process that ends last.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from accelerate import PartialState
from model import FRAMES, made_checkpoint, question
from transformers import TrainerCallback, TrainingArguments

import vega3d
from vega3d import VegaForSpatialReasoning
from vega3d.features.cache import FeatureCache
from vega3d.features.clips import share_of_clips
from vega3d.training import VegaTrainer, choose_parts
from vega3d.training.checkpoints import trained_parameters

WARM_STEPS = 3
TUNES = {"ddp": ["gate", "projector", "llm-lora"], "fsdp": ["gate", "projector", "llm"]}
PARTS = (*TUNES, "extract")


class StepTimes(TrainerCallback):
    """Seconds of each step on this process, to the end of what its GPU has to do."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        synchronise()
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronise()
        self.seconds.append(time.perf_counter() - self.start)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def load(checkpoint: Path, state: PartialState) -> VegaForSpatialReasoning:
    dtype = torch.bfloat16 if state.device.type == "cuda" else torch.float32
    return VegaForSpatialReasoning.from_pretrained(checkpoint, dtype=dtype, device_map={"": state.device})


def arguments(output: Path, options, part: str, state: PartialState) -> TrainingArguments:
    return TrainingArguments(
        str(output),
        max_steps=WARM_STEPS + options.steps,
        per_device_train_batch_size=1,
        bf16=state.device.type == "cuda",
        use_cpu=state.device.type == "cpu",
        activation_checkpointing=part == "fsdp",
        activation_checkpointing_kwargs={"use_reentrant": False} if part == "fsdp" else None,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        accelerator_config={"dispatch_batches": False},
        ddp_find_unused_parameters=False if options.all_used else None,  # VegaTrainer's default is True
    )


def train(part: str, checkpoint: Path, options, state: PartialState) -> dict:
    """Samples a second of all processes, by the median step of the first one after those that warm up."""
    model = load(checkpoint, state)
    inputs = {name: value.cpu() for name, value in question(model, options).items()}
    inputs["labels"] = torch.full_like(inputs["input_ids"], -100)
    inputs["labels"][:, -8:] = inputs["input_ids"][:, -8:]
    wrapped = choose_parts(model, TUNES[part], seed=0)
    for parameter in trained_parameters(wrapped).values():
        parameter.data = parameter.data.float()
    times = StepTimes()
    with tempfile.TemporaryDirectory() as output:
        trainer = VegaTrainer(
            wrapped,
            arguments(Path(output), options, part, state),
            data_collator=lambda rows: dict(rows[0]),
            train_dataset=[inputs] * (4 * state.num_processes * (WARM_STEPS + options.steps)),
            callbacks=[times],
        )
        trainer.train()
    step = statistics.median(times.seconds[WARM_STEPS:])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    row = {"tune": TUNES[part], "step_s": step, "samples_per_s": state.num_processes / step, "peak_gib": peak_gib()}
    row["all_used"] = options.all_used
    return {**row, "fastest_s": min(times.seconds), "slowest_s": max(times.seconds[WARM_STEPS:]), "losses": losses}


def extract(checkpoint: Path, options, state: PartialState) -> dict:
    """Clips a second into one cache, until the last process has ended; median of the rounds."""
    generator = load(checkpoint, state).generator_module
    height, width = (480, 832) if options.full else (48, 64)
    random = torch.Generator().manual_seed(0)
    shape = (options.clips, FRAMES, 3, height, width)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    own = share_of_clips(list(clips), state.process_index, state.num_processes)
    seconds = []
    for repeat in range(options.rounds + 1):
        folder = options.folder / f"cache-{state.num_processes}-{repeat}"
        FeatureCache(folder).clear()
        state.wait_for_everyone()
        start = time.perf_counter()
        FeatureCache(folder).features(generator, own)
        state.wait_for_everyone()
        seconds.append(time.perf_counter() - start)
        state.wait_for_everyone()
        FeatureCache(folder).clear()
    taken = statistics.median(seconds[1:])
    return {"clips": options.clips, "seconds": taken, "clips_per_s": options.clips / taken, "all_s": seconds[1:]}


def compare(files: list[Path]) -> None:
    """Prints what several processes reach of the rate of one, for each part that two files have."""
    first, second = (json.loads(file.read_text()) for file in files)
    print(f"{'':8} {'processes':>10} {'rate':>10} {'processes':>10} {'rate':>10} {'ratio':>7}")
    for part in first["rows"].keys() & second["rows"].keys():
        rates = [run["rows"][part].get("samples_per_s") or run["rows"][part]["clips_per_s"] for run in (first, second)]
        counts = [run["processes"] for run in (first, second)]
        print(f"{part:8} {counts[0]:10} {rates[0]:10.3f} {counts[1]:10} {rates[1]:10.3f} {rates[1] / rates[0]:7.3f}")


def measure(options) -> None:
    state = PartialState(cpu=not torch.cuda.is_available())
    options.folder.mkdir(parents=True, exist_ok=True)
    options.device = state.device
    with state.main_process_first():
        checkpoint = made_checkpoint(options.folder, options)
    results = {
        "command": f"benchmarks/several_gpus.py --parts {','.join(options.parts)}{' --full' if options.full else ''}",
        "processes": state.num_processes,
        "device": torch.cuda.get_device_name() if state.device.type == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, vega3d)},
        "rows": {},
    }
    for part in options.parts:
        row = extract(checkpoint, options, state) if part == "extract" else train(part, checkpoint, options, state)
        results["rows"][part] = row
        if state.is_main_process:
            print(f"{part}, {state.num_processes} processes: {json.dumps(row)}", flush=True)
            if options.output:
                options.output.write_text(json.dumps(results, indent=2) + "\n")
    state.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="shapes of Qwen2.5-VL-7B and Wan2.1-T2V-1.3B")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["ddp", "extract"], help=str(PARTS))
    parser.add_argument("--steps", type=int, default=12, help="that are timed, after those that warm up")
    parser.add_argument("--clips", type=int, default=16, help="of all processes together")
    parser.add_argument("--all-used", action="store_true", help="DDP looks for no unused parameters")
    parser.add_argument("--rounds", type=int, default=5, help="of extraction")
    parser.add_argument("--folder", type=Path, help="of the weights and caches, which all processes see")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="JSON", help="print ratios of two outputs, and stop")
    options = parser.parse_args()
    if options.compare:
        compare(options.compare)
        return
    is_sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    unknown = set(options.parts) - set(PARTS)
    if unknown or options.folder is None or is_sharded != ("fsdp" in options.parts):
        parser.error(f"give --folder, --parts of {PARTS}, and `fsdp` alone under `accelerate launch` (see above)")
    measure(options)


if __name__ == "__main__":
    main()
