"""The fused model as vLLM builds it: its weights, fused tokens and positions are those of our own model."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from visuals import IMAGE, VIDEO, film, picture, seconds

from tiny_models import every_vlm
from vega3d import VegaForSpatialReasoning, VegaProcessor

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` makes an environment that has it")
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.multimodal.utils import group_and_batch_mm_kwargs
from vllm.plugins import load_general_plugins

load_general_plugins()
pytestmark = every_vlm
TOLERANCE = {"atol": 1e-5, "rtol": 0}
WIDTH = 64
TEXT = f"{VIDEO}{IMAGE} then {IMAGE} {VIDEO} now"
IMAGES, VIDEOS = [picture(4), picture(5, 48, 48)], [film(6), film(7, 4, 64, 48)]


@pytest.fixture(autouse=True)
def inference_mode():
    """As vLLM runs a model."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """What an engine sets up in each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with set_current_vllm_config(engine_config(None)):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, address, 0, backend="gloo")
            initialize_model_parallel(1)
        yield


def engine_config(folder: Path | None, **options):
    from vllm.config import VllmConfig

    if folder is None:
        return VllmConfig()
    usual = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True}
    return EngineArgs(str(folder), **{**usual, **options}).create_engine_config()


def load(folder: Path, **options):
    """The model as an engine loads it."""
    config = engine_config(folder, **options)
    with set_current_vllm_config(config), torch.inference_mode(False):
        return get_model(vllm_config=config)


def native(folder: Path, dtype: torch.dtype = torch.float32) -> VegaForSpatialReasoning:
    with torch.inference_mode(False):
        return VegaForSpatialReasoning.from_pretrained(folder, dtype=dtype).eval()


def copied(checkpoint: Path, folder: Path, **weights: torch.Tensor | None) -> Path:
    """A copy of a checkpoint with other weights, or without those that are None."""
    shutil.copytree(checkpoint, folder)
    stored = {**load_file(folder / "model.safetensors"), **weights}
    save_file({name: value for name, value in stored.items() if value is not None}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    return load(checkpoint)


@pytest.fixture(scope="module")
def ours(checkpoint) -> VegaForSpatialReasoning:
    return native(checkpoint)


@pytest.fixture(scope="module")
def inputs(checkpoint):
    """What our processor makes of the visuals, and what vLLM's does."""
    processor = MULTIMODAL_REGISTRY.create_processor(engine_config(checkpoint).model_config)
    theirs = processor(TEXT, processor.info.parse_mm_data({"image": IMAGES, "video": VIDEOS}))
    own = VegaProcessor.from_pretrained(checkpoint)(
        text=TEXT, images=IMAGES, videos=[frames for frames, _ in VIDEOS], seconds=[seconds(one) for one in VIDEOS]
    )
    return own, theirs


def batches(theirs) -> dict[str, dict]:
    """The arguments of `embed_multimodal`, as the runner of a model makes them of the items of a request."""
    items = [(modality, item) for modality, found in theirs["mm_kwargs"].items() for item in found]
    return {modality: batch for modality, _, batch in group_and_batch_mm_kwargs(items)}


def test_fused_tokens_are_those_of_our_model(model, ours, inputs):
    expected = ours.encode(**inputs[0]).mm_encoder_outputs

    for modality, batch in batches(inputs[1]).items():
        found = model.embed_multimodal(**batch)

        assert len(found) == len(expected[modality].pooler_output) == 2
        plain = model.vlm.embed_multimodal(**{name: batch[name] for name in batch if "generator" not in name})
        for item, wanted, own in zip(found, expected[modality].pooler_output, plain, strict=True):
            torch.testing.assert_close(item[:, :WIDTH], wanted, **TOLERANCE)
            assert (own[:, :WIDTH] - wanted).abs().max() > 0.01
            assert torch.equal(item[:, WIDTH:], own[:, WIDTH:])  # what Qwen3-VL adds in inner layers


def test_an_item_is_fused_as_it_is_among_others(model, inputs):
    for modality, items in inputs[1]["mm_kwargs"].items():
        together = model.embed_multimodal(**batches(inputs[1])[modality])

        for item, expected in zip(items, together, strict=True):
            (alone,) = model.embed_multimodal(**batches({"mm_kwargs": {modality: [item]}})[modality])
            torch.testing.assert_close(alone, expected, **TOLERANCE)


def test_both_modalities_in_one_call_keep_their_order(model, inputs):
    apart = batches(inputs[1])
    for order in (["image", "video"], ["video", "image"]):
        found = model.embed_multimodal(**{name: value for one in order for name, value in apart[one].items()})

        expected = [item for one in order for item in model.embed_multimodal(**apart[one])]
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_positions_are_those_of_our_model(model, ours, inputs):
    own, theirs = inputs
    features = [
        MultiModalFeatureSpec(data=item, modality=modality, identifier=f"{modality}{number}", mm_position=place)
        for modality, items in theirs["mm_kwargs"].items()
        for number, (item, place) in enumerate(zip(items, theirs["mm_placeholders"][modality], strict=True))
    ]

    found, delta = model.get_mrope_input_positions(theirs["prompt_token_ids"], features)

    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    expected = ours.get_rope_index(own["input_ids"], **{name: own[name] for name in names if name in own})
    assert found.tolist() == expected[0][:, 0].tolist()
    assert delta == int(expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_generator_projector_and_fusion_are_those_of_our_model(checkpoint, dtype):
    model, ours = load(checkpoint, dtype=str(dtype).removeprefix("torch.")), native(checkpoint, dtype)
    expected = {name: value for name, value in ours.model.state_dict().items() if not name.startswith("vlm.")}

    found = model.streams.state_dict()

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    assert found["fusion.residual_scale"].dtype == torch.float32
    clips = [torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)]
    features = (one.generator.encode(clips)[0] for one in (model.streams, ours.model))
    assert torch.equal(*features)
    assert not any(parameter.requires_grad for parameter in model.streams.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_our_model(make_checkpoint, vlm_type, tied):
    folder = make_checkpoint(vlm_type, {"tied": tied})
    states = torch.randn(3, WIDTH)

    found = load(folder).compute_logits(states)

    torch.testing.assert_close(found, native(folder).get_output_embeddings()(states), **TOLERANCE)


def test_missing_files_of_the_generator_are_an_error(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path / "model")
    shutil.rmtree(folder / "generator")

    with pytest.raises(ValueError, match=r"generator's files are missing.*Copy the checkpoint whole"):
        load(folder)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, r"lacks 1 weights, the first is fusion\.residual_scale"),
        (torch.zeros(3), r"fusion\.residual_scale is \(3,\), but the model has \(\)"),
        (torch.tensor(torch.nan), r"NaN or infinity in fusion\.residual_scale"),
    ],
)
def test_weights_that_cannot_be_are_an_error(checkpoint, tmp_path, value, said):
    folder = copied(checkpoint, tmp_path / "model", **{"model.fusion.residual_scale": value})

    with pytest.raises(ValueError, match=said):
        load(folder)


def test_an_unknown_weight_is_an_error(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path / "model", **{"model.fusion.other": torch.zeros(2)})

    with pytest.raises(ValueError, match=r"fusion\.other is \(2,\), but the model has None"):
        load(folder)


def test_pruned_videos_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"[Pp]run"):
        load(checkpoint, video_pruning_rate=0.5)


def test_the_notice_of_a_model_is_told(checkpoint, tmp_path, caplog):
    folder = copied(checkpoint, tmp_path / "model")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "notice": "untrained"}))

    load(folder)

    assert [record.getMessage() for record in caplog.records if "untrained" in record.getMessage()]
