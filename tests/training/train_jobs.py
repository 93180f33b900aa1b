"""Work of other processes in the training tests."""

import hashlib
import json
import os
from pathlib import Path


def train_and_tell(talk: str, output: str, told: str) -> None:
    """Trains as `run_config` says and writes a byte after each step."""
    import torch
    from training_data import run_config, run_training

    torch.set_num_threads(1)
    with open(told, "ab", buffering=0) as file:
        run_training(run_config(Path(talk), Path(output)), on_progress=lambda done, steps: file.write(b"." * done))


def train_among_processes(rank: int, port: int, talk: str, output: str) -> None:
    """One of two: for each kind of data writes the rows of this process and a hash of the weights."""
    import torch

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})  # as torch's launcher does
    kinds = {"stream": {}, "rows": {}, "all used": {"ddp_find_unused_parameters": False}}
    entries = {kind: one_of_several(Path(talk), Path(output) / kind, kind, **kinds[kind]) for kind in kinds}
    entries["some text"] = with_text_rows(Path(talk), Path(output))
    (Path(output) / f"rank{rank}.json").write_text(json.dumps(entries))


def one_of_several(talk: Path, output: Path, kind: str, **options) -> dict:
    from training_data import trainer_for

    from vega3d.training import DataSource, stream_examples

    stream = stream_examples([DataSource(str(talk))], seed=0, shuffle_buffer=1) if kind == "stream" else None
    options["per_device_train_batch_size"] = 1
    trainer = trainer_for(talk, output, "gate,projector", steps=4, train_dataset=stream, **options)
    original, rows = trainer._prepare_inputs, []

    def note(inputs):
        rows.append([*inputs["ids"], len(inputs["input_ids"]), len(inputs["video_grid_thw"])])
        return original(inputs)

    trainer._prepare_inputs = note
    trainer.train()
    looks = trainer.model_wrapped.find_unused_parameters
    return {"rows": rows, "weights": hash_of_trained(trainer), "looks for unused": looks}


def hash_of_trained(trainer) -> str:
    from vega3d.training.checkpoints import trained_parameters

    digest = hashlib.sha256()
    for parameter in trained_parameters(trainer.vega()).values():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def with_text_rows(talk: Path, output: Path) -> dict:
    """Every second row has no video, so one process uses fewer parameters; then where that is not allowed."""
    from training_data import trainer_for, write_jsonl

    rows = [json.loads(line) for line in talk.read_text().splitlines()][:4]
    told = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "2"}]
    rows = [row if number % 2 else {"id": f"text{number}", "messages": told} for number, row in enumerate(rows)]
    data = write_jsonl(talk.with_name(f"{output.name}-{os.environ['RANK']}.jsonl"), rows)
    options = {"per_device_train_batch_size": 1, "activation_checkpointing": True}
    options["train_sampling_strategy"] = "sequential"
    trainer = trainer_for(data, output / "text", "gate,projector,llm", steps=2, **options)
    trainer.train()
    fixed = trainer_for(data, output / "fixed", "gate,projector,llm", 1, ddp_find_unused_parameters=False, **options)
    refusals = []
    for batch in fixed.get_train_dataloader():
        try:
            fixed.compute_loss(fixed.model.train(), fixed._prepare_inputs(batch))
        except ValueError as error:
            refusals.append(str(error))
    return {"weights": hash_of_trained(trainer), "refusals": refusals}
