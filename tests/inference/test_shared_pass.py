"""What questions about one clip share."""

import torch
from transformers.cache_utils import DynamicLayer

from vega3d.inference.shared_pass import ROOM, RoomyLayer


def states(seed: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(2, rows, 2, length, 4, generator=torch.Generator().manual_seed(seed))
    return drawn[0], drawn[1]


def test_a_layer_with_room_holds_what_one_without_does():
    layers = RoomyLayer(), DynamicLayer()
    steps = [
        *(lambda layer, seed=seed: layer.update(*states(seed, 1, 3)) for seed in range(2)),
        lambda layer: layer.batch_repeat_interleave(3),
        *(lambda layer, seed=seed: layer.update(*states(seed, 3, 1)) for seed in range(ROOM + 2)),
        lambda layer: layer.crop(-4),
        lambda layer: layer.update(*states(1, 3, 2)),
        lambda layer: layer.batch_select_indices(torch.tensor([2, 0])),
        *(lambda layer, seed=seed: layer.update(*states(seed, 2, ROOM)) for seed in range(2)),
        lambda layer: layer.reset(),
        lambda layer: layer.update(*states(5, 2, 3)),
        lambda layer: layer.update(*states(6, 2, 1)),
    ]
    for step in steps:
        ours, theirs = (step(layer) for layer in layers)
        if ours is not None:
            assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
        assert layers[0].get_seq_length() == layers[1].get_seq_length()


def test_new_tokens_are_written_and_those_before_them_stay_where_they_are():
    layer = RoomyLayer()
    layer.update(*states(0, 2, 40))
    places = [layer.update(*states(seed, 2, 1))[0].data_ptr() for seed in range(ROOM)]
    assert len(set(places)) == 1
