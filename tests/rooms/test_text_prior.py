"""What the words of a question give away is rejected away."""

import json
import lzma
from collections import Counter

import numpy as np
import pytest

from vega3d.rooms.questions.questions import choice
from vega3d.rooms.questions.text_prior import CLUES, WEIGHTS, load_weights, option_probabilities, unrevealing

NAMES = ("door", "table", "lamp")


def test_rooms_are_furnished_as_people_furnish_them():
    """What is asked from the door is hardly ever behind it; the coffee table is by the sofa."""
    hard = ("front-left", "front-right", "back-left", "back-right")
    assert option_probabilities("object_rel_direction_hard", NAMES, hard)[2:].sum() < 0.3
    near = option_probabilities("object_rel_distance", ("sofa", "coffee table", "door"), ("coffee table", "door"))
    assert near[0] > 0.9


@pytest.mark.parametrize("name", CLUES)
def test_probabilities_do_not_depend_on_the_order_of_options(name):
    options = ("Turn Left", "Turn Right", "Turn Back") if name == "route_planning" else ("door", "table", "lamp")
    forward = option_probabilities(name, NAMES, options)
    assert forward.sum() == pytest.approx(1)
    np.testing.assert_allclose(option_probabilities(name, NAMES, options[::-1]), forward[::-1])


def test_kept_questions_are_answered_equally_often():
    """Answers drawn as the prior says: far from even before, even after."""
    options = ("front-left", "front-right", "back-left", "back-right")
    probabilities = option_probabilities("object_rel_direction_hard", NAMES, options)
    random = np.random.default_rng(0)
    drawn = [
        choice("object_rel_direction_hard", "?", right, [name for name in options if name != right], (1, 2, 3), random)
        for right in random.choice(options, 20_000, p=probabilities)
    ]

    def shares(questions):
        counts = Counter(question.options[question.right] for question in questions)
        return np.array([counts[name] for name in options]) / len(questions)

    kept = list(unrevealing(drawn, [NAMES] * len(drawn), random))
    assert shares(drawn).max() > 0.35
    assert len(kept) > 1000
    np.testing.assert_allclose(shares(kept), 0.25, atol=4 * (0.25 * 0.75 / len(kept)) ** 0.5)


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "prior.json.xz"
    packed = WEIGHTS.read_bytes()
    values = json.loads(lzma.decompress(packed))
    del values["weights"]["route_planning"]
    for content in (lzma.compress(json.dumps(values).encode()), packed[:1000], b"{}"):
        path.write_bytes(content)
        load_weights.cache_clear()
        with pytest.raises(ValueError, match=r"prior\.json\.xz is damaged"):
            load_weights(path)
