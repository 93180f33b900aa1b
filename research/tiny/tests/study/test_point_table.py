"""The table of points, by arm."""

import numpy as np
import pytest

from research.tiny.study.point_table import point_table, point_values


def test_differences_are_paired_over_seeds_and_scenes():
    random = np.random.default_rng(0)
    first = random.uniform(1, 3, (3, 40, 4))
    second = first + random.normal(0, 0.01, first.shape) - np.array([0.1, 0, 0, -0.2])

    values = point_values(
        {"semantic": first, "trained": second, "random": first}, ["semantic", "random"], resamples=500
    )

    assert (values["scenes"], values["seeds"]) == (40, 3)
    assert values["errors"]["semantic"]["turn"]["score"] == pytest.approx(first[..., 1].mean())
    assert list(values["differences"]) == ["trained - semantic", "random - semantic", "trained - random"]

    found = values["differences"]["trained - semantic"]
    assert found["depth"]["score"] == pytest.approx(-0.1, abs=0.01) and found["depth"]["high"] < 0
    assert found["right"]["low"] > 0 and found["turn"]["low"] < 0 < found["turn"]["high"]

    own = values["errors"]["trained"]["depth"]
    assert own["high"] - own["low"] > 10 * (found["depth"]["high"] - found["depth"]["low"])

    table = point_table(values)
    row = next(line for line in table.splitlines() if line.startswith("| trained - semantic"))
    cells = [text.strip() for text in row.strip("|").split("|")]
    assert [text.startswith("**") for text in cells[1:]] == [True, False, False, True]


def test_arms_must_have_the_same_seeds_and_scenes():
    with pytest.raises(ValueError, match="give as many of each"):
        point_values({"a": np.zeros((2, 5, 4)), "b": np.zeros((2, 4, 4))}, ["a"])
