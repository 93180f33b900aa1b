"""Time of an action query: a policy with a generator, and the same policy without one, eager and compiled.

    python benchmarks/actions.py                               # CPU, tiny shapes
    python benchmarks/actions.py --full --output actions.json  # GPU, Qwen2.5-VL-3B + Wan2.1-T2V-1.3B, random weights

One robot, two cameras of 224 x 224 px, one frame each, a chunk of 8 actions. A query is a call of the model, with
inputs on the device, until its actions are on the CPU; the processor is left out. Policies of a way take turns.
"compiled" is `compile_layers` and `compile=True` of the generator, "graph" is `graph_queries`, on a GPU alone;
"compiled, graph" is both, in this order. The ratio is of medians, to the policy without a generator of the same way.
Before a graph is timed, its actions are compared with those of the same model without it, for other images, words and
states, and, if nothing is compiled, in prompts of two lengths by turns: `difference_to_no_graph` is expected to be 0.
Seconds and memory are those of the first query, with what is compiled and captured in it.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from generator import release, write_generator
from model import QWEN_3B, vlm_config
from tokenizers import Tokenizer, models
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

import vega3d
from vega3d import VegaForActionPrediction
from vega3d.inference.compiling import compile_layers
from vega3d.inference.graphs import graph_queries
from vega3d.inference.vision_attention import pack_vision_attention

CAMERAS, CHUNK, STATE, ACTION = ("front", "wrist"), 8, 8, 7
WORDS = 60  # of the prompt, beside visual tokens and placeholders
POLICIES = {"without a generator": {"fusion": "none"}, "with a generator": {"fusion_residual_init": 0.2}}
WAYS: dict[str, dict[str, Any]] = {  # options of the policy, and whether its queries are graphs
    "eager": {},
    "compiled": {"compile": True},
    "graph": {"graph": True},
    "compiled, graph": {"compile": True, "graph": True},
}
COMPARED = 5  # queries of a graph
NOTES = {"first_query_mebibytes": "{:.0f} MiB", "difference_to_no_graph": "{:.1e} from the actions of no graph"}


def statistics_of(size: int) -> dict[str, list[float]]:
    values = {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0, "q01": -1.0, "q99": 1.0}
    return {name: [value] * size for name, value in values.items()}


def make_policy(folder: Path, policy: str, way: str, config: Any, options) -> VegaForActionPrediction:
    settings = {name: value for name, value in WAYS[way].items() if name != "graph"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"robot": 0})))
    made = VegaForActionPrediction.from_backbones(
        folder / "vlm",
        folder / "generator",
        tokenizer=tokenizer,
        statistics={"dataset": "none", "state": statistics_of(STATE), "action": statistics_of(ACTION)},
        cameras=CAMERAS,
        action_chunk=CHUNK,
        prompt_embeds=torch.zeros(1, config.transformer["text_dim"]),
        block=config.block,
        dtype=torch.bfloat16 if options.device == "cuda" else torch.float32,
        **settings,
        **POLICIES[policy],
    )
    made.to(options.device)
    pack_vision_attention(made)
    if settings:
        compile_layers(made)
    if WAYS[way].get("graph"):
        graph_queries(made)
    return made


def query_inputs(
    model: VegaForActionPrediction, options, seed: int = 0, words: int = WORDS
) -> dict[str, torch.Tensor]:
    """Random pixels of the cameras, packed as the processor does, and a prompt that ends in the placeholders."""
    random = torch.Generator().manual_seed(seed)
    config, side = model.config, 224 if options.full else 56
    patches, generator_patches = side // 14, side // 16
    image = [config.image_token_id] * (patches**2 // 4)
    text = torch.randint(5, 200, (words,), generator=random).tolist()
    vlm = config.vlm_config
    ids = [token for _ in CAMERAS for token in (vlm.vision_start_token_id, *image, vlm.vision_end_token_id)]
    ids += [*text, config.state_token_id, *[config.action_token_id] * CHUNK]
    count = len(CAMERAS)
    inputs = {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": torch.randn(count * patches**2, 3 * 2 * 14 * 14, generator=random),
        "image_grid_thw": torch.tensor([(1, patches, patches)] * count),
        "generator_pixel_values": torch.randint(
            0, 256, (count * generator_patches**2, 768), dtype=torch.uint8, generator=random
        ),
        "generator_image_grid_thw": torch.tensor([(1, generator_patches, generator_patches)] * count),
        "state": torch.rand(1, STATE, generator=random) * 2 - 1,
    }
    return {name: value.to(options.device) for name, value in inputs.items()}


@torch.no_grad()
def first_query(model: VegaForActionPrediction, way: str, options) -> dict[str, Any]:
    """Seconds and MiB of the first query, and what a graph changes in some queries' actions, at most."""
    on_gpu = options.device == "cuda"
    before = torch.cuda.memory_reserved() if on_gpu else 0
    start = time.perf_counter()
    model(**query_inputs(model, options)).actions.cpu()
    row: dict[str, Any] = {"first_query_seconds": time.perf_counter() - start}
    if on_gpu:
        row["first_query_mebibytes"] = (torch.cuda.memory_reserved() - before) / 2**20
    if WAYS[way].get("graph"):
        differences = []
        for seed in range(COMPARED):
            inputs = query_inputs(model, options, seed, WORDS + ("compile" not in WAYS[way]) * seed % 2)
            found, expected = model(**inputs), VegaForActionPrediction.forward(model, **inputs)
            differences.append((found.actions - expected.actions).abs().max().item())
        row["difference_to_no_graph"] = max(differences)
    return row


@torch.no_grad()
def measure(models_of: dict[str, VegaForActionPrediction], way: str, options) -> dict[str, dict]:
    """Milliseconds of queries, and the first actions, of each policy; one after the other, round by round."""
    first = {name: first_query(model, way, options) for name, model in models_of.items()}
    inputs = {name: query_inputs(model, options) for name, model in models_of.items()}
    times: dict[str, list[float]] = {name: [] for name in models_of}
    actions = {}
    for number in range(options.warm_up + options.repeats):
        for name, model in models_of.items():
            start = time.perf_counter()
            actions[name] = model(**inputs[name]).actions.cpu()
            if number >= options.warm_up:
                times[name].append(1000 * (time.perf_counter() - start))
    return {
        name: {
            "milliseconds": statistics.median(values),
            "fastest": min(values),
            "slowest": max(values),
            "actions": actions[name].flatten().tolist(),
            **first[name],
        }
        for name, values in times.items()
    }


def difference(one: list[float], other: list[float]) -> float:
    """The largest difference of two lists of actions, whose range is 2."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="shapes of Qwen2.5-VL-3B and Wan2.1-T2V-1.3B")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS)[:2])
    parser.add_argument("--warm-up", type=int, default=3, help="queries of each policy that are not timed")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "command": "python benchmarks/actions.py" + " --full" * options.full,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers, vega3d)},
        "chunk": CHUNK,
        "rows": {},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        torch.manual_seed(0)
        with torch.device(options.device):
            vlm = Qwen2_5_VLForConditionalGeneration._from_config(
                vlm_config(options.full, QWEN_3B), dtype=torch.bfloat16
            )
        vlm.save_pretrained(folder / "vlm")
        del vlm
        config = write_generator(folder / "generator", options.full, options.device)
        for way in tqdm(options.ways, desc="ways"):
            release()
            policies = {policy: make_policy(folder, policy, way, config, options) for policy in POLICIES}
            results["rows"][way] = rows = measure(policies, way, options)
            del policies
            plain = rows["without a generator"]["milliseconds"]
            for policy, row in rows.items():
                first = results["rows"][options.ways[0]][policy]["actions"]
                row["ratio"] = row["milliseconds"] / plain
                row["difference_to_first_way"] = difference(row["actions"], first)
                print(
                    f"{way:24} {policy:20} {row['milliseconds']:8.1f} ms ({row['fastest']:.1f} to "
                    f"{row['slowest']:.1f}), ratio {row['ratio']:.2f}, actions differ by "
                    f"{row['difference_to_first_way']:.1e}; first query {row['first_query_seconds']:.1f} s",
                    *(note.format(row[key]) for key, note in NOTES.items() if key in row),
                    sep=", ",
                    flush=True,
                )
            if options.output:
                options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
