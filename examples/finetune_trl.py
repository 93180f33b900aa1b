"""Fine-tune a fused model with TRL's SFTTrainer and a LoRA adapter; needs `pip install ".[train]"`.

    vega3d synthesize rooms --split train --scenes 4 --size 128 --num-frames 8
    python examples/finetune_trl.py --data rooms --output tuned --steps 30

TRL's own collator has no videos, so the batches come from `VegaCollator`, which puts the labels on the answers alone.
"""

import argparse
from pathlib import Path

from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from vega3d.hub.load import load_vega
from vega3d.training import DataSource, VegaCollator, choose_parts, load_examples
from vega3d.training.data import as_datasets
from vega3d.training.parts import parameter_groups
from vega3d.training.run import save_result


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vega3d-tiny", help="vega3d-tiny (embedded), a folder, or a Hub id")
    parser.add_argument("--data", required=True, help="folder of rooms, or a .jsonl or .parquet file of messages")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tuned model")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-frames", type=int, help="sampled from each video")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    set_seed(options.seed)
    dataset = load_examples([DataSource(options.data)])
    model, processor = load_vega(options.model)
    if model.config.fusion == "instruction_gated":
        raise ValueError("TRL hides labels from the fusion, which would read the answer: use examples/finetune.py.")
    model = choose_parts(model, ["gate", "projector", "llm-lora"], seed=options.seed)

    arguments = SFTConfig(
        output_dir=str(options.output / "checkpoints"),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=options.seed,
        gradient_checkpointing=False,
        bf16=False,
        max_length=None,  # a cut would leave visual placeholders without their features
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        use_cpu=model.device.type == "cpu",
    )
    # A learning rate for each part: at one rate for all, r and the gate would hardly move.
    rates = {"gate": 1e-3, "projector": 1e-4, "llm-lora": 1e-4}
    trainer = SFTTrainer(
        model,
        args=arguments,
        data_collator=VegaCollator(processor, num_frames=options.num_frames),
        train_dataset=as_datasets(dataset),
        processing_class=processor,
    )
    groups = parameter_groups(model, rates, 1e-2, 0.0, trainer.get_decay_parameter_names(model))
    optimizer_class, settings = trainer.get_optimizer_cls_and_kwargs(arguments, model)
    trainer.optimizer = optimizer_class(groups, **settings)
    trainer.train()

    save_result(trainer, processor, options.output)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss: {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
