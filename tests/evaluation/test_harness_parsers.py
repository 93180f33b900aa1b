"""The same answers by several parsers: what `plain` reads, the comparison, its report, and stored results."""

import json

import pytest

from command_line import run
from evaluation.evaluation_data import OPTIONS, question_records
from vega3d.evaluation.answerers import ChanceAnswerer
from vega3d.evaluation.harness_parsers import HARNESS_PARSERS, compare_parsers, parse_plain
from vega3d.evaluation.run import evaluate

NUMBER, CHOICE = "object_counting", "route_planning"
TEXTS = {  # of an answer -> what is read by official, lmms_eval and plain
    (NUMBER, "3"): ("3", "3", "3"),
    (NUMBER, "about 25cm"): ("about", "25", "25"),
    (NUMBER, "3,000"): ("3,000", "3", "3000"),
    (NUMBER, "1,5"): ("1,5", "1", ""),
    (NUMBER, "20-30"): ("20-30", "20", ""),
    (NUMBER, "twenty-five"): ("twenty-five", "25", "25"),
    (NUMBER, "3 or four"): ("3", "3", ""),
    (NUMBER, "-4.5 m"): ("-4.5", "-4.5", "-4.5"),
    (NUMBER, ".5"): (".5", "5", "0.5"),
    (NUMBER, ""): ("", "", ""),
    (CHOICE, "B"): ("B", "B", "B"),
    (CHOICE, "b."): ("b", "b", "B"),
    (CHOICE, "(B)"): ("(B)", "(B)", "B"),
    (CHOICE, "The answer is B."): ("The", "The", "B"),
    (CHOICE, "B.\nbecause"): ("B.\nbecause", "B.\nbecause", "B"),
    (CHOICE, "Right"): ("Right", "Right", "B"),
    (CHOICE, "A or B"): ("A", "A", ""),
    (CHOICE, "I think C"): ("I", "I", "C"),
    (CHOICE, "D"): ("D", "D", ""),
}


class Says:
    """Answers with the texts of a table, one after another."""

    settings = {"name": "says"}  # noqa: RUF012

    def __init__(self, texts):
        self.texts = texts

    def answer(self, records):
        return [(self.texts[record.id], None) for record in records]


@pytest.mark.parametrize(("asked", "read"), TEXTS.items())
def test_what_plain_reads(asked, read):
    kind, text = asked

    assert parse_plain(text, kind, OPTIONS if kind == CHOICE else ()) == read[2]


@pytest.mark.parametrize("asked", TEXTS)
def test_each_parser_scores_what_it_reads(asked):
    kind, text = asked
    [record, *_] = [record for record in question_records() if record.question_type == kind]

    compared = evaluate(Says({record.id: text}), [record], resamples=2)["parsers"]

    readings = TEXTS[asked]
    for name, reading in zip(HARNESS_PARSERS, readings, strict=True):
        right = reading.upper() == record.answer if kind == CHOICE else None
        if right is not None:
            assert compared["scores"][name]["micro"] == float(right)
        if compared["differ"]:
            assert compared["differ"][0]["parsed"][name] == reading
    same = {reading.upper() if len(reading) == 1 and reading.isalpha() else None for reading in readings}
    if kind == CHOICE:
        assert bool(compared["differ"]) == (len(same) > 1)


def test_the_scores_are_those_of_the_summary():
    result = evaluate(ChanceAnswerer(), question_records(), resamples=2)

    for name in ("official", "lmms_eval"):
        figures = result["summary"][name]["figures"]
        assert result["parsers"]["scores"][name] == pytest.approx({row: one["score"] for row, one in figures.items()})


def test_a_stored_result_is_reported_without_a_model(tmp_path):
    records = question_records()
    texts = {record.id: f"({record.answer})" if record.options else f"about {record.answer}" for record in records}
    file = tmp_path / "result.json"
    evaluate(Says(texts), records, file, resamples=2)
    kept = file.read_bytes()

    table = run("evaluate", "--from", file, "--harness-parser", "all").stdout
    values = json.loads(run("evaluate", "--from", file, "--harness-parser", "official", "plain", "--json").stdout)

    assert "60 of 60 read apart, 60 scored apart" in table and "and 40 more" in table
    [macro] = [line.split() for line in table.splitlines() if line.startswith("macro") and len(line.split()) == 4]
    assert macro == ["macro", "0.0", "50.0", "100.0"]
    assert list(values["parsers"]["scores"]) == ["official", "plain"]
    assert len(values["parsers"]["differ"]) == 60
    assert file.read_bytes() == kept


def test_older_results_without_the_comparison_are_read(tmp_path):
    file = tmp_path / "result.json"
    evaluate(ChanceAnswerer(), question_records(), file, resamples=2)
    result = json.loads(file.read_text())
    new = result.pop("parsers")
    file.write_text(json.dumps(result))

    assert json.loads(run("evaluate", "--from", file, "--harness-parser", "all", "--json").stdout)["parsers"] == new


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--limit", "3", "--4bit"], "asks nothing again, so --4bit, --limit would have no effect"),
        (["--harness-parser", "zzz"], "There is no parser 'zzz'. Give some of official, lmms_eval, plain, or all."),
    ],
)
def test_what_a_stored_result_cannot_be_asked(tmp_path, line, message):
    file = tmp_path / "result.json"
    evaluate(ChanceAnswerer(), question_records(1), file, resamples=2)

    done = run("evaluate", "--from", file, *line)

    assert done.exit_code == 2 and message in done.stderr


def test_scans_have_scorings_of_their_own(tmp_path):
    line = ["--benchmark", "scanqa", "--data", tmp_path, "--baseline", "oracle", "--harness-parser", "all"]

    assert "scanqa has scorings of its own" in run("evaluate", *line).stderr


def test_a_result_whose_texts_were_lost_is_refused():
    result = evaluate(ChanceAnswerer(), question_records(1), resamples=2)
    result["questions"][0]["answer"] = None

    with pytest.raises(ValueError, match="Question 0 has no text, options or right answer"):
        compare_parsers(result)
