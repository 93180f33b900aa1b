"""The example plugin in ms-swift itself, where that is installed: it is no extra of this package."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from published import picture
from training_data import write_clip

from tiny_checkpoints import FROZEN
from vega3d import VegaForSpatialReasoning
from vega3d.training import VegaCollator

pytest.importorskip("swift.template")
PLUGIN = Path(__file__).parents[2] / "examples" / "ms_swift_plugin.py"


@pytest.fixture(scope="module")
def template():
    from swift.model import get_model_processor
    from swift.template import get_template

    spec = importlib.util.spec_from_file_location("ms_swift_plugin", PLUGIN)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    model, processor = get_model_processor(str(FROZEN), torch_dtype=torch.float32, device_map="cpu")
    assert isinstance(model, VegaForSpatialReasoning)
    source = VegaForSpatialReasoning.from_pretrained(FROZEN, dtype=torch.float32)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    template = get_template(processor)
    template.set_mode("train")
    return template


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("swift")
    clip = str(write_clip(folder / "clip.mp4", 0))
    picture(0, (64, 64)).save(folder / "a.png")
    answer = {"role": "assistant", "content": "2 chairs"}
    return [
        {"messages": [{"role": "user", "content": "<video>How many?"}, answer], "videos": [clip]},
        {
            "messages": [{"role": "user", "content": "<image>And now, please?"}, answer],
            "images": [str(folder / "a.png")],
        },
        {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}, answer]},
    ]


def test_batches_are_those_of_our_collator(template, rows):
    batch = template.data_collator([template.encode(row) for row in rows])
    expected = VegaCollator(template.processor)(rows)

    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(batch[name], values), name


def test_a_full_training_leaves_the_generator_as_it_was(template, rows, tmp_path):
    from swift.pipelines import sft_main

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    options = {"model": FROZEN, "dataset": tmp_path / "rows.jsonl", "output_dir": tmp_path / "out"}
    options |= {
        "tuner_type": "full",
        "freeze_vit": "false",
        "freeze_aligner": "false",
        "remove_unused_columns": "false",
    }
    options |= {"max_steps": 1, "save_steps": 1, "learning_rate": 1e-2, "torch_dtype": "float32", "bf16": "false"}
    options |= {"warmup_ratio": 0, "report_to": "none", "add_version": "false", "split_dataset_ratio": 0}
    sft_main([word for name, value in options.items() for word in (f"--{name}", str(value))])

    before = VegaForSpatialReasoning.from_pretrained(FROZEN, dtype=torch.float32).state_dict()
    after = VegaForSpatialReasoning.from_pretrained(
        tmp_path / "out" / "checkpoint-1", dtype=torch.float32
    ).state_dict()
    moved = {name.split(".")[1] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"vlm", "projector", "fusion"} or moved == {"vlm", "fusion"}  # r = 0 holds the projector back
