"""World positions of visual tokens: their code in the fused tokens, points in the prompt, tokens in boxes."""

import math

import pytest
import torch

from tiny_inputs import CASES, VIDEO
from tiny_models import every_vlm
from vega3d import VegaConfig
from vega3d.modeling.positions_vega3d import object_vectors, points_in_boxes, position_code

COORD = 40  # a token of the tiny vocabulary


def positions(inputs: dict, model) -> dict[str, torch.Tensor]:
    """Random points for all visual tokens, of which some have none."""
    merge = model.config.vlm_config.vision_config.spatial_merge_size**2
    grids = [inputs[f"{name}_grid_thw"] for name in ("image", "video") if f"{name}_grid_thw" in inputs]
    count = sum(int(grid.prod(-1).sum()) // merge for grid in grids)
    random = torch.Generator().manual_seed(0)
    mask = torch.rand(count, generator=random) < 0.7
    points = 4 * torch.randn(count, 3, generator=random)
    return {"visual_positions": points.masked_fill(~mask[:, None], math.nan), "visual_positions_mask": mask}


def tokens(model, inputs: dict) -> torch.Tensor:
    outputs = model.encode(**inputs).mm_encoder_outputs
    return torch.cat([item for output in outputs.values() for item in output.pooler_output])


@every_vlm
@pytest.mark.parametrize("fusion", ["token_gated_residual", "none"])
def test_the_code_is_added_after_fusion_to_tokens_that_have_a_position(assemble, batch, fusion):
    model, inputs = assemble(fusion=fusion, position_code="sin3d"), batch(*CASES["batch"])
    places = positions(inputs, model)
    plain, placed = tokens(model, inputs), tokens(model, {**inputs, **places})
    mask = places["visual_positions_mask"]

    assert torch.equal(plain[~mask], placed[~mask])
    code = position_code(places["visual_positions"][mask], model.config)
    assert torch.equal(plain[mask] + code, placed[mask])
    blind = assemble(fusion=fusion)
    assert torch.equal(tokens(blind, inputs), tokens(blind, {**inputs, **places}))


@every_vlm
def test_generation_and_cached_features_see_positions(assemble, batch):
    model, inputs = assemble(position_code="sin3d"), batch(*CASES["batch"])
    inputs = {**inputs, **positions(inputs, model)}
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    answer = model.generate(**inputs, **options)
    logits = model(**inputs).logits[:, -1]

    torch.testing.assert_close(answer.logits[0], logits, atol=2e-5, rtol=0)
    encoded = model.encode(**inputs)
    with_tokens = model.generate(**inputs, mm_encoder_outputs=encoded.mm_encoder_outputs, **options)
    assert torch.equal(answer.sequences, with_tokens.sequences)
    features = model.generator_features(**inputs)
    stored = {name: value for name, value in inputs.items() if not name.startswith("generator_pixel")}
    assert torch.equal(model(**stored, generator_hidden_states=features).logits[:, -1], logits)
    others = {**inputs, "visual_positions": inputs["visual_positions"] + 1}
    assert not torch.equal(model(**others).logits[:, -1], logits)
    with pytest.raises(ValueError, match="visual_positions are given, but it was not made of these"):
        model(**others, mm_encoder_outputs=encoded.mm_encoder_outputs)


@every_vlm
def test_a_point_in_the_prompt_is_added_to_its_own_token(assemble, batch):
    model = assemble(position_code="sin3d", coord_token_id=COORD)
    inputs = batch([5, VIDEO, COORD, 7], [VIDEO, COORD, 8, COORD, 9])
    points = torch.tensor([[1.0, 2.0, 0.5], [-3.0, 0.2, 1.0], [14.0, -9.0, 2.0]])
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    embeds[ids == COORD] += position_code(points, model.config)
    text = {name: value for name, value in inputs.items() if name != "input_ids"}
    grids = ("image_grid_thw", "video_grid_thw")
    turned = model.model.vlm.model.get_rope_index(
        ids,
        mm_token_type_ids=2 * (ids == model.config.video_token_id).int(),
        attention_mask=inputs["attention_mask"],
        **{name: inputs[name] for name in grids if name in inputs},
    )[0]
    wanted = model(**text, inputs_embeds=embeds, position_ids=turned).logits[:, -1]

    torch.testing.assert_close(model(**inputs, coord_positions=points).logits[:, -1], wanted, atol=2e-5, rtol=0)
    options = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    answer = model.generate(**inputs, coord_positions=points, **options)
    torch.testing.assert_close(answer.logits[0], wanted, atol=2e-5, rtol=0)
    assert answer.sequences.shape[1] == ids.shape[1] + 3
    for wrong in (None, points[:2], points * math.nan):
        with pytest.raises(ValueError, match="coord_positions"):
            model(**inputs, coord_positions=wrong)
    points[1, 2] = 6
    with pytest.raises(ValueError, match=r"has \[-3.0, 0.2.*, 6.0\] outside the scene, .* to \[15.0, 15.0, 5.0\] m"):
        model(**inputs, coord_positions=points)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual_positions": torch.zeros(3, 3)}, r"must be float\[\d+, 3\], one for each visual token"),
        ({"visual_positions": torch.zeros(18, 3, dtype=torch.bfloat16)}, "half precision would move them"),
        ({"visual_positions_mask": None}, "NaN or infinite. Leave them out by visual_positions_mask"),
        ({"visual_positions_mask": torch.ones(3)}, r"visual_positions_mask must be bool\["),
        ({"visual_positions": None}, "visual_positions_mask comes without visual_positions"),
    ],
)
def test_bad_positions_are_refused_before_heavy_work(assemble, batch, change, message):
    model, inputs = assemble(position_code="sin3d"), batch(*CASES["video"])
    with pytest.raises(ValueError, match=message):
        model.encode(**{**inputs, **positions(inputs, model), **change})


def test_objects_are_means_of_the_tokens_in_their_boxes():
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [9.0, 9.0, 9.0]])
    features = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    boxes = torch.tensor([[0.5, 0.0, 0.0, 1.0, 0.2, 0.2], [5.0, 5.0, 5.0, 1.0, 1.0, 1.0]])

    assert object_vectors(features, points, None, boxes).tolist() == [[1.5], [0.0]]
    assert object_vectors(features, points, points[:, 0] > 0, boxes).tolist() == [[2.0], [0.0]]
    turned = torch.cat([boxes, torch.tensor([[math.pi / 2], [0.0]])], dim=1)
    turned[0, :2] = torch.tensor([0.0, 0.5])
    assert points_in_boxes(points, turned)[0].tolist() == [True, False, True, False]
    # Of 4 pixels 3 are in the box: in for a share of 75 %, out for all.
    pixels = torch.stack([points[:1], points[:1], points[:1], points[3:]], dim=1)
    assert object_vectors(features[:1], pixels, None, boxes, share=0.75).tolist() == [[1.0], [0.0]]
    assert object_vectors(features[:1], pixels, None, boxes, share=1.0).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    "options",
    [
        {"position_range": [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]},
        {"position_range": [[0.0, 0.0], [1.0, 1.0]]},
        {"position_voxel": 0.0},
        {"coord_token_id": 10**7},
        {"position_code": "mlp"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        VegaConfig(vlm_config={"model_type": "qwen2_5_vl"}, **options)
