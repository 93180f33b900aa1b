"""Loading a checkpoint, names that are none, and the checks between model and processor."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tiny_checkpoints import FROZEN, FROZEN_CONFIG, copy_frozen
from vega3d import VegaForSpatialReasoning, VegaProcessor
from vega3d.hub.load import load_vega, model_folder
from vega3d.inference.session import Session
from vega3d.questions import SpatialQuestion
from vega3d.shipped import example_clip

QUESTION = "Which is closer to the bed: the table or the wardrobe?"


def messages(video, question: str = QUESTION) -> list[dict]:
    return [{"role": "user", "content": [{"type": "video", "path": str(video)}, {"type": "text", "text": question}]}]


def ask(model, processor, video, **options) -> torch.Tensor:
    inputs = processor.apply_chat_template(
        messages(video), add_generation_prompt=True, tokenize=True, return_dict=True, **options
    )
    return model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]


def test_a_model_is_loaded_for_use_with_its_processor(tiny):
    model, processor = tiny
    assert isinstance(model, VegaForSpatialReasoning)
    assert isinstance(processor, VegaProcessor)
    assert not model.training
    assert str(model.dtype) == f"torch.{FROZEN_CONFIG['dtype']}"


@pytest.mark.parametrize("notice", [None, "Its answers mean nothing."])
def test_a_model_tells_the_notice_of_its_config(tiny, tmp_path, notice):
    asked = SpatialQuestion(example_clip("room"), "How many window(s) are in this room?", is_numeric=True)
    assert Session(*tiny, num_frames=2).answer(asked, max_new_tokens=1).notice == FROZEN_CONFIG["notice"]
    copied = load_vega(copy_frozen(tmp_path / "model", notice=notice), device="cpu")
    assert Session(*copied, num_frames=2).answer(asked, max_new_tokens=1).notice == notice


@pytest.mark.parametrize("clip", ["room", "study"])
def test_the_same_answer_every_time(tiny, clip):
    first = ask(*tiny, example_clip(clip))
    assert torch.equal(ask(*load_vega(FROZEN, device="cpu"), example_clip(clip)), first)


def test_both_streams_matter(tiny):
    """What the generator sees changes the logits, and so does what the VLM sees."""
    model, processor = tiny
    inputs, others = (
        processor.apply_chat_template(
            messages(example_clip(clip)), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        for clip in ("room", "study")
    )

    logits = model(**inputs).logits[0, -1]

    for name in ("generator_pixel_values_videos", "pixel_values_videos"):
        changed = {**inputs, name: others[name]}
        assert (model(**changed).logits[0, -1] - logits).abs().max() > 1e-4, name


def test_four_bit_on_the_cpu(tmp_path):
    model, processor = load_vega(FROZEN, four_bit=True, device="cpu")
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    quantised = {name for name, kind in kinds.items() if kind == "Linear4bit"}
    assert quantised
    assert all(".language_model." in name for name in quantised)
    answer = ask(model, processor, example_clip("room"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert torch.equal(ask(*load_vega(tmp_path, device="cpu"), example_clip("room")), answer)


def test_unknown_names_are_refused(tmp_path):
    for name in ("vega3d-huge", "./nowhere", str(tmp_path / "nowhere"), "a/b/c", str(example_clip("room"))):
        with pytest.raises(ValueError, match="There is no model"):
            model_folder(name)
    with pytest.raises(ValueError, match=r"is no checkpoint: it has no config\.json"):
        model_folder(tmp_path)
    with pytest.raises(ValueError, match=r"'org/vega3d-none' cannot be downloaded"):
        model_folder("org/vega3d-none")
    with pytest.raises(ValueError, match=r"no example clip 'kitchen'\. Shipped are room, study"):
        example_clip("kitchen")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that must not be there")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="'cuda' cannot be used"):
        load_vega(FROZEN, device="cuda")


def test_no_such_device():
    with pytest.raises(ValueError, match="'gpu' cannot be used"):
        load_vega(FROZEN, device="gpu")


def changed_processor(folder: Path, **values) -> Path:
    """The stored checkpoint with other values in its processor_config.json."""
    shutil.copytree(FROZEN, folder)
    file = folder / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def test_the_processor_alone_says_how_frames_are_prepared(tmp_path):
    """An older config.json saved the frame settings too: what it says has no effect."""
    old = changed_processor(tmp_path / "old", generator_max_area=96 * 96)
    settings = {"max_area": 64 * 64, "frame_fit": "crop", "frame_size": None}
    generator_config = {**FROZEN_CONFIG["generator_config"], **settings}
    (old / "config.json").write_text(json.dumps({**FROZEN_CONFIG, "generator_config": generator_config}))
    model, processor = load_vega(old, device="cpu")
    model.save_pretrained(tmp_path / "new")
    processor.save_pretrained(tmp_path / "new")

    _, loaded = load_vega(tmp_path / "new", device="cpu")

    assert loaded.frame_settings.max_area == processor.frame_settings.max_area == 96 * 96
    saved = json.loads((tmp_path / "new" / "config.json").read_text())["generator_config"]
    assert not {"max_area", "frame_fit", "frame_size"} & set(saved)


def test_patches_of_another_generator_are_refused(tmp_path):
    model, processor = load_vega(changed_processor(tmp_path / "model", generator_patch_size=32), device="cpu")
    ours, theirs = 3 * 32 * 32, 3 * 16 * 16
    with pytest.raises(ValueError, match=rf"must be \[\d+, {theirs}\] for the grid .* but are \[\d+, {ours}\]"):
        ask(model, processor, example_clip("room"))
