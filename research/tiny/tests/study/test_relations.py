"""The way from one name of a question to another, that base and stage 1 tell."""

import numpy as np
import pytest
import torch

from fitting import fit
from research.tiny.study.map_head import Names
from research.tiny.study.map_rows import OnMap
from research.tiny.study.packs import IGNORED, pack
from research.tiny.study.relation_head import BEARINGS, FARTHEST, RelationHead, anchors_of, relation_targets, way
from research.tiny.study.stages import PackMaker
from research.tiny.study.vlm import build_tokenizer
from vega3d.evaluation.metrics import is_choice
from vega3d.questions import SpatialQuestion


@pytest.mark.parametrize(
    "kind, question, options, wanted",
    [
        ("object_abs_distance", "What is the distance between the door and the sofa (in meters)?", (), "- door"),
        (
            "object_rel_distance",
            "Which of these objects (lamp, bed) is the closest to the door?",
            ("bed", "lamp"),
            "- - door door",  # the name after the bracket is another token, and not found
        ),
        (
            "object_rel_direction_easy",
            "If I am standing by the bed and facing the sofa, is the lamp to the left or the right of the sofa?",
            ("left", "right"),
            "- bed bed bed",
        ),
        (
            "route_planning",
            "You are a robot beginning at the bed and facing the sofa. You want to navigate to the lamp.",
            ("Turn Left", "Turn Right"),
            "- bed sofa",
        ),
        ("object_counting", "How many chair(s) are in this room?", (), "-"),
        ("obj_appearance_order", "In which order: door, lamp?", ("door, lamp", "lamp, door"), "- - - - - -"),
    ],
)
def test_names_are_told_their_way_from_where_the_question_starts(kind, question, options, wanted):
    tokenizer = build_tokenizer(1024)
    asked = SpatialQuestion(None, question, options, is_numeric=not is_choice(kind))
    prompt = np.array(tokenizer.encode(asked.prompt))
    names = [name for _, name in Names(tokenizer).ends(prompt)]
    assert [anchor or "-" for anchor in anchors_of(kind, names, len(options))] == wanted.split()


@pytest.mark.parametrize(
    "place, steps, degrees",
    [((3, 0), 3, 0), ((0, 4), 4, 90), ((-3, 4), 5, 127), ((-2, 0), 2, 180), ((0, -1), 1, 270), ((12, 40), 24, 73)],
)
def test_a_way_has_steps_and_a_bearing_to_the_right(place, steps, degrees):
    found = way(OnMap(5 + place[0], place[1] - 2, 0), OnMap(5, -2, 7))
    assert found[0] == steps
    assert abs(found[1] * 360 / BEARINGS - degrees) <= 360 / BEARINGS / 2


def test_where_there_is_no_way_there_is_no_bearing():
    assert way(OnMap(1, 1, 0), OnMap(1, 1, 3)) == (0, IGNORED)


def test_ways_lie_at_the_names_of_the_packs(toy):
    words, prefix = toy.tools().words, toy.tools().stream.prefix
    text = "What is the distance between the lamp and the bed (in meters)?"
    row = [(prompt, words.answers(["2.5"])[0]) for prompt in words.prompts([text, text])]
    names = Names(words.tokenizer)
    ends = [[names.ends(prompt) for prompt, _ in row]] * 2
    anchors = [[anchors_of("object_abs_distance", ["lamp", "bed"], 0)] * 2] * 2
    maps = [{"lamp": OnMap(2, 1, 3), "bed": OnMap(2, 5, 0)}, {"bed": OnMap(2, 5, 0)}]
    packed = pack(prefix, [row, row])
    targets = relation_targets(prefix, [row, row], ends, anchors, maps, packed.ids.shape[1])

    at = np.flatnonzero(targets[0, :, 0] != IGNORED)

    assert [words.tokenizer.decode([packed.ids[0, place]]) for place in at] == [" bed", " bed"]
    assert packed.segments[0, at].tolist() == [1, 2]
    assert targets[0, at].tolist() == [[4, BEARINGS // 4]] * 2
    assert (targets[1] == IGNORED).all()


def test_packs_of_stage_1_tell_ways(toy):
    make = PackMaker(toy.tools(), toy.data("train", 1), toy.recipe.base, 0)
    ways = torch.cat([make(step)[1].ways.flatten(0, 1) for step in range(4)])
    told = ways[ways[:, 0] != IGNORED]
    assert len(told) and told[:, 0].min() >= 0 and told[:, 0].max() <= FARTHEST and told[:, 1].max() < BEARINGS
    assert (PackMaker(toy.tools(), toy.data("train", 0), toy.recipe.stage0, 0)(0)[1].ways == IGNORED).all()


def test_the_head_learns_ways_and_is_still_without_names():
    torch.manual_seed(0)
    head, states, targets = RelationHead(16), torch.randn(2, 12, 16), torch.full((2, 12, 2), IGNORED)
    assert head.loss(states, targets) == 0

    targets[0, 3], targets[1, 7], targets[1, 9] = (
        torch.tensor([4, 20]),
        torch.tensor([24, 0]),
        torch.tensor([0, IGNORED]),
    )
    assert fit(head.parameters(), lambda: head.loss(states, targets)) < 0.05

    steps, bearings = head.layer(head.norm(states[[0, 1], [3, 7]])).split((FARTHEST + 1, BEARINGS), dim=-1)
    assert steps.argmax(-1).tolist() == [4, 24] and bearings.argmax(-1).tolist() == [20, 0]
