"""Fine-tune a fused model with transformers' Trainer, from rooms or from a file of messages.

    vega3d synthesize rooms --split train --scenes 4 --size 128 --num-frames 8
    python examples/finetune.py --data rooms --output tuned --tune gate,projector --steps 30
    python examples/finetune.py --data rooms --output lora --tune gate,projector,llm-lora --steps 30
    python examples/finetune.py --data rooms --output full --tune gate,projector,llm,vision --steps 30
    vega3d ask study "How many desk(s) are in this room?" --number --model tuned

LoRA needs `pip install ".[train]"` in a clone. A file of messages has a conversation a line (docs/training.md):

    {"messages": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "How many chairs?"}]},
                  {"role": "assistant", "content": "2"}], "videos": ["kitchen.mp4"]}

`vega3d train CONFIG` does the same and more: a run that was killed continues, features are cached, curves are drawn.
"""

import argparse
import json
from pathlib import Path

from transformers import TrainingArguments, set_seed

from vega3d.hub.load import load_vega
from vega3d.training import DataSource, VegaCollator, VegaTrainer, choose_parts, load_examples
from vega3d.training.parts import LEARNING_RATES
from vega3d.training.run import save_result


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vega3d-tiny", help="vega3d-tiny (embedded), a folder, or a Hub id")
    parser.add_argument("--data", required=True, help="folder of rooms, or a .jsonl or .parquet file of messages")
    parser.add_argument("--split", default="train", help="of the rooms")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tuned model")
    parser.add_argument("--tune", default="gate,projector", help="gate, projector, llm or llm-lora, vision")
    parser.add_argument("--lr", action="append", default=[], metavar="PART=RATE", help=f"default {LEARNING_RATES}")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-frames", type=int, help="sampled from each video")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    set_seed(options.seed)

    # 1. The data: every row is checked, and every video must be there.
    dataset = load_examples([DataSource(options.data, options.split)])

    # 2. The model, with everything frozen but the parts named; the generator always is.
    model, processor = load_vega(options.model)
    model = choose_parts(model, options.tune.split(","), seed=options.seed)

    # 3. Batches: both pixel streams, and labels on the answers alone.
    collator = VegaCollator(processor, num_frames=options.num_frames)

    # 4. Training, with a learning rate for each part.
    arguments = TrainingArguments(
        output_dir=str(options.output / "checkpoints"),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        logging_steps=1,
        save_steps=options.steps,
        seed=options.seed,
        report_to="none",
        remove_unused_columns=False,
        use_cpu=model.device.type == "cpu",
    )
    rates = {part: float(rate) for part, rate in (given.split("=") for given in options.lr)}
    trainer = VegaTrainer(model, arguments, rates=rates, data_collator=collator, train_dataset=dataset)
    trainer.train()

    # 5. The tuned model, adapters merged, with its processor: `AutoModel.from_pretrained` loads it.
    save_result(trainer, processor, options.output)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    (options.output / "losses.json").write_text(json.dumps(losses) + "\n")
    few = max(1, min(5, len(losses) // 2))
    print(f"loss: {sum(losses[:few]) / few:.4f} (first {few}) -> {sum(losses[-few:]) / few:.4f} (last {few})")


if __name__ == "__main__":
    main()
