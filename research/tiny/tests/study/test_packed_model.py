"""What is computed once and in packs equals what the model itself computes from pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from research.tiny.study.answering import PackedAnswerer
from research.tiny.study.fusion_watch import FusionWatch
from research.tiny.study.kept import KeptRows
from research.tiny.study.network import answer_loss, packed_states, projected_tokens
from research.tiny.study.packs import pack
from research.tiny.study.recipe import ArmRecipe
from research.tiny.study.runner import Experiment
from research.tiny.study.stages import Streams, even_gate, fused_rows, match_scale
from research.tiny.study.tokens import generator_states, make_stream, semantic_tokens
from tiny_models import randomise
from vega3d.evaluation.answerers import ModelAnswerer
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.hub.assemble import make_processor
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.training.collator import VegaCollator

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
MODES = ("frame", "views", "clip")


@pytest.fixture(scope="module")
def parts(toy_recipe, toy_output):
    """For a clip mode and family: model, processor, streams, and the clips of the visuals, after stage 0."""
    experiment = Experiment(toy_recipe, toy_output)
    data, tools = experiment.data("train", 1), experiment.tools()

    def build(**options):
        arm = ArmRecipe("tiny", {"block": 1, **options})
        experiment.recipe.arms["tested"] = arm
        model = experiment.model_of("tested", 0).eval()
        del experiment.recipe.arms["tested"]
        for number, part in enumerate((model.model.vlm, model.model.projector, model.model.fusion)):
            randomise(part, number)  # fresh weights are so small that a wrong place or mask would hardly show
        frames = data.frames_of(range(2))
        clips = [VideoClip(clip, np.arange(len(clip)) / 4, "a clip", True) for clip in frames]
        processor = make_processor(toy_output / "stage0" / "model", model.config.generator_config, num_frames=5)
        with torch.no_grad():
            semantic = semantic_tokens(model, torch.from_numpy(frames), tools.stream)
            hidden = generator_states(model.model.generator, torch.from_numpy(frames), tools.stream)
            streams = Streams(KeptRows([semantic]), KeptRows([hidden]))
        return model, processor, streams, clips, tools

    return build


def questions(clips) -> list[SpatialQuestion]:
    words = (("Where is the bed?", "A"), ("How many chairs?", "12"), ("Which box?", "B"), ("How far is it?", "3.4"))
    return [
        SpatialQuestion(clips[number // 2], text, ("left", "right") if answer in "AB" else (), answer=answer)
        for number, (text, answer) in enumerate(words)
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["wan", "random", "vae", "noise"])
def test_loss_of_a_pack_is_the_models(parts, mode, family):
    model, processor, streams, clips, tools = parts(clip_mode=mode, family=family)
    asked = questions(clips)
    batch = VegaCollator(processor, 5)(asked)

    with torch.no_grad():
        wanted = model(**batch).loss
        prompts, answers = (
            tools.words.prompts([q.prompt for q in asked]),
            tools.words.answers([q.answer for q in asked]),
        )
        rows = list(zip(prompts, answers, strict=True))
        packed = pack(tools.stream.prefix, [rows[:2], rows[2:]])
        tokens, _ = fused_rows(model, streams[[0, 1]], tools)
        found = answer_loss(model, packed_states(model, tokens, packed, tools.stream.prefix), packed)

    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
def test_hidden_states_of_many_clips_are_those_of_each(parts, mode):
    model, _, streams, clips, _ = parts(clip_mode=mode)
    each = model.model.generator.encode([torch.from_numpy(clip.frames).permute(0, 3, 1, 2) for clip in clips])
    first = each[1][0]  # of the first temporal patch: frame 0 and 1
    second = each[1][1]
    torch.testing.assert_close(streams.hidden[[1]][0, 0], (first + second) / 2, **CLOSE)


def test_loss_in_bfloat16_storage_is_near(parts):
    model, _, streams, clips, tools = parts(clip_mode="clip")
    asked = questions(clips)
    prompts, answers = tools.words.prompts([q.prompt for q in asked]), tools.words.answers([q.answer for q in asked])
    packed = pack(tools.stream.prefix, [list(zip(prompts, answers, strict=True))] * 2)
    losses = []
    semantic, hidden = streams[[0, 1]]
    for rows in ((semantic, hidden), (semantic.bfloat16(), hidden.bfloat16())):
        tokens, _ = fused_rows(model, rows, tools)
        losses.append(answer_loss(model, packed_states(model, tokens, packed, tools.stream.prefix), packed))
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-3, atol=0)


@torch.no_grad()
def test_generative_tokens_begin_as_large_as_semantic_ones(parts):
    model, _, streams, _, tools = parts(clip_mode="clip")
    rows = streams[[0, 1]]

    def sizes() -> tuple[float, float]:
        projected = projected_tokens(model, rows[1], tools.stream.prefix)
        return float(projected.pow(2).mean().sqrt()), float(rows[0].pow(2).mean().sqrt())

    model.model.projector.mlp[-1].weight.div_(5)
    model.model.projector.mlp[-1].bias.div_(5)
    direction = projected_tokens(model, rows[1], tools.stream.prefix).flatten()
    assert sizes()[0] < sizes()[1] / 2
    match_scale(model, rows, tools)
    assert sizes()[0] == pytest.approx(sizes()[1], rel=1e-4)
    scaled = projected_tokens(model, rows[1], tools.stream.prefix).flatten()
    assert torch.cosine_similarity(scaled, direction, dim=0) == pytest.approx(1, abs=1e-5)


def test_gates_begin_at_one_half_and_their_weights_still_learn(parts):
    model, _, streams, _, tools = parts(clip_mode="clip")
    model.requires_grad_(True)
    assert fused_rows(model, streams[[0, 1]], tools)[1].std() > 0.01
    even_gate(model)
    tokens, gate = fused_rows(model, streams[[0, 1]], tools)
    assert (gate == 0.5).all()
    tokens.pow(2).mean().backward()
    assert model.model.fusion.gate.weight.grad.abs().max() > 0


@torch.no_grad()
def test_the_log_tells_what_the_fusion_does_and_warns_of_a_shut_gate(parts, caplog):
    model, _, streams, _, tools = parts(clip_mode="clip")
    fusion, rows = model.model.fusion, streams[[0, 1]]
    with FusionWatch(fusion) as watch:
        assert watch.values() == {}
        tokens, gate = fused_rows(model, rows, tools)
        found = watch.values()
        fusion.gate.bias.fill_(30.0)
        fused_rows(model, rows, tools)
        shut = watch.values()
        watch.values()
    projected = projected_tokens(model, rows[1], tools.stream.prefix)
    wanted = {
        "semantic_rms": rows[0].pow(2).mean().sqrt(),
        "generative_rms": projected.pow(2).mean().sqrt(),
        "change": (tokens - rows[0]).norm() / rows[0].norm(),
        "gate": gate.mean(),
        "residual_scale": fusion.residual_scale,
    }

    assert found == pytest.approx({name: float(value) for name, value in wanted.items()}, rel=1e-4)
    assert 0.05 < found["gate"] < 0.95 and found["change"] > 1e-3
    assert shut["change"] < 1e-5
    assert caplog.text.count("The gate is shut") == 1
    assert not fusion._forward_hooks


def test_there_is_nothing_to_watch_without_a_generator():
    with FusionWatch(None) as watch:
        assert watch.values() == {}


def test_questions_of_a_pack_do_not_see_each_other(parts):
    model, _, streams, _, tools = parts(clip_mode="clip")
    tokens, _ = fused_rows(model, streams[[0]], tools)
    words = tools.words
    first, second, other = words.prompts(["Where is the bed?", "How many chairs?", "Is there a lamp in this room?"])
    empty = np.empty(0, np.int64)
    states = []

    for before in (first, other):
        packed = pack(tools.stream.prefix, [[(before, empty), (second, empty)]])
        end = len(tools.stream.prefix.ids) + len(before) + len(second)
        states.append(packed_states(model, tokens, packed, tools.stream.prefix)[0, end - len(second) : end])

    torch.testing.assert_close(states[0], states[1], **CLOSE)


def test_answers_are_those_of_the_model(parts, monkeypatch):
    model, processor, streams, clips, tools = parts(clip_mode="clip")
    texts = (
        ("object_counting", "How many chair(s) are in this room?", ()),
        (
            "object_rel_direction_easy",
            "If I am standing by the bed and facing the sofa, is the tv to the left or the right of the sofa?",
            ("left", "right"),
        ),
    )
    records = [
        AnnotatedQuestion(
            number,
            text,
            options,
            id=f"{number}-{kind}",
            dataset="rooms",
            scene=f"scene{number}",
            question_type=kind,
        )
        for number in range(2)
        for kind, text, options in texts
    ]
    packed = PackedAnswerer(
        model, tools.words, tools.stream.prefix, lambda visuals: fused_rows(model, streams[visuals], tools)[0], {}
    )
    whole = tools.words.tokenizer([text for text, _ in packed.answer(records)])["input_ids"]
    model.generation_config.eos_token_id = whole[0][3]  # so that an answer ends early
    monkeypatch.setattr(packed, "end", whole[0][3])
    shown = [replace(record, visual=clips[record.visual]) for record in records]
    wanted = [ModelAnswerer(model, processor, "m", 5).answer([record])[0] for record in shown]

    found = packed.answer(records)

    assert [text for text, _ in found] == [text for text, _ in wanted]

    lengths = [len(ids) for ids in tools.words.tokenizer([text for text, _ in found])["input_ids"]]
    assert 1 <= lengths[0] <= 4
    for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or ours == pytest.approx(theirs, abs=1e-4)


def test_frames_that_would_be_resized_are_refused(toy):
    tools = toy.tools()
    model = toy.model_of("trained", 0)
    processor = make_processor(toy.output / "vlm", model.config.generator_config)
    with pytest.raises(ValueError, match="resizes frames of 72 x 72 px"):
        make_stream(model, processor, tools.words, 5, 72)


def test_attention_of_packs_and_frames_is_the_plain_one(parts):
    model, _, streams, clips, tools = parts(clip_mode="clip")
    vlm = model.model.vlm.base_model
    asked = questions(clips)
    prompts, answers = tools.words.prompts([q.prompt for q in asked]), tools.words.answers([q.answer for q in asked])
    packed = pack(tools.stream.prefix, [list(zip(prompts, answers, strict=True))] * 2)
    tokens, _ = fused_rows(model, streams[[0, 1]], tools)
    found = packed_states(model, tokens, packed, tools.stream.prefix)
    whole = torch.ones(len(packed.ids), 1, packed.start, packed.ids.shape[1], dtype=torch.bool).tril()
    embedded = model.get_input_embeddings()(packed.ids)
    embedded[:, tools.stream.prefix.first : tools.stream.prefix.first + tokens.shape[1]] = tokens
    vlm.language_model.config._attn_implementation = "sdpa"
    vlm.visual.config._attn_implementation = "sdpa"

    with torch.no_grad():
        plain = vlm.language_model(
            inputs_embeds=embedded,
            attention_mask=torch.cat([whole, packed.mask()], dim=2),
            position_ids=packed.positions,
        ).last_hidden_state
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
        torch.testing.assert_close(semantic_tokens(model, frames, tools.stream), streams.semantic[[0, 1]], **CLOSE)

    torch.testing.assert_close(found, plain, **CLOSE)
