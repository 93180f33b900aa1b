"""`VegaForVisualGrounding`: what reaches a score, batches, scenes encoded once, learning, loading, wrong input."""

import copy

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForZeroShotObjectDetection,
    BitsAndBytesConfig,
)

from fitting import fit
from processing.builders import build_tokenizer
from remote_process import run_without_package
from tiny_inputs import IMAGE, SHORT_VIDEO, VIDEO
from tiny_models import BLOCK, every_vlm, randomise, save_generator, save_vlm
from vega3d import VegaConfig, VegaForSpatialReasoning, VegaForVisualGrounding

GROUND = 263  # the first id after those of the tokenizer
CODE = {"position_code": "sin3d"}


def grounding_model(checkpoint, seed: int = 0, **options) -> VegaForVisualGrounding:
    """With heads whose scores differ."""
    reasoning = VegaForSpatialReasoning.from_pretrained(checkpoint)
    model = VegaForVisualGrounding.from_reasoning(reasoning, build_tokenizer(), seed, **{**CODE, **options})
    randomise(model.grounding_head, seed)
    return model


@pytest.fixture(scope="session")
def grounding(checkpoint) -> VegaForVisualGrounding:
    """Tests that change it make their own."""
    return grounding_model(checkpoint)


@pytest.fixture
def scene(batch):
    """A batch of prompts that end with `<ground>`; each visual token stands on a line of its own random places."""

    def build(*prompts, seed: int = 0) -> dict:
        inputs = batch(*([*prompt, GROUND] for prompt in prompts))
        tokens = sum(
            int(inputs[name].prod(-1).sum()) for name in inputs if name in ("image_grid_thw", "video_grid_thw")
        )
        random = torch.Generator().manual_seed(seed)
        inputs["visual_positions"] = torch.rand(tokens // 4, 3, generator=random) * 4 - 2
        inputs["visual_positions_mask"] = torch.rand(tokens // 4, generator=random) > 0.2
        return inputs

    return build


def around(points: torch.Tensor, size: float = 0.5) -> torch.Tensor:
    return torch.cat([points, torch.full_like(points, size)], dim=1)


def close(ours, theirs, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# --- What reaches a score ----------------------------------------------------------------------------------------


def test_a_box_is_scored_by_the_tokens_that_it_holds(checkpoint, scene):
    model = grounding_model(checkpoint, position_code="none")
    inputs = scene([5, VIDEO, 7])
    placed = inputs["visual_positions_mask"].nonzero()[:, 0]
    first, second = placed[:2].tolist()
    boxes = [around(inputs["visual_positions"][[first, second]], 0.01)]
    scores = model(**inputs, boxes=boxes).scores[0]

    moved = {**inputs, "visual_positions": inputs["visual_positions"].clone()}
    moved["visual_positions"][first] += 10
    changed = model(**moved, boxes=boxes).scores[0]

    assert changed[0] != scores[0]
    assert torch.equal(changed[1:], scores[1:])


@pytest.mark.parametrize(("margin", "held"), [(0.02, True), (0.0, False)])
def test_surfaces_are_in_the_boxes_whose_faces_they_lie_on(checkpoint, scene, margin, held):
    model = grounding_model(checkpoint, grounding_margin=margin, position_code="none")
    inputs = scene([5, VIDEO, 7])
    token = int(inputs["visual_positions_mask"].nonzero()[0])
    point = inputs["visual_positions"][[token]]
    above = around(point - torch.tensor([[0.0, 0.0, 0.11]]), 0.2)  # its upper face is 1 cm below the point
    empty = around(torch.tensor([[9.0, 9, 3]]))

    scores = model(**inputs, boxes=[torch.cat([above, empty])]).scores[0]

    assert bool(scores[0] != scores[1]) == held


def test_a_token_without_a_position_is_in_no_box(grounding, scene):
    inputs = scene([5, VIDEO, 7])
    token = int(inputs["visual_positions_mask"].nonzero()[0])
    point = inputs["visual_positions"][[token]]
    inputs["visual_positions_mask"][token] = False
    inputs["visual_positions"][token] = float("nan")  # as holes of depth may leave it
    elsewhere = {**inputs, "visual_positions": inputs["visual_positions"].nan_to_num(3.0)}

    scores, others = (grounding(**one, boxes=[around(point)]).scores[0] for one in (inputs, elsewhere))

    assert scores.isfinite().all()
    assert torch.equal(scores, others)


def test_the_code_of_its_centre_tells_boxes_without_tokens_apart(checkpoint, scene):
    inputs = scene([5, VIDEO, 7])
    boxes = [torch.tensor([[9.0, 9, 3, 1, 1, 1], [-9, 9, 3, 1, 1, 1]])]
    coded, plain = (
        grounding_model(checkpoint, position_code=code)(**inputs, boxes=boxes).scores[0] for code in ("sin3d", "none")
    )

    assert coded[0] != coded[1]
    assert plain[0] == plain[1]


@every_vlm
@pytest.mark.parametrize("tokens", ["fused", "semantic"])
def test_objects_are_means_of_the_tokens_asked_for(checkpoint, scene, tokens):
    model = grounding_model(checkpoint, grounding_tokens=tokens)
    inputs = scene([5, VIDEO, IMAGE, 7])
    visual = {name: value for name, value in inputs.items() if not name.startswith("visual_positions")}
    vlm, fused = model.model.vlm, model.encode(**visual).mm_encoder_outputs
    semantic = {
        "image": vlm.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True),
        "video": vlm.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True),
    }

    found = model.encode_scene(**inputs)

    expected = [item for output in {"fused": fused, "semantic": semantic}[tokens].values() for item in output[1]]
    assert len(found.tokens) == 2
    for ours, theirs in zip(found.tokens, expected, strict=True):
        close(ours, theirs, 1e-6)
    for name, output in model.encode(**inputs).mm_encoder_outputs.items():  # with the code, for the language model
        for ours, theirs in zip(found.mm_encoder_outputs[name].pooler_output, output.pooler_output, strict=True):
            close(ours, theirs, 1e-6)


# --- Batches, scenes, rankings -----------------------------------------------------------------------------------


@every_vlm
@pytest.mark.parametrize("head", ["infonce", "mlp", "relations"])
def test_a_prompt_has_the_scores_of_the_prompt_alone(checkpoint, scene, head):
    model = grounding_model(checkpoint, grounding_head=head)
    prompts = [[5, VIDEO, 7, 8], [3, IMAGE, 9], [SHORT_VIDEO, 9, 9, 9, 9]]
    whole = scene(*prompts)
    boxes = [around(torch.rand(count, 3) * 4 - 2, 1.5) for count in (4, 1)] + [None]
    order = [1, 0, 2]  # of the visuals in the packed positions: images come first
    ends = torch.tensor([IMAGE.patch_grid, VIDEO.patch_grid, SHORT_VIDEO.patch_grid]).prod(-1) // 4
    places = whole["visual_positions"].split(ends.tolist())
    masks = whole["visual_positions_mask"].split(ends.tolist())

    output = model(**whole, boxes=boxes)

    assert [len(scores) for scores in output.scores[:2]] == ([4, 1] if head == "mlp" else [5, 2])
    for row, prompt in enumerate(prompts):
        single = scene(prompt) | {"visual_positions": places[order[row]], "visual_positions_mask": masks[order[row]]}
        alone = model(**single, boxes=[boxes[row]])
        close(alone.scores[0], output.scores[row], 1e-3 if head == "mlp" else 2e-5)
        close(alone.boxes[0], output.boxes[row], 1e-4)


def test_a_scene_is_encoded_once_for_several_sentences(grounding, scene):
    first, second = scene([5, VIDEO, 7]), scene([5, VIDEO, 8, 8])
    boxes = [around(first["visual_positions"][:3])]
    found = grounding.encode_scene(**first)

    again = grounding(second["input_ids"], boxes=boxes, scene=found, video_grid_thw=second["video_grid_thw"])

    close(again.scores[0], grounding(**second, boxes=boxes).scores[0])


def test_rankings(grounding, scene):
    inputs = scene([5, VIDEO, 7])
    boxes = around(inputs["visual_positions"][:4])
    labels = [boxes[2:3]]

    one = grounding(**inputs, boxes=[boxes], labels=labels)
    any_number = grounding(**inputs, boxes=[boxes], ranking="multi3drefer")
    none = grounding(**inputs, boxes=[boxes[:0]], labels=[boxes[:0]])

    best = int(one.scores[0][:4].argmax())
    assert one.chosen[0].tolist() == [best]
    assert torch.equal(one.boxes[0], boxes[[best]])
    assert one.iou.item() == pytest.approx(float(best == 2) or one.iou.item())
    assert any_number.chosen[0].tolist() == grounding.grounding_head.ranking.chosen(any_number.scores[0]).tolist()
    assert len(none.scores[0]) == 1 and none.boxes[0].shape == (0, 6) and none.iou.isnan().all()
    assert none.loss.isfinite()


def test_five_hundred_boxes_and_one(grounding, scene):
    inputs = scene([5, VIDEO, 7])
    boxes = torch.cat([around(torch.rand(500, 3) * 4 - 2), torch.rand(500, 1) * 6], dim=1)

    many = grounding(**inputs, boxes=[boxes])

    assert len(many.scores[0]) == 501 and many.boxes[0].shape == (1, 7)
    close(grounding(**inputs, boxes=[boxes[:1]]).scores[0][0], many.scores[0][0])


@pytest.mark.parametrize("boxes", [True, False])
def test_sixteen_bits_find_the_same_place(grounding, checkpoint, scene, tmp_path, boxes):
    """By weights in bfloat16, and by autocast; positions and scores stay in 32 bits."""
    grounding.save_pretrained(tmp_path)
    half = VegaForVisualGrounding.from_pretrained(tmp_path, dtype=torch.bfloat16)
    inputs = scene([5, VIDEO, 7])
    given = [around(inputs["visual_positions"][:4])] if boxes else None

    exact = grounding(**inputs, boxes=given)
    with torch.autocast("cpu", torch.bfloat16):
        cast = grounding(**inputs, boxes=given)

    for output in (half(**inputs, boxes=given), cast):
        assert output.scores[0].dtype == output.boxes[0].dtype == torch.float32
        close(output.scores[0], exact.scores[0], 0.1)
        if not boxes:
            close(output.boxes[0], exact.boxes[0], 0.1)


# --- Loss --------------------------------------------------------------------------------------------------------


def test_the_published_loss_is_that_of_the_ranking_alone(checkpoint, scene):
    model = grounding_model(checkpoint, grounding_box_weight=0.0)
    inputs = scene([5, VIDEO, 7], [3, IMAGE, 9])
    boxes = [around(torch.rand(3, 3) * 4 - 2, 0.3) for _ in range(2)]
    head = model.grounding_head.ranking

    output = model(**inputs, boxes=boxes, labels=[boxes[0][1:2], boxes[1][:0]])

    right = torch.tensor([[False, True, False], [False, False, False]])
    expected = [head.loss(scores, row) for scores, row in zip(output.scores, right, strict=True)]
    close(output.loss, sum(expected) / 2)


def test_the_loss_without_boxes_has_its_weight(checkpoint, scene):
    inputs = scene([5, VIDEO, 7])
    boxes = [around(inputs["visual_positions"][:3])]

    def loss(weight: float, given: list | None = boxes) -> torch.Tensor:
        model = grounding_model(checkpoint, grounding_box_weight=weight)
        return model(**inputs, boxes=given, labels=[boxes[0][:1]]).loss

    close(loss(2.0), loss(0.0) + 2 * loss(0.0, None), 1e-4)


def test_anchors_are_learned_from(checkpoint, scene):
    model = grounding_model(checkpoint, grounding_box_weight=0.0, grounding_head="relations")
    inputs = scene([5, VIDEO, 7], [3, IMAGE, 9], [7, SHORT_VIDEO])
    boxes = [around(torch.rand(3, 3) * 4 - 2, 0.3) for _ in range(3)]
    labels = [own[1:2] for own in boxes]
    named = [boxes[0][[2, 0]], None, around(torch.tensor([[9.0, 9, 3], [0, 0, 0]]))[:1]]
    with torch.no_grad():
        plain = model(**inputs, boxes=boxes, labels=labels).loss
    read = []
    model.grounding_head.relations.register_forward_hook(lambda module, given, _: read.append(given))

    output = model(**inputs, boxes=boxes, labels=labels, anchors=named)

    weights = model.grounding_head.relations.anchors(*read[0][:2]).softmax(-1)
    expected = -(weights[0, 2].log() + weights[1, 0].log()) / 2  # of the others none is known, or no box is near it
    close(output.loss, plain + expected / 3)
    output.loss.backward()
    assert model.grounding_head.relations.named[0].weight.grad.any()


@pytest.mark.parametrize(
    ("head", "labelled", "count", "message"),
    [
        ("infonce", True, 1, "by grounding_head='relations', but this is 'infonce' with labels given"),
        ("relations", False, 1, "but this is 'relations' with labels not given. Leave the anchors out"),
        ("relations", True, 3, "anchors has 3 boxes of one prompt, but at most 2 are read"),
    ],
)
def test_anchors_that_nothing_reads_are_refused(checkpoint, scene, head, labelled, count, message):
    model = grounding_model(checkpoint, grounding_head=head)
    inputs = scene([5, VIDEO, 7])
    boxes = around(torch.rand(3, 3))
    labels = [boxes[:1]] if labelled else None
    with pytest.raises(ValueError, match=message):
        model(**inputs, boxes=[boxes], labels=labels, anchors=[boxes[:count]])


def test_boxes_that_all_miss_teach_no_ranking(checkpoint, scene):
    model = grounding_model(checkpoint, grounding_box_weight=0.0)
    inputs = scene([5, VIDEO, 7])
    missed = around(torch.tensor([[9.0, 9, 3]]))
    output = model(**inputs, boxes=[around(inputs["visual_positions"][:3])], labels=[missed])
    assert output.loss == 0


@pytest.mark.parametrize("with_boxes", [True, False])
def test_heads_learn_which_box_a_sentence_means(checkpoint, scene, with_boxes):
    model = grounding_model(checkpoint)
    prompts = scene([5, VIDEO, 7], [5, VIDEO, 9], [5, VIDEO, 11])
    count = len(prompts["visual_positions"]) // 3
    one = torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [0, 1.5, 0.5]])[torch.arange(count) % 3]
    prompts["visual_positions"] = one.repeat(3, 1) + torch.rand(3 * count, 3) * 0.1
    boxes = around(torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [0, 1.5, 0.5]]), 0.6)
    labels = [boxes[:1], boxes[1:2], boxes[:0]]
    given = {"boxes": [boxes] * 3 if with_boxes else None, "labels": labels}
    model.requires_grad_(False)
    model.grounding_head.requires_grad_(True)
    encoded = model.encode_scene(**prompts)
    text = {name: prompts[name] for name in ("input_ids", "attention_mask", "video_grid_thw")}

    fit(model.grounding_head.parameters(), lambda: model(**text, **given, scene=encoded).loss, steps=60, rate=0.01)

    output = model(**text, **given, scene=encoded, ranking="multi3drefer")
    assert [len(chosen) for chosen in output.chosen] == [1, 1, 0]
    assert (output.iou[:2] > 0.5).all()
    if with_boxes:
        assert [chosen.tolist() for chosen in output.chosen] == [[0], [1], []]


def test_the_loss_reaches_every_part_that_is_trained(checkpoint, scene):
    model = grounding_model(checkpoint).train()
    inputs = scene([5, VIDEO, 7])
    boxes = [around(inputs["visual_positions"][:3])]

    model(**inputs, boxes=boxes, labels=[boxes[0][:1]]).loss.backward()

    for part in ("grounding_head.ranking", "grounding_head.box", "model.fusion", "model.projector"):
        assert all(parameter.grad is not None for parameter in model.get_submodule(part).parameters()), part
    assert model.get_input_embeddings().weight.grad[GROUND].abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.generator_module.parameters())


# --- Loading and saving ------------------------------------------------------------------------------------------


@every_vlm
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForZeroShotObjectDetection])
def test_saves_are_exact_and_found_by_auto_classes(grounding, scene, tmp_path, auto_class):
    grounding.save_pretrained(tmp_path)

    loaded = auto_class.from_pretrained(tmp_path)

    assert isinstance(loaded, VegaForVisualGrounding)
    for (name, ours), (_, theirs) in zip(grounding.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    inputs = scene([5, VIDEO, 7])
    boxes = [around(inputs["visual_positions"][:3])]
    close(loaded(**inputs, boxes=boxes).scores[0], grounding(**inputs, boxes=boxes).scores[0], 1e-6)


def test_a_grounding_checkpoint_answers_questions_too(grounding, model, scene, tmp_path, caplog):
    grounding.save_pretrained(tmp_path)

    answering = AutoModelForImageTextToText.from_pretrained(tmp_path)

    assert type(answering) is VegaForSpatialReasoning
    assert "grounding_head" not in caplog.text
    inputs = scene([5, VIDEO, 7])
    del inputs["visual_positions"], inputs["visual_positions_mask"]
    inputs["input_ids"][:, -1] = 8
    close(answering(**inputs).logits[..., :GROUND], model(**inputs).logits[..., :GROUND], 1e-5)


def test_remote_code_finds_the_same_boxes(grounding, scene, tmp_path):
    grounding.save_pretrained(tmp_path / "model")
    inputs = scene([5, VIDEO, 7])
    inputs["boxes"] = [around(inputs["visual_positions"][:3])]
    torch.save({"inputs": inputs, "scores": grounding(**inputs).scores[0].detach()}, tmp_path / "expected.pt")
    code = """
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForZeroShotObjectDetection

folder = sys.argv[1]
expected = torch.load(folder + "/expected.pt")
for auto in (AutoModel, AutoModelForZeroShotObjectDetection):
    model = auto.from_pretrained(folder + "/model", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    torch.testing.assert_close(model(**expected["inputs"]).scores[0], expected["scores"], atol=1e-6, rtol=0)
answering = AutoModelForImageTextToText.from_pretrained(folder + "/model", trust_remote_code=True)
assert type(answering).__name__ == "VegaForSpatialReasoning"
print("same scores")
"""

    assert "same scores" in run_without_package(code, tmp_path, str(tmp_path))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Widths that are multiples of 64, as bitsandbytes wants them."""
    folder = tmp_path_factory.mktemp("wide")
    vlm, generator = save_vlm(folder / "vlm", width=64), save_generator(folder / "source")
    model = VegaForSpatialReasoning.from_backbones(vlm, generator, block=BLOCK, projector_hidden_size=64)
    VegaForVisualGrounding.from_reasoning(model, build_tokenizer(), **CODE).save_pretrained(folder / "model")
    return folder / "model"


def test_four_bits_leave_the_heads_alone(wide, scene, tmp_path):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = VegaForVisualGrounding.from_pretrained(wide, quantization_config=config)

    quantised = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]

    assert quantised
    assert all(name.startswith("model.vlm.model.language_model.") for name in quantised)
    inputs = scene([5, VIDEO, 7])
    boxes = [around(inputs["visual_positions"][:3])]
    model.save_pretrained(tmp_path)
    reloaded = VegaForVisualGrounding.from_pretrained(tmp_path)
    with torch.no_grad():
        scores = model(**inputs, boxes=boxes).scores[0]
        assert scores.isfinite().all()
        close(reloaded(**inputs, boxes=boxes).scores[0], scores)


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_grow_by_the_tokens_that_they_lack(tied, tmp_path):
    vlm, generator = save_vlm(tmp_path / "vlm", tied=tied), save_generator(tmp_path / "generator")
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(300 - len(tokenizer))])  # no row is left

    def build(seed: int) -> tuple[VegaForVisualGrounding, torch.Tensor]:
        model = VegaForSpatialReasoning.from_backbones(vlm, generator, block=BLOCK)
        before = model.get_input_embeddings().weight.clone()
        return VegaForVisualGrounding.from_reasoning(model, copy.deepcopy(tokenizer), seed), before

    model, before = build(0)

    assert (model.config.ground_token_id, model.config.coord_token_id) == (300, 301)
    embeddings = model.get_input_embeddings().weight
    assert embeddings.shape[0] == model.get_output_embeddings().weight.shape[0] == 302
    assert (model.get_output_embeddings().weight is embeddings) == tied
    assert torch.equal(embeddings[:300], before)
    assert torch.equal(build(0)[0].get_input_embeddings().weight, embeddings)
    assert not torch.equal(build(1)[0].get_input_embeddings().weight[300:], embeddings[300:])
    model.save_pretrained(tmp_path / "model")
    loaded = VegaForVisualGrounding.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.get_input_embeddings().weight, embeddings)


def test_tokens_that_are_there_keep_their_rows(checkpoint):
    reasoning, tokenizer = VegaForSpatialReasoning.from_pretrained(checkpoint), build_tokenizer()
    VegaForVisualGrounding.from_reasoning(reasoning, tokenizer)
    trained = torch.nn.init.constant_(reasoning.get_input_embeddings().weight.data[GROUND], 7.0)

    again = VegaForVisualGrounding.from_reasoning(reasoning, tokenizer, seed=1)

    assert again.config.ground_token_id == GROUND
    assert torch.equal(again.get_input_embeddings().weight[GROUND], trained)
    assert len(tokenizer) == GROUND + 2


# --- Wrong input -------------------------------------------------------------------------------------------------


def test_a_model_that_was_not_made_for_grounding(checkpoint):
    with pytest.raises(ValueError, match=r"no ground_token_id.*from_reasoning"):
        VegaForVisualGrounding.from_pretrained(checkpoint)


def test_heads_that_diverged(checkpoint, tmp_path):
    model = grounding_model(checkpoint)
    torch.nn.init.constant_(model.grounding_head.ranking.no_target, float("nan"))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"NaN or infinity in grounding_head\.ranking\.no_target"):
        VegaForVisualGrounding.from_pretrained(tmp_path)


def test_a_whole_number_is_a_float_too(checkpoint):
    """So that the official way, 0, can be asked for as it is documented."""
    reasoning = VegaForSpatialReasoning.from_pretrained(checkpoint)
    official = {"grounding_margin": 0, "grounding_box_weight": 0}
    config = VegaForVisualGrounding.from_reasoning(reasoning, build_tokenizer(), **official).config
    assert [type(value) for value in (config.grounding_margin, config.grounding_box_weight)] == [float, float]
    assert VegaConfig.from_dict({**config.to_dict(), "grounding_margin": 1}).grounding_margin == 1.0
    for wrong in (True, "0", 10**400):
        with pytest.raises(ValueError, match="VegaConfig: "):
            VegaConfig.from_dict({**config.to_dict(), "grounding_margin": wrong})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "none"}, r"options \['fusion'\]"),
        ({"grounding_temperature": 0.0}, "grounding_temperature=0.0 is out of range"),
        ({"grounding_head": "score"}, "grounding_head"),
        ({"grounding_box_weight": -1.0}, "grounding_box_weight=-1.0 is out of range"),
    ],
)
def test_options_that_cannot_be(checkpoint, options, message):
    reasoning, tokenizer = VegaForSpatialReasoning.from_pretrained(checkpoint), build_tokenizer()
    with pytest.raises(ValueError, match=message):
        VegaForVisualGrounding.from_reasoning(reasoning, tokenizer, **options)
    assert reasoning.config.ground_token_id is None and len(tokenizer) == GROUND


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [torch.tensor([[0.0, 0, 0, 1, -1, 1]])]}, "boxes of prompt 0: box 0.*negative size"),
        ({"boxes": [torch.tensor([[0.0, 0, 40, 1, 1, 1]])]}, "outside the scene"),
        ({"boxes": [torch.zeros(1, 6), torch.zeros(1, 6)]}, "1 prompts, but boxes for 2"),
        ({"boxes": 5}, "1 prompts, but boxes are 5. Give a list"),
        ({"labels": torch.tensor(1.0)}, r"1 prompts, but labels are tensor"),
        ({"labels": [torch.zeros(1, 5)]}, "labels of prompt 0 have the shape"),
        ({"ranking": "best"}, "ranking is 'best'"),
        ({"visual_positions": None, "visual_positions_mask": None}, "no visual_positions.*depth"),
        ({"input_ids": "drop"}, "Prompt 0 has 0 tokens <ground>"),
        ({"input_ids": "twice"}, "Prompt 0 has 2 tokens <ground>"),
        ({"visual_positions_mask": "none"}, "neither boxes nor a visual token with a position"),
    ],
)
def test_wrong_input(grounding, scene, change, message):
    inputs = scene([5, VIDEO, 7])
    ids = inputs["input_ids"].clone()
    ids[:, -1], twice = 7, inputs["input_ids"].clone()
    twice[:, -2] = GROUND
    special = {"drop": ids, "twice": twice, "none": torch.zeros_like(inputs["visual_positions_mask"])}
    changed = {
        name: special[value] if isinstance(value, str) and value in special else value
        for name, value in change.items()
    }
    with pytest.raises(ValueError, match=message):
        grounding(**{**inputs, **changed})
