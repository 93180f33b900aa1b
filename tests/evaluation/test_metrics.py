"""Parsers, scores and averages beyond the recorded cases."""

import pytest

from vega3d.evaluation.metrics import (
    CATEGORIES,
    CHOICE_TYPES,
    MRA_THRESHOLDS,
    NUMERIC_TYPES,
    average,
    mean_relative_accuracy,
    parse_lmms_eval,
    parse_official,
    score_likelihood,
    score_parsed,
    to_number,
)


@pytest.mark.parametrize(("prediction", "target", "score"), [(12, 10, 0.6), (11, 10, 0.9), (1, 2, 0.1), (3, 4, 0.6)])
def test_mean_relative_accuracy(prediction, target, score):
    assert mean_relative_accuracy(prediction, target) == pytest.approx(score, abs=1e-12)


def test_the_thresholds_are_those_of_numpy():
    import numpy as np

    assert list(np.linspace(0.5, 0.95, 10)) == list(MRA_THRESHOLDS)


@pytest.mark.parametrize(("prediction", "score"), [(0.0, 1), (-0.0, 1), (3, 0), (float("nan"), 0), (float("inf"), 0)])
def test_target_zero_has_an_answer(prediction, score):
    assert mean_relative_accuracy(prediction, 0) == score


@pytest.mark.parametrize(
    ("text", "official", "lmms_eval"),
    [
        ("About 7", "About", "7"),
        ("25cm", "25cm", "25"),
        ("2.5 meters", "2.5", "2.5"),
        ("-4", "-4", "-4"),
        ("20-30", "20-30", "20"),
        (".52e1", ".52e1", "52"),
        ("3.", "3", "3"),
        ("", "", ""),
        ("three", "three", "3"),
        ("nan", "nan", ""),
    ],
)
def test_numbers(text, official, lmms_eval):
    assert parse_official(text, "object_counting") == official
    assert parse_lmms_eval(text, "object_counting") == lmms_eval


NUMBER, CHOICE = "object_counting", "route_planning"
# What `vsibench_process_results` of lmms_eval 0.7.3 (PyPI) makes of an answer: the number, or the text to compare
# with the letter. Recorded by running it; None is no number, which scores 0.
LMMS_EVAL = [
    ("There are 3 boxes", NUMBER, 3.0),
    (" 4 ", NUMBER, 4.0),
    ("Three boxes.", NUMBER, 3.0),
    ("twenty-one", NUMBER, 21.0),
    ("three hundred and twenty-one", NUMBER, 321.0),
    ("two thousand five hundred", NUMBER, 2500.0),
    ("one hundred thousand", NUMBER, 100000.0),
    ("thousand thousand", NUMBER, 2000.0),
    ("hundred hundred", NUMBER, 10000.0),
    ("one apple, room 2", NUMBER, 1.0),
    ("room 2, one apple", NUMBER, 2.0),
    ("2 or three", NUMBER, 2.0),
    ("one two", NUMBER, 3.0),
    ("three, and four", NUMBER, 7.0),
    ("four and a half", NUMBER, 4.0),
    ("five 6 seven", NUMBER, 12.0),
    ("six.five", NUMBER, 11.0),
    ("sixty-five point two", NUMBER, 65.0),
    ("minus two", NUMBER, 2.0),
    ("no one knows 5", NUMBER, 1.0),
    ("about -4.5 m", NUMBER, -4.5),
    ("a-5b", NUMBER, -5.0),
    ("+3", NUMBER, 3.0),
    ("\u22123", NUMBER, 3.0),
    (".5", NUMBER, 5.0),
    ("1e3", NUMBER, 1.0),
    ("1_000", NUMBER, 1.0),
    ("3,000", NUMBER, 3.0),
    ("10 000", NUMBER, 10.0),
    ("1.5.2", NUMBER, 1.5),
    ("1/2", NUMBER, 1.0),
    ("3two", NUMBER, 3.0),
    ("two3", NUMBER, 2.0),
    ("\u0663.5", NUMBER, 3.5),
    ("\u01303", NUMBER, 3.0),
    ("1" * 400, NUMBER, float("inf")),
    ("ZERO", NUMBER, 0.0),
    ("twentyone", NUMBER, None),
    ("someone", NUMBER, None),
    ("third", NUMBER, None),
    ("\u00bd", NUMBER, None),
    ("and and", NUMBER, None),
    ("nan", NUMBER, None),
    ("inf", NUMBER, None),
    ("-", NUMBER, None),
    ("", NUMBER, None),
    ("A", CHOICE, "A"),
    ("a. left", CHOICE, "a"),
    ("A...", CHOICE, "A"),
    ("A\n", CHOICE, "A"),
    ("A.\nbecause", CHOICE, "A.\nbecause"),
    ("(A)", CHOICE, "(A)"),
    ("A,", CHOICE, "A,"),
    (" A", CHOICE, ""),
    ("The answer is A", CHOICE, "The"),
    ("", CHOICE, ""),
]


@pytest.mark.parametrize(("text", "question_type", "theirs"), LMMS_EVAL)
def test_answers_are_parsed_as_lmms_eval_does(text, question_type, theirs):
    parsed = parse_lmms_eval(text, question_type)
    assert (to_number(parsed) if question_type == NUMBER else parsed) == theirs
    if theirs in (None, float("inf")):
        assert score_parsed(parsed, question_type, "3") == 0


def test_number_words_without_end_are_a_number():
    assert to_number(parse_lmms_eval("hundred " * 3000, "object_counting")) == float("inf")


def test_dots_go_before_white_space():
    assert parse_official("A...", "route_planning") == parse_official("A\n", "route_planning") == "A"
    assert parse_official("A.\n", "route_planning") == "A."  # so this counts as wrong, as in the official code


def test_letters_are_parsed_alike():
    for text in ("B", "b.", "B. left", "(B)", "", "The answer is B"):
        assert parse_lmms_eval(text, "route_planning") == parse_official(text, "route_planning")


@pytest.mark.parametrize("text", ["", "nan", "inf", "three", "1e999"])
def test_what_is_no_number_scores_zero(text):
    assert score_parsed(parse_official(text, "object_counting"), "object_counting", "3") == 0


def test_likelihood():
    assert score_likelihood({"A": 0.2, "B": 0.8}, "B") == 1
    assert score_likelihood({"A": 0.2, "B": 0.8}, "A") == 0
    assert score_likelihood(dict.fromkeys("ABCD", 0.25), "C") == 0.25


def test_directions_count_once_and_types_are_unweighted():
    scores = [(name, 0.0) for name in (*CHOICE_TYPES, *NUMERIC_TYPES)]
    scores += [("object_rel_direction_easy", 1.0)] * 2  # mean of this type 2/3, of the category 2/9
    averages = average(scores)
    assert averages.categories["object_rel_direction"] == pytest.approx(2 / 9)
    assert averages.macro == pytest.approx(2 / 9 / 8)
    assert averages.micro == pytest.approx(2 / 12)


def test_missing_categories_are_named_and_left_out():
    averages = average([("route_planning", 1.0), ("object_counting", 0.5)])
    assert averages.macro == 0.75
    assert len(averages.missing) == 8
    assert [name for name, score in averages.categories.items() if score is not None] == [
        "object_counting",
        "route_planning",
    ]
    assert set(averages.categories) == set(CATEGORIES)


def test_nothing_averages_to_nothing():
    averages = average([])
    assert averages.macro is None and averages.micro is None


def test_extra_types_are_in_no_average():
    averages = average([("localisation_by_choice", 1.0), ("object_counting", 0.0)])
    assert averages.types["localisation_by_choice"] == 1
    assert averages.macro == averages.micro == 0


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="no question type 'colour'"):
        average([("colour", 1.0)])
