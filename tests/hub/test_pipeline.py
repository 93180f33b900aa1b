"""What users of transformers type: Auto classes on a saved folder, pipelines, remote code with its processor."""

import pytest
import torch
from test_load import messages
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import Modality

from remote_process import run_without_package
from tiny_checkpoints import FROZEN
from vega3d import VegaForSpatialReasoning, VegaProcessor
from vega3d.hub.load import load_vega
from vega3d.shipped import example_clip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model, processor = load_vega(FROZEN, device="cpu")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_auto_classes_answer_about_an_mp4(saved):
    model, processor = AutoModel.from_pretrained(saved), AutoProcessor.from_pretrained(saved)
    assert isinstance(model, VegaForSpatialReasoning)
    assert isinstance(processor, VegaProcessor)
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = processor.apply_chat_template(messages(example_clip("room")), num_frames=6, **options)
    assert inputs["generator_video_grid_thw"][0, 0] == 6
    answer = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    tiny, tiny_processor = load_vega(FROZEN, device="cpu")
    expected = tiny_processor.apply_chat_template(messages(example_clip("room")), num_frames=6, **options)
    assert torch.equal(answer, tiny.generate(**expected, max_new_tokens=5, do_sample=False))


@pytest.mark.parametrize("kind", ["video", "image"])
def test_pipeline(saved, kind, tmp_path):
    answerer = pipeline("image-text-to-text", model=str(saved), device="cpu")
    assert isinstance(answerer.model, VegaForSpatialReasoning)
    conversation = messages(example_clip("room"))
    if kind == "image":
        from PIL import Image

        from vega3d.processing.video_vega3d import read_video

        Image.fromarray(read_video(example_clip("room"), num_frames=1).frames[0]).save(tmp_path / "frame.png")
        conversation[0]["content"][0] = {"type": "image", "url": str(tmp_path / "frame.png")}
    output = answerer(text=conversation, max_new_tokens=5, do_sample=False, return_full_text=False)
    text = output[0]["generated_text"]
    processor = AutoProcessor.from_pretrained(saved)
    inputs = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert ("pixel_values" in inputs) == (kind == "image")
    answer = answerer.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert text == processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_transformers_serve_finds_the_model(saved):
    """The server's own loader; the rest of it needs packages that are not installed here."""
    manager = ModelManager(device="cpu", model_timeout=-1)

    model, processor = manager.load_model_and_processor(manager.process_model_name(str(saved)))

    assert isinstance(model, VegaForSpatialReasoning) and isinstance(processor, VegaProcessor)
    assert manager.get_model_modality(model, processor) == Modality.MULTIMODAL


def test_remote_code_answers_about_an_mp4(saved, tmp_path):
    """Model and processor from the folder's own code files, in a process that cannot import the package."""
    code = """
from transformers import AutoModel, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

folder, clip = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules.")
assert MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["vega3d"] == type(model).__name__  # for `transformers serve`
content = [{"type": "video", "path": clip}, {"type": "text", "text": "Where is the bed?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
)
print("answer", model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, -5:].tolist())
"""
    model, processor = load_vega(FROZEN, device="cpu")
    conversation = messages(example_clip("room"), "Where is the bed?")
    inputs = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True)

    expected = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, -5:].tolist()

    assert f"answer {expected}" in run_without_package(code, tmp_path, str(saved), str(example_clip("room")))
