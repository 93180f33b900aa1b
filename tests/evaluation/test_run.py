"""Whole runs: result files, continuing, refusals, tables, comparisons of files."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_data import download, question_records, question_rows
from scipy.stats import binomtest

from tiny_checkpoints import FROZEN
from vega3d.evaluation.answerers import BlindAnswerer, ChanceAnswerer, ModelAnswerer, MostFrequentAnswerer
from vega3d.evaluation.metrics import CATEGORIES
from vega3d.evaluation.report import (
    compare_files,
    comparison_values,
    format_comparison,
    format_table,
    overview,
    read_result,
)
from vega3d.evaluation.run import batches, evaluate
from vega3d.evaluation.vsibench import load_vsibench, take_balanced
from vega3d.files import write_json
from vega3d.hub.load import load_vega
from vega3d.shipped import example_clip

ROWS = (*CATEGORIES, "macro", "micro")
SLOW_RUN = """
import sys, time
sys.path.insert(0, sys.argv[2])
from evaluation_data import question_records
from vega3d.evaluation.answerers import ChanceAnswerer
from vega3d.evaluation.run import evaluate

class Slow(ChanceAnswerer):
    def answer_one(self, record):
        time.sleep(0.02)
        return super().answer_one(record)

evaluate(Slow(), question_records(), sys.argv[1], batch_size=2, on_progress=lambda done: print(done, flush=True))
"""


class Scripted:
    """An answerer with prepared answers that keeps what it was asked."""

    def __init__(self, answers: dict, name: str = "scripted"):
        self.answers, self.asked, self.batches = answers, [], []
        self.settings = {"name": name, "seed": 0}

    def answer(self, records):
        self.asked += [record.id for record in records]
        self.batches.append(len(records))
        return [self.answers[record.id] for record in records]


def right_answers(records) -> dict:
    return {
        record.id: (record.answer, {letter: float(letter == record.answer) for letter in record.letters})
        if record.options
        else (record.answer, None)
        for record in records
    }


def test_a_perfect_run(tmp_path):
    records = question_records()
    result = evaluate(Scripted(right_answers(records)), records, tmp_path / "result.json")

    assert result == read_result(tmp_path / "result.json")
    assert os.listdir(tmp_path) == ["result.json"]
    for scoring in ("official", "lmms_eval", "likelihood"):
        figures = result["summary"][scoring]["figures"]
        assert set(figures) == {*CATEGORIES, "macro", "micro"}
        least = binomtest(6, 6).proportion_ci(0.95, "exact").low  # six scenes, all of them right
        assert all(figure["score"] == figure["high"] == 1 for figure in figures.values())
        assert all(figure["low"] == pytest.approx(least) for figure in figures.values())
        assert set(result["summary"][scoring]["scenes"].values()) == {6}

    question = result["questions"][0]
    assert question["prompt"] == records[0].prompt and question["answer"] == records[0].answer
    assert question["parsed"] == {"official": records[0].answer, "lmms_eval": records[0].answer}
    assert [question["id"] for question in result["questions"]] == [record.id for record in records]
    assert result["versions"].keys() >= {"vega3d", "torch", "transformers", "python"}
    assert result["bootstrap"] == {"seed": 0, "resamples": 2000}


def test_both_parsers_stand_side_by_side(tmp_path):
    records = [record for record in question_records() if not record.options]
    answers = {record.id: (f"About {record.answer}.", None) for record in records}
    result = evaluate(Scripted(answers), records, tmp_path / "result.json")
    assert result["summary"]["official"]["figures"]["macro"]["score"] == 0
    assert result["summary"]["lmms_eval"]["figures"]["macro"]["score"] == 1
    assert result["questions"][0]["parsed"]["official"] == "About"


def test_the_likelihood_may_differ_from_the_text(tmp_path):
    records = [record for record in question_records() if record.question_type == "route_planning"]
    answers = {key: ("none of them", probabilities) for key, (_, probabilities) in right_answers(records).items()}
    result = evaluate(Scripted(answers), records, tmp_path / "result.json")
    assert result["summary"]["official"]["figures"]["micro"]["score"] == 0
    assert result["summary"]["likelihood"]["figures"]["micro"]["score"] == 1
    without = evaluate(Scripted(dict.fromkeys(answers, ("A", None))), records, tmp_path / "other.json")
    assert "likelihood" not in without["summary"]


def test_scenes_are_asked_one_after_another_and_reported_in_order(tmp_path):
    records = question_records(scenes=3)
    mixed = records[::2] + records[1::2]
    answerer = Scripted(right_answers(records))
    result = evaluate(answerer, mixed, tmp_path / "result.json")
    scenes = [int(key) // 10 for key in answerer.asked]
    assert scenes == sorted(scenes)
    assert [question["id"] for question in result["questions"]] == [record.id for record in mixed]


def test_a_killed_run_continues(tmp_path):
    """Killed by the system in the middle, three times; then the same bytes as from a run that was left alone."""
    output = tmp_path / "result.json"
    command = [sys.executable, "-c", SLOW_RUN, str(output), str(Path(__file__).parent)]
    done = []

    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        done.append(int(process.stdout.readline()))  # what an earlier run did
        for _ in range(6):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

    assert not output.exists() and done[0] == 0 and done[1] >= 6 and done[2] >= done[1] + 6

    progress: list[int] = []
    evaluate(ChanceAnswerer(), question_records(), output, on_progress=progress.append)
    assert progress[0] >= 18 and sum(progress) == 60

    evaluate(ChanceAnswerer(), question_records(), tmp_path / "alone.json")
    assert output.read_bytes() == (tmp_path / "alone.json").read_bytes()  # and in other batches than the killed runs
    assert sorted(os.listdir(tmp_path)) == ["alone.json", "result.json"]


def interrupted(tmp_path, answers: int) -> tuple[Path, Path]:
    """A run that stops with an error after some answers: its output and its partial file."""
    records = question_records()
    few = dict(list(right_answers(records).items())[:answers])
    with pytest.raises(KeyError):
        evaluate(Scripted(few), records, tmp_path / "result.json", batch_size=1)
    return tmp_path / "result.json", tmp_path / "result.json.partial.jsonl"


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_line_cut_off_is_asked_again(tmp_path, cut):
    output, journal = interrupted(tmp_path, 5)
    journal.write_bytes(journal.read_bytes()[:-cut])
    records = question_records()
    answerer = Scripted(right_answers(records))
    evaluate(answerer, records, output)
    assert answerer.asked == [record.id for record in records[4:]]


def test_what_was_cut_off_leaves_nothing_behind(tmp_path):
    """A torn line longer than the next answer, then another stop: every line that is left is whole."""
    _, journal = interrupted(tmp_path, 3)
    with journal.open("ab") as file:
        file.write(b'{"answers": {"3": ["' + b"x" * 1000)
    interrupted(tmp_path, 4)
    lines = [json.loads(line).get("answers") for line in journal.read_bytes().splitlines()]
    assert [line and list(line) for line in lines] == [None, ["0"], ["1"], ["2"], ["3"]]


def test_a_header_cut_off_starts_anew(tmp_path):
    output, journal = interrupted(tmp_path, 5)
    journal.write_bytes(journal.read_bytes()[:50])
    records = question_records()
    answerer = Scripted(right_answers(records))
    evaluate(answerer, records, output)
    assert len(answerer.asked) == len(records)


def test_a_damaged_partial_file_is_refused(tmp_path):
    output, journal = interrupted(tmp_path, 5)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"{broken\n", *lines[3:]]))
    with pytest.raises(ValueError, match="line 4, is damaged"):
        evaluate(Scripted({}), question_records(), output)


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path):
    """So a run that was killed asks the rest in the batches of a run that was not."""
    records = question_records()
    first = dict(list(right_answers(records).items())[:16])
    with pytest.raises(KeyError):
        evaluate(Scripted(first), records, tmp_path / "result.json")
    journal = tmp_path / "result.json.partial.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    answerer = Scripted(right_answers(records))
    result = evaluate(answerer, records, tmp_path / "result.json")
    assert answerer.batches == [8] * 6 + [4] and answerer.asked == [record.id for record in records[8:]]
    assert result["batch_size"] == 8


def test_a_run_continues_with_another_batch_size(tmp_path):
    records = question_records()
    few = dict(list(right_answers(records).items())[:9])
    with pytest.raises(KeyError):
        evaluate(Scripted(few), records, tmp_path / "result.json", batch_size=3)
    answerer = Scripted(right_answers(records))
    evaluate(answerer, records, tmp_path / "result.json", batch_size=2)
    assert answerer.asked == [record.id for record in records[9:]]
    assert max(answerer.batches) == 2
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluate(answerer, records, batch_size=0)


def test_without_an_output_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = question_records()
    result = evaluate(Scripted(right_answers(records)), records)
    assert result == evaluate(Scripted(right_answers(records)), records, "result.json")
    assert os.listdir(tmp_path) == ["result.json"]


def test_marked_questions_follow_the_others_of_their_scene():
    records = question_records(scenes=2)
    marked = [
        replace(record, id=f"m{record.id}", frame=3, marks=((0, 0, 9, 9),))
        for record in records
        if record.question_type == "route_planning"
    ]
    order = [record.id for batch in batches([*marked, *records], 4) for record in batch]
    assert order == [*map(str, range(10)), "m4", *map(str, range(10, 20)), "m14"]


def test_other_marks_are_other_questions(tmp_path):
    records = question_records()
    paths = []

    for name, mark in (("one", (0, 0, 5, 5)), ("other", (0, 0, 5, 6))):
        marked = [replace(records[0], frame=1, marks=(mark,)), *records[1:]]
        result = evaluate(Scripted(right_answers(records)), marked, tmp_path / f"{name}.json")
        assert result["questions"][0]["marks"] == [list(mark)] and result["questions"][0]["frame"] == 1
        paths.append(tmp_path / f"{name}.json")

    with pytest.raises(ValueError, match="questions_sha256"):
        evaluate(Scripted({}), records, paths[0])
    with pytest.raises(ValueError, match=r"question 0 differs in marks: \[\[0, 0, 5, 5\]\] and \[\[0, 0, 5, 6\]\]"):
        compare_files(paths[:1], paths[1:])


def test_another_run_does_not_continue(tmp_path):
    output, _ = interrupted(tmp_path, 5)
    with pytest.raises(ValueError, match=r"of another run: settings\.name was 'scripted' and is 'other'\. Delete it"):
        evaluate(Scripted({}, "other"), question_records(), output)
    with pytest.raises(ValueError, match="questions_sha256 was"):
        evaluate(Scripted({}), question_records(seed=1), output)


def test_a_finished_run_is_returned_and_never_overwritten(tmp_path):
    records = question_records()
    first = evaluate(Scripted(right_answers(records)), records, tmp_path / "result.json")
    again = Scripted({})
    assert evaluate(again, records, tmp_path / "result.json") == first and again.asked == []
    with pytest.raises(ValueError, match=r"result\.json is of another run: benchmark was 'vsibench' and is 'rooms'"):
        evaluate(again, records, tmp_path / "result.json", benchmark="rooms")
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(ValueError, match="has the format None"):
        evaluate(again, records, tmp_path / "notes.json")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (("A", {"A": float("nan"), "B": 0.5, "C": 0.5}), "option probabilities of question 0 are .*nan"),
        (("A", {"A": 0.5, "B": 0.5}), r"has the options 'ABC', but the answer has probabilities of \['A', 'B'\]"),
        ((None, None), "answer to question 0 is None"),
    ],
)
def test_answers_that_cannot_be_scored_stop_the_run(tmp_path, answer, message):
    records = question_records()
    with pytest.raises(ValueError, match=message):
        evaluate(Scripted({"0": answer}), records, tmp_path / "result.json", batch_size=1)
    answerer = Scripted(right_answers(records))
    evaluate(answerer, records, tmp_path / "result.json")  # the bad answer was not kept
    assert answerer.asked[0] == "0"


def test_nothing_is_kept_of_a_batch_with_an_answer_that_cannot_be_scored(tmp_path):
    records = question_records()
    right = right_answers(records)
    broken = {**right, "11": ("A", dict.fromkeys("ABC", float("inf")))}
    with pytest.raises(ValueError, match=r"option probabilities of question 11 are .*inf"):
        evaluate(Scripted(broken), records, tmp_path / "result.json")
    answerer = Scripted(right)
    evaluate(answerer, records, tmp_path / "result.json")
    assert answerer.asked == [record.id for record in records[8:]]


def test_empty_answers_score_zero(tmp_path):
    records = question_records()
    result = evaluate(Scripted({record.id: ("", None) for record in records}), records, tmp_path / "result.json")
    macro = result["summary"]["official"]["figures"]["macro"]
    assert (macro["score"], macro["low"]) == (0, 0)
    assert macro["high"] == pytest.approx(binomtest(0, 6).proportion_ci(0.95, "exact").high)


def test_bad_outputs_are_refused_before_any_question(tmp_path):
    answerer = Scripted({})
    with pytest.raises(ValueError, match="is a folder"):
        evaluate(answerer, question_records(), tmp_path)
    with pytest.raises(ValueError, match=r"no folder .*absent"):
        evaluate(answerer, question_records(), tmp_path / "absent" / "result.json")
    with pytest.raises(ValueError, match="Got 0 questions"):
        evaluate(answerer, [], tmp_path / "result.json")
    with pytest.raises(ValueError, match="an id of its own"):
        evaluate(answerer, question_records()[:1] * 2, tmp_path / "result.json")
    assert answerer.asked == [] and os.listdir(tmp_path) == []


def test_writing_leaves_the_old_file_or_the_new(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1} and os.listdir(tmp_path) == ["a.json"]


def test_chance_scores_chance(tmp_path):
    result = evaluate(ChanceAnswerer(), question_records(), tmp_path / "result.json")
    likelihood = result["summary"]["likelihood"]["figures"]
    assert likelihood["route_planning"]["score"] == likelihood["route_planning"]["low"] == pytest.approx(1 / 3)
    assert likelihood["object_counting"]["score"] == 0


def test_tables(tmp_path):
    records = question_records()
    chance = evaluate(ChanceAnswerer(), records, tmp_path / "chance.json")
    lines = format_table(chance).splitlines()
    assert lines[0] == "chance on vsibench: 60 questions, 6 scenes"

    heads = ["category", "questions", "scenes", "official", "95", "%", "interval", "lmms_eval", "likelihood"]
    assert lines[1].split() == heads
    assert [line.split()[0] for line in lines[2:12]] == [*CATEGORIES, "macro", "micro"]
    assert lines[7].split()[:3] == ["object_rel_direction", "18", "6"]
    assert lines[12:] == [f"note: intervals from fewer than 10 scenes cover less than they say: {', '.join(ROWS)}"]

    macro = chance["summary"]["official"]["figures"]["macro"]
    assert lines[10].split()[1:3] == ["6", f"{100 * macro['score']:.1f}"] and macro["low"] < macro["high"]
    assert f"[{100 * macro['low']:.1f}, {100 * macro['high']:.1f}]" in lines[10]

    train = question_records(seed=5, prefix="train")
    frequent = evaluate(
        MostFrequentAnswerer(train), records[:-10], tmp_path / "frequent.json", missing_videos=["a.mp4"]
    )

    assert "missing videos, their questions left out: 1" in format_table(
        frequent
    ) and "likelihood" not in format_table(frequent)

    few = [record for record in records if record.question_type != "object_rel_direction_hard"]
    table = format_table(evaluate(ChanceAnswerer(), few, tmp_path / "few.json"))

    assert "no questions of object_rel_direction_hard; macro is over the other categories" in table
    assert [line.split() for line in table.splitlines() if line.startswith("object_rel_direction")] == [
        ["object_rel_direction", "12", "-", "-", "-", "-", "-"]
    ]


def test_extra_types_have_a_row_and_no_part_in_the_averages(tmp_path):
    records = question_records()
    extra = [
        replace(record, id=f"extra{record.id}", question_type="localisation_by_choice")
        for record in records
        if record.question_type == "route_planning"
    ]
    plain = evaluate(ChanceAnswerer(), records, tmp_path / "plain.json")
    result = evaluate(ChanceAnswerer(), records + extra, tmp_path / "extra.json")
    figures = result["summary"]["official"]["figures"]

    assert all(figures[name] == figure for name, figure in plain["summary"]["official"]["figures"].items())

    row = next(line for line in format_table(result).splitlines() if line.startswith("localisation_by_choice"))
    assert row.split()[1] == "6" and row.endswith("33.3")


def test_pruned_questions_are_reported(tmp_path):
    """A table of VSI-Bench that says what its debiased variant leaves out: both figures from one run."""
    records = [replace(record, pruned=number % 20 < 10) for number, record in enumerate(question_records())]
    answers = {record.id: (record.answer if record.pruned else "no", None) for record in records}
    result = evaluate(Scripted(answers), records, tmp_path / "result.json")
    assert result["debiased"]["questions"] == 30
    assert result["debiased"]["summary"]["official"]["figures"]["macro"]["score"] == 0
    assert result["summary"]["official"]["figures"]["macro"]["score"] == 0.5
    assert "marks as pruned, 30 are left: macro 0.0" in format_table(result)
    plain = evaluate(Scripted(answers), question_records())
    assert plain["debiased"] is None and plain["questions"][0]["pruned"] is None


def test_an_overview_has_no_questions():
    records = question_records()
    values = overview(evaluate(Scripted(right_answers(records)), records))
    assert "questions" not in values and (values["num_questions"], values["num_scenes"]) == (60, 6)
    assert values["summary"]["official"]["figures"]["macro"]["score"] == 1


def test_a_comparison_says_what_is_noise(tmp_path):
    records = question_records()
    right = right_answers(records)
    wrong = dict.fromkeys(right, ("no", None))
    one_wrong = {**right, "0": ("no", None)}
    for name, answers in (("right", right), ("wrong", wrong), ("one_wrong", one_wrong)):
        evaluate(Scripted(answers), records, tmp_path / f"{name}.json")

    def compared(first: str, second: str, scoring: str = "official") -> tuple[str, dict]:
        sides = [tmp_path / f"{first}.json"], [tmp_path / f"{second}.json"]
        differences = compare_files(*sides, scoring)
        text, values = format_comparison(differences), comparison_values(*sides, scoring, differences)
        return text.splitlines()[-1], json.loads(json.dumps(values, allow_nan=False))

    text, values = compared("wrong", "right")
    assert text == "macro: +100.0 points, outside the noise: the second side is better."
    assert values["differences"]["macro"]["verdict"] == "second" and values["scoring"] == "official"
    interval = values["differences"]["macro"]["interval"]
    least = (
        binomtest(6, 6).proportion_ci(0.95, "exact").low
    )  # at least this share of scenes has +1, the others up to -1
    assert (interval["score"], interval["high"]) == (1, 1) and interval["low"] == pytest.approx(2 * least - 1)
    assert values["differences"]["macro"]["scenes"] == 6
    assert compared("right", "wrong")[0].endswith("outside the noise: the first side is better.")
    text, values = compared("right", "one_wrong")  # one scene of six: many draws do not hold it
    assert text == "macro: -0.7 points, inside the noise: the 95 % interval of the difference holds 0."
    assert values["differences"]["macro"]["verdict"] == "noise"
    evaluate(Scripted(right), records, tmp_path / "again.json")
    assert "+0.0 points, inside the noise" in compared("right", "again")[0]
    for name in ("a", "b"):
        evaluate(Scripted(right), records[:10], tmp_path / f"{name}.json")
    assert "without an interval" in compared("a", "b")[0]


def test_files_are_compared(tmp_path):
    records = question_records()
    evaluate(Scripted(right_answers(records)), records, tmp_path / "right.json")
    for seed in range(2):
        evaluate(ChanceAnswerer(seed), records, tmp_path / f"chance{seed}.json")
    chance = [tmp_path / f"chance{seed}.json" for seed in range(2)]

    differences = compare_files(chance, [tmp_path / "right.json"])

    assert differences["macro"].second == 1 and differences["macro"].better == 1

    macro = next(line for line in format_comparison(differences).splitlines() if line.startswith("macro"))
    assert macro.split()[2] == "100.0" and macro.split()[3].startswith("+")
    assert macro.split()[-2:] == ["100.0%", "second"]
    with pytest.raises(ValueError, match="given twice"):
        compare_files([chance[0], chance[0]], [tmp_path / "right.json"])

    evaluate(ChanceAnswerer(), records[:-1], tmp_path / "fewer.json")
    with pytest.raises(ValueError, match=r"1 only in .*chance0\.json, the first is 59"):
        compare_files(chance[:1], [tmp_path / "fewer.json"])

    for text, message in (("", "cannot be read"), ("[]", "holds list"), ("{}", "has the format None")):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_result(tmp_path / "broken.json")
    with pytest.raises(ValueError, match="There is no result file"):
        read_result(tmp_path / "absent.json")


def test_a_model_over_a_download(tmp_path):
    """Everything with real parts: files as published, a stored model, the blind baseline, a comparison."""
    folder = tmp_path / "VSI-Bench"
    folder.mkdir()
    rows = question_rows(scenes=3)
    download(folder, rows, skip=("scene0002",))
    for scene, clip in (("arkitscenes/scene0000", "room"), ("scannet/scene0001", "study")):
        (folder / f"{scene}.mp4").write_bytes(example_clip(clip).read_bytes())
    records, missing = load_vsibench(folder, allow_missing=True)
    records = take_balanced(records, 10)
    tiny = load_vega(FROZEN, device="cpu")
    tiny[0].config.notice = "Its answers mean nothing."

    result = evaluate(
        ModelAnswerer(*tiny, "frozen", num_frames=4), records, tmp_path / "tiny.json", missing_videos=missing
    )

    assert len({question["question_type"] for question in result["questions"]}) == 10
    assert all(question["option_probabilities"] for question in result["questions"] if question["options"])

    table = format_table(result)
    assert "note: Its answers mean nothing." in table.splitlines()
    assert "missing videos, their questions left out: 1" in table

    evaluate(BlindAnswerer(*tiny, "frozen blind"), records, tmp_path / "blind.json", missing_videos=missing)
    assert "macro" in format_comparison(compare_files([tmp_path / "blind.json"], [tmp_path / "tiny.json"]))
