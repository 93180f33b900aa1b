"""Draws of scenes and training seeds: published intervals depend on them."""

import numpy as np
import pytest

from vega3d.statistics import draw


def test_a_seed_draws_the_same_scenes_and_training_seeds_in_every_version():
    draws = draw(5, (2, 3), resamples=3, seed=7)

    assert draws.scenes.tolist() == [[1, 2, 1, 0, 1], [0, 2, 0, 2, 1], [2, 1, 0, 1, 1], [1, 1, 1, 1, 1]]
    assert [seeds.tolist() for seeds in draws.seeds] == [[[1, 1]] * 4, [[1, 2, 0], [2, 1, 0], [3, 0, 0], [1, 1, 1]]]


def test_the_last_row_is_the_score_itself():
    values = np.random.default_rng(0).random((3, 5, 4))
    draws = draw(5, (3,), resamples=10)

    assert draws.sums(list(values), 0)[-1] == pytest.approx(values.mean(0).sum(0))
    assert draws.means(values)[-1] == pytest.approx(values.mean((0, 1)))


@pytest.mark.parametrize("arguments", [(0,), (3, (0,)), (3, (), 0)])
def test_nothing_to_draw_is_refused(arguments):
    with pytest.raises(ValueError, match="give one of each at least"):
        draw(*arguments)
