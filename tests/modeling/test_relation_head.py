"""Boxes seen from anchors: what reaches a score, filling, and a relation that cosines alone cannot learn."""

from math import exp, log, log1p

import pytest
import torch
from torch import nn

from golden_models import fusion_config
from vega3d.modeling.grounding_head_vega3d import GroundingHead
from vega3d.modeling.relation_head_vega3d import ANCHORS, PLACES, SEEN, relative_places, seen_from_anchors

SIZE, COUNT = 32, 6


@pytest.fixture
def head():
    """Whose last layer is not 0 any more."""
    return made("relations")


def made(name: str) -> GroundingHead:
    torch.manual_seed(0)
    head = GroundingHead(fusion_config(SIZE, "add", grounding_head=name))
    nn.init.normal_(head.ranking.no_target)
    return head


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    boxes = torch.rand(COUNT, 6, generator=random) * 3 + 0.1
    return torch.randn(SIZE, generator=random), torch.randn(COUNT, SIZE, generator=random), boxes


def test_places():
    boxes = torch.tensor([[0.0, 0, 0, 2, 2, 2], [3.0, 4, 0, 2, 2, 4], [0.5, 0, 0, 2, 2, 2]])
    places = relative_places(boxes)
    assert places.shape == (3, 3, PLACES)
    assert places[0, 1, :5].tolist() == pytest.approx([3, 4, 0, 5, 5**0.5])  # 1 and 2 m apart along x and y
    assert places[0, 1, 5:].tolist() == pytest.approx([log1p(5**0.5), exp(-(5**0.5)), 0, 0, log(2)])
    assert places[1, 0, :3].tolist() == [-3, -4, 0]
    assert places[0, 2, 4] == 0  # they overlap


def test_a_yaw_counts_as_the_box_around_it():
    boxes = torch.tensor([[0.0, 0, 0, 2, 1, 1, torch.pi / 2], [3.0, 0, 0, 1, 1, 1, 0]])
    around = torch.tensor([[0.0, 0, 0, 1, 2, 1], [3.0, 0, 0, 1, 1, 1]])
    weights = torch.eye(ANCHORS)
    assert torch.allclose(relative_places(boxes), relative_places(around), atol=1e-6)
    assert torch.allclose(seen_from_anchors(boxes, weights), seen_from_anchors(around, weights), atol=1e-6)


def test_a_box_is_seen_from_both_anchors():
    boxes = torch.tensor([[0.0, 0, 0, 1, 1, 1], [2.0, 0, 0, 1, 1, 1], [0.0, 3, 0, 1, 2, 4]])
    first, second = 1, 2
    seen = seen_from_anchors(boxes, torch.nn.functional.one_hot(torch.tensor([first, second]), 3).float())
    assert seen.shape == (3, SEEN)
    places = relative_places(boxes)
    assert torch.equal(seen[0, : 2 * PLACES], torch.cat([places[0, first], places[0, second]]))
    assert seen[0, -5:].tolist() == pytest.approx([1, 0, 0, 0, 0])  # the second lies to the left of the first
    assert seen[first, -5:-3].tolist() == [0, 0]  # there is no way to itself
    assert seen[second, -3:].tolist() == pytest.approx([0, log(2), log(4)])


def test_it_begins_as_cosines(head):
    query, objects, boxes = scene()
    cosines = head.ranking.scores(query, objects)
    assert not torch.equal(head.box_scores(query, objects, boxes), cosines)
    nn.init.zeros_(head.relations.outer.weight)
    nn.init.zeros_(head.relations.outer.bias)
    assert torch.equal(head.box_scores(query, objects, boxes), cosines)


def test_a_score_depends_on_where_others_are_and_not_on_the_world(head):
    query, objects, boxes = scene()
    scores = head.box_scores(query, objects, boxes)
    moved = boxes.clone()
    moved[3, 0] += 1.0
    assert (head.box_scores(query, objects, moved) - scores)[:COUNT].abs().min() > 1e-6
    elsewhere = boxes + torch.tensor([10.0, -3, 1, 0, 0, 0])
    assert torch.allclose(head.box_scores(query, objects, elsewhere), scores, atol=1e-5)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    mixed = head.box_scores(query, objects[order], boxes[order])
    assert torch.allclose(mixed[:COUNT], scores[order], atol=1e-6) and torch.allclose(mixed[-1], scores[-1])


def test_filling_changes_nothing(head):
    query, objects, boxes = scene()
    is_box = torch.arange(COUNT) < 4
    filled = head.box_scores(query, objects, boxes, is_box)
    alone = head.box_scores(query, objects[:4], boxes[:4])
    assert torch.allclose(filled[:4], alone[:4], atol=1e-6)
    right = torch.zeros(ANCHORS, COUNT, dtype=torch.bool)
    right[:, 2] = True
    losses = head.relations.anchor_losses(query, objects, right, is_box)
    assert torch.allclose(losses, head.relations.anchor_losses(query, objects[:4], right[:, :4]), atol=1e-6)
    assert head.box_scores(query, objects[:0], boxes[:0]).shape == (1,)
    assert head.box_scores(query, objects, boxes, torch.zeros(COUNT, dtype=torch.bool)).isfinite().all()


def test_the_loss_of_anchors(head):
    query, objects, _ = scene()
    right = torch.zeros(ANCHORS, COUNT, dtype=torch.bool)
    right[0, [1, 4]] = True
    query.requires_grad_()
    first, second = head.relations.anchor_losses(query, objects, right)
    weights = head.relations.anchors(query, objects)[0].softmax(-1)
    assert torch.isclose(first, -weights[[1, 4]].sum().log()) and second == 0
    (first + second).backward()
    assert query.grad.isfinite().all() and query.grad.any()


def test_sixteen_bits(head):
    query, objects, boxes = scene()
    scores = head.box_scores(query, objects, boxes)
    rounded = head.bfloat16().box_scores(query.bfloat16(), objects.bfloat16(), boxes)
    assert rounded.dtype == torch.float32 and torch.allclose(rounded, scores, atol=0.05)


def closest_to_an_anchor(count: int, random: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Queries, objects, boxes, the right ones, and the anchor: of three chairs the one nearest to the thing named."""
    boxes = torch.cat([torch.rand(count, COUNT, 3, generator=random) * 5, torch.full((count, COUNT, 3), 0.3)], dim=-1)
    kinds = torch.tensor([0, 0, 0, 1, 2, 3]).expand(count, -1)  # chairs, three other things
    anchor = torch.randint(3, COUNT, (count,), generator=random)
    queries = torch.nn.functional.one_hot(anchor, SIZE) * 5.0
    objects = torch.eye(SIZE)[kinds] * 5 + torch.randn(count, COUNT, SIZE, generator=random) * 0.1
    there = boxes[torch.arange(count), anchor, :3]
    near = (boxes[:, :, :3] - there[:, None]).norm(dim=-1).masked_fill(kinds > 0, torch.inf).argmin(1)
    is_anchor = torch.nn.functional.one_hot(anchor, COUNT).bool()[:, None].repeat(1, ANCHORS, 1)
    is_anchor[:, 1:] = False
    return queries, objects, boxes, torch.nn.functional.one_hot(near, COUNT).bool(), is_anchor


@pytest.mark.parametrize(("name", "least", "most"), [("infonce", 0.2, 0.5), ("relations", 0.8, 1.0)])
def test_which_chair_is_nearest_to_what_is_named(name, least, most):
    head, random = made(name), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    scores_of, loss_of = torch.vmap(head.box_scores), torch.vmap(head.ranking.loss)
    for _ in range(200):
        queries, objects, boxes, right, anchors = closest_to_an_anchor(32, random)
        optimizer.zero_grad()
        loss = loss_of(scores_of(queries, objects, boxes), right).mean()
        if head.relations is not None:
            loss = loss + torch.vmap(head.relations.anchor_losses)(queries, objects, anchors)[:, 0].mean()
        loss.backward()
        optimizer.step()
    *given, right, _ = closest_to_an_anchor(500, random)
    found = scores_of(*given)[:, :-1].argmax(1)
    share = right[torch.arange(500), found].float().mean().item()
    assert least <= share <= most  # a choice among the chairs by chance is right in a third
