"""Which boxes are right, and which are chosen by the rules of the two benchmarks."""

import pytest
import torch

from golden_models import fusion_config
from tiny_models import seeded
from vega3d.modeling.grounding_head_vega3d import HEADS, BoxHead, box_loss, ranked, right_boxes, right_for_each

SIZE = 16
CUBE = torch.tensor([[0.0, 0, 0, 1, 1, 1]])


def head(name: str):
    return HEADS[name](fusion_config(SIZE, "add", grounding_head=name))


def scores_for(*probabilities: float) -> torch.Tensor:
    """Of `infonce`, whose last class is "no target"."""
    return torch.tensor(probabilities).log() * 0.07


def shifted(*shifts: float) -> torch.Tensor:
    """Cubes along x, whose IoU with the first is (1 - shift) / (1 + shift)."""
    return torch.cat([CUBE + torch.tensor([shift, 0, 0, 0, 0, 0]) for shift in shifts])


@pytest.mark.parametrize(
    ("shifts", "right"),
    [
        ((0.0, 0.3, 0.5, 2.0), [True, True, False, False]),  # IoU 1, 0.54, 0.33, 0
        ((0.5, 2.0), [True, False]),  # the nearest one there is
        ((0.65, 2.0), [False, False]),  # IoU 0.21: none
        ((), []),
    ],
)
def test_right_boxes(shifts, right):
    boxes = shifted(*shifts) if shifts else CUBE[:0]
    assert right_boxes(boxes, CUBE).tolist() == right
    assert not right_boxes(boxes, CUBE[:0]).any()


def test_right_for_each_of_several_targets():
    boxes, targets = shifted(0.0, 0.3, 0.5, 2.0), shifted(0.0, 0.65, 2.4, 9.0)
    right = right_for_each(boxes, targets)
    assert [right_boxes(boxes, target[None]).tolist() for target in targets] == right.T.tolist()
    assert right.T.tolist()[2:] == [[False, False, False, True], [False] * 4]  # IoU 0.43, the nearest; 0
    assert right_boxes(boxes, targets).tolist() == right.any(1).tolist()


@pytest.mark.parametrize(
    ("probabilities", "chosen"),
    [
        ((0.3, 0.5, 0.1, 0.1), [1]),
        ((0.3, 0.35, 0.2, 0.15), [1, 0]),  # 0.35 is not enough, 0.65 crosses 0.4
        ((0.2, 0.25, 0.15, 0.4), []),  # "no target" is the most probable
        ((0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1), [0, 1, 2, 3]),  # equal: "no target" is not ahead
        ((1.0,), []),  # no boxes
    ],
)
def test_the_rule_of_multi3drefer(probabilities, chosen):
    assert head("infonce").chosen(scores_for(*probabilities)).tolist() == chosen


def test_the_rule_of_scanrefer_takes_a_box_whatever_no_target_has():
    assert ranked(scores_for(0.2, 0.25, 0.15, 0.4), 3).tolist() == [1, 0, 2]
    assert ranked(scores_for(1.0), 0).tolist() == []


def test_logits_choose_what_is_more_probable_than_not():
    assert head("mlp").chosen(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [2, 1]
    assert head("mlp").loss(torch.zeros(0), torch.zeros(0, dtype=torch.bool)) == 0


@pytest.mark.parametrize("name", HEADS)
def test_each_score_is_of_its_object_alone(name):
    module = seeded(lambda: head(name), 0)
    random = torch.Generator().manual_seed(1)
    query, objects = torch.randn(SIZE, generator=random), torch.randn(5, SIZE, generator=random)
    order = torch.tensor([3, 0, 4, 1, 2])

    scores = module.scores(query, objects)

    torch.testing.assert_close(module.scores(query, objects[order])[:5], scores[:5][order])
    torch.testing.assert_close(module.scores(query, objects[:2])[:2], scores[:2])
    assert len(scores) == (5 if name == "mlp" else 6)


def test_a_box_lies_where_the_weighted_tokens_are():
    module = seeded(lambda: BoxHead(fusion_config(SIZE, "add")), 0)
    tokens, positions = torch.randn(4, SIZE), torch.rand(4, 3)
    query, weights = torch.randn(SIZE), torch.tensor([0.5, 0.5, 0.0, 0.0])

    box = module(query, tokens, positions, weights)

    moved = module(query, tokens, positions + torch.tensor([1.0, -2.0, 0.5]), weights)
    torch.testing.assert_close(moved - box, torch.tensor([1.0, -2.0, 0.5, 0, 0, 0]))
    unseen = positions.clone()
    unseen[2:] += 5
    assert torch.equal(module(query, tokens, unseen, weights), box)
    assert (box[3:] > 0).all()


def test_the_loss_of_a_box_is_that_of_the_nearest_target():
    targets = shifted(0.2, 3.0)
    assert box_loss(CUBE[0], CUBE).item() == pytest.approx(0, abs=1e-6)
    assert box_loss(CUBE[0], targets) == box_loss(CUBE[0], targets[:1])
    assert box_loss(CUBE[0], targets[1:]) > 3
