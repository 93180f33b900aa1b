"""What each of two processes does that `accelerate launch` starts for test_several_processes.py, with gloo."""

import gc
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

for folder in (Path(__file__).parents[2], Path(__file__).parents[1], Path(__file__).parent):
    sys.path.insert(0, str(folder))

TUNES = {"full": "gate,projector,llm,vision", "lora": "gate,projector,llm-lora"}
BATCHES = {
    "per_device_train_batch_size": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 3,
    "adam_epsilon": 1e-3,  # with the usual one Adam makes whole steps of gradients that are rounding and nothing else
}
SHARDED = {"accelerator_config": {"dispatch_batches": False, "use_configured_state": True}}
DIES = {"step": 3, "rank": 1}


def fingerprint(parameters) -> str:
    """SHA-256 of the values of whole tensors."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def noted_trainer(data: Path, output: Path, tune: str, **options):
    """A trainer, and the ids of the rows of each batch that it takes."""
    from training_data import trainer_for

    if "accelerator_config" in options:
        call_the_cpu_a_gpu()
    trainer = trainer_for(data, output, tune, steps=4, **{**BATCHES, **options})
    original, rows = trainer._prepare_inputs, []

    def note(inputs):
        rows.append(list(inputs["ids"]))
        return original(inputs)

    trainer._prepare_inputs = note
    return trainer, rows


def trained(data: Path, output: Path, tune: str, resume: str | None = None, save: bool = False, **options) -> dict:
    """Trains, and says what was cut up, what moved, and how the run went; with `save` the whole model is saved."""
    from torch.distributed.tensor import DTensor
    from training_data import losses_of

    from vega3d.training.checkpoints import trained_parameters
    from vega3d.training.parts import parameter_part
    from vega3d.training.several import whole

    trainer, rows = noted_trainer(data, output, tune, **options)
    chosen = set(trained_parameters(trainer.model))
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train(resume_from_checkpoint=resume and str(output / resume))
    if save:
        trainer.save_model(str(output / "whole"))
    sharded: dict[str, list[int]] = {}
    moved = {}
    for name, parameter in trainer.model.named_parameters():
        counts = sharded.setdefault(str(parameter_part(name)), [0, 0])
        counts[isinstance(parameter, DTensor)] += 1
        now = whole(parameter.detach())
        moved[name] = not now.reshape(-1).equal(before[name].reshape(-1))
    return {
        "losses": losses_of(trainer.state.log_history),
        "norms": [float(entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry],
        "scales": [entry["residual_scale"] for entry in trainer.state.log_history if "loss" in entry],
        "rows": rows,
        "still": sorted(name for name in chosen if not moved[name]),
        "frozen_that_moved": sorted(name for name in set(moved) - chosen if moved[name]),
        "parameters": sharded,
        "generator": fingerprint(trainer.vega().generator_module.parameters()),
        "in_optimizer": sum(len(group["params"]) for group in trainer.optimizer.param_groups),
        "chosen": len(chosen),
    }


def call_the_cpu_a_gpu() -> None:
    """Accelerate starts FSDP among GPUs alone; with this name it does on a CPU, with gloo, as well."""
    from accelerate import PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    AcceleratorState._reset_state()
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def with_fsdp(data: Path, output: Path) -> dict:
    entries = {kind: trained(data, output / kind, tune, **SHARDED) for kind, tune in TUNES.items()}
    full = output / "full"
    entries["continued"] = trained(data, full, TUNES["full"], resume="checkpoint-2", save=True, **SHARDED)
    entries["refusals"] = [refusal(data, output)]
    return entries


def refusal(data: Path, output: Path) -> str:
    """What is said where one process has a row with a video, and the other one without."""
    from training_data import write_jsonl

    told = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "2"}]
    rows = [json.loads(line) for line in data.read_text().splitlines()][:2]
    rows = [rows[0], {"id": "text", "messages": told}]
    mixed = write_jsonl(data.with_name(f"mixed-{os.environ['RANK']}.jsonl"), rows)
    options = {"per_device_train_batch_size": 1, "train_sampling_strategy": "sequential", "save_strategy": "no"}
    trainer, _ = noted_trainer(mixed, output / "mixed", TUNES["full"], **options, **SHARDED)
    try:
        trainer.train()
    except ValueError as error:
        return str(error)
    return "trained"


def with_ddp(data: Path, output: Path) -> dict:
    for name in [name for name in os.environ if name.startswith("FSDP_") or name == "ACCELERATE_USE_FSDP"]:
        del os.environ[name]
    return {kind: trained(data, output / kind, tune) for kind, tune in TUNES.items()}


def die(data: Path, output: Path) -> None:
    """Trains until one of the processes is killed, in a step between two checkpoints."""
    from vega3d.training.several import one_error

    trainer, _ = noted_trainer(data, output, TUNES["full"])
    original = trainer._prepare_inputs

    def kill(inputs):
        if trainer.state.global_step + 1 == DIES["step"] and trainer.args.process_index == DIES["rank"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(inputs)

    trainer._prepare_inputs = kill
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of the launcher: the survivor is to end by itself
    try:
        with one_error(trainer.args.process_index, trainer.args.world_size):
            trainer.train()
    except ValueError as error:
        (output / "survivor.txt").write_text(str(error))
        raise


def main(data: Path, output: Path) -> None:
    import torch

    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    entries = {"fsdp": with_fsdp(data, output / "fsdp"), "ddp": with_ddp(data, output / "ddp")}
    (output / f"rank{rank}.json").write_text(json.dumps(entries))
    die(data, output / "dead")


if __name__ == "__main__":
    gc.set_threshold(50_000)  # else a fifth of the time of imports goes into looking for cycles
    main(Path(sys.argv[1]), Path(sys.argv[2]))
