"""Whole runs of the benchmarks of scans: baselines, what is scored, continuing, comparisons, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scene_data import box_of, download, proposals_of, published_files, write

from command_line import run
from vega3d.evaluation.report import compare_files, format_table, summarise
from vega3d.evaluation.result_files import read_result
from vega3d.evaluation.run import evaluate
from vega3d.evaluation.scenes.answerers import BlindAnswerer, OracleAnswerer, RandomAnswerer
from vega3d.evaluation.scenes.readers import TABLES, load_scenes
from vega3d.evaluation.scenes.records import ChosenBoxes, GroundingRecord, TextRecord
from vega3d.evaluation.scenes.scoring import accuracy, checked_answer, f1
from vega3d.evaluation.scenes.texts import bleu, bleu_counts

RIGHT = {"scanqa": 1.0, "sqa3d": 1.0}  # main score of the oracle where no boxes limit it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return download(tmp_path_factory.mktemp("scenes"), scans=4)


def records_of(benchmark, folder, **options):
    return load_scenes(benchmark, folder, needs_scans=False, **options)[0]


def score(result, scoring, row="overall"):
    return result["summary"][scoring]["figures"][row]["score"]


class Scripted:
    """An answerer with prepared answers."""

    def __init__(self, answers: dict, name: str = "scripted"):
        self.answers, self.settings = answers, {"name": name}

    def answer(self, records):
        return [self.answers[record.id] for record in records]


@pytest.mark.parametrize("benchmark", TABLES)
def test_the_oracle_reaches_what_the_boxes_allow(benchmark, data, tmp_path):
    result = evaluate(OracleAnswerer(), records_of(benchmark, data), tmp_path / "result.json", benchmark)
    assert read_result(tmp_path / "result.json") == result
    assert f"oracle on {benchmark}: " in format_table(result)
    if benchmark in RIGHT:
        assert score(result, "em") == RIGHT[benchmark]


def test_boxes_limit_the_oracle(data):
    """Of ScanRefer two in four are the chair; the other chair has no proposal, and the door's overlaps by a third."""
    result = evaluate(OracleAnswerer(), records_of("scanrefer", data), benchmark="scanrefer")
    assert (score(result, "acc@0.25"), score(result, "acc@0.5")) == (0.75, 0.5)
    assert (score(result, "acc@0.25", "unique"), score(result, "acc@0.5", "unique")) == (1, 0)
    assert score(result, "acc@0.25", "multiple") == pytest.approx(2 / 3)
    whole = evaluate(OracleAnswerer(), records_of("scanrefer", data, proposals="objects"), benchmark="scanrefer")
    assert score(whole, "acc@0.5") == 1
    sets = evaluate(OracleAnswerer(), records_of("multi3drefer", data), benchmark="multi3drefer")
    assert score(sets, "f1@0.25", "mt") == pytest.approx(2 / 3)  # one of two chairs
    assert score(sets, "f1@0.5", "st_wo_d") == 0 and score(sets, "f1@0.5", "zt_wo_d") == 1
    assert sets["summary"]["f1@0.25"]["missing"] == ["zt_w_d", "st_w_d"]


def test_an_overlap_of_one_half_counts_in_sets_alone():
    """As in the official code: its IoUs are a hair too small, and are rounded to float32 for Multi3DRefer alone."""
    target, half = np.array([[0.0, 0, 0, 1, 1, 1]]), np.array([[0.0, 0, 0, 1, 1, 0.5]])
    record = GroundingRecord(
        id="0", scene="s", kind="unique", prompt="it", expression="it", boxes=half, targets=target
    )
    answer = [checked_answer(record, ChosenBoxes(half, [1.0]))]
    [one], [several] = accuracy([record], answer), f1([record], answer)
    assert one.scores == {"acc@0.25": 1, "acc@0.5": 0} and several.scores == {"f1@0.25": 1, "f1@0.5": 1}


def test_a_caption_without_a_near_box_is_empty(data):
    records = records_of("scan2cap", data)
    result = evaluate(OracleAnswerer(), records, benchmark="scan2cap")
    assert [question["counted"] for question in result["questions"]] == [True, False, False] * 4
    assert [question["scores"]["rouge_l"] == 1 for question in result["questions"]] == [True, False, False] * 4
    given = evaluate(OracleAnswerer(), records_of("scan2cap", data, proposals="none"), benchmark="scan2cap")
    assert score(given, "bleu_4") == pytest.approx(1) and score(given, "cider") > score(result, "cider")
    assert "note: METEOR" in format_table(given) and (given["meteor"]["missing"] is None) is not (
        "not c" in format_table(given)
    )


def test_chance_and_blind(data, tmp_path):
    train = [record for record in records_of("sqa3d", data) if record.scene > "scene0001"]
    test = [record for record in records_of("sqa3d", data) if record.scene <= "scene0001"]
    assert score(evaluate(BlindAnswerer(train), test, benchmark="sqa3d"), "em") == 1  # a kind has one answer here
    with pytest.raises(ValueError, match="which the most frequent answers were counted on"):
        evaluate(BlindAnswerer(train), train, benchmark="sqa3d")
    boxes = records_of("scanrefer", data)
    blind = evaluate(BlindAnswerer(), boxes, benchmark="scanrefer")
    assert (
        score(blind, "acc@0.25", "unique") == 1 and score(blind, "acc@0.25", "multiple") == 0
    )  # the door's is largest
    many = [
        GroundingRecord(
            id=str(n), scene=f"s{n % 50}", kind="unique", prompt="it", expression="it", boxes=BOXES, targets=BOXES[:1]
        )
        for n in range(2000)
    ]
    chance = evaluate(RandomAnswerer(many), many, benchmark="scanrefer")["summary"]["acc@0.5"]["figures"]["overall"]
    assert chance["low"] < 1 / 4 < chance["high"] and chance["high"] - chance["low"] < 0.06
    several = [replace(record, kind="mt") for record in many]
    answers = RandomAnswerer(several).answer(several)
    assert np.mean([len(answer.boxes) == 0 for answer in answers]) == pytest.approx(1 / 5, abs=0.03)  # "no target"


BOXES = np.array([box_of(0, str(number)) for number in range(4)])


def test_intervals_are_over_scenes_and_bleu_is_of_the_corpus(data):
    records = records_of("scan2cap", data, proposals="none")
    answers = {record.id: record.answers[0] if int(record.id) % 3 else "a chair near the desk" for record in records}
    result = evaluate(Scripted(answers), records, benchmark="scan2cap")
    sums = np.sum([question["counts"] for question in result["questions"]], axis=0)
    figure = result["summary"]["bleu_4"]["figures"]["overall"]
    assert figure["score"] == float(bleu(sums, 4))
    assert figure["score"] != pytest.approx(
        np.mean([question["scores"]["bleu_4"] for question in result["questions"]])
    )
    assert figure["low"] < figure["score"] < figure["high"]
    assert result["summary"]["bleu_4"]["scenes"] == {"unique": 4, "multiple": 4, "overall": 4}
    parts = [
        summarise([q for q in result["questions"] if q["question_type"] == kind], benchmark="scan2cap")
        for kind in ("unique", "multiple")
    ]
    for part, kind in zip(parts, ("unique", "multiple"), strict=True):
        assert part["bleu_4"]["figures"]["overall"]["score"] == result["summary"]["bleu_4"]["figures"][kind]["score"]
    assert bleu_counts("a b", ["a b c", "b"]).wanted == 1  # of two that are as near, the shorter


def test_a_run_continues_from_its_journal(data, tmp_path):
    records = records_of("multi3drefer", data)
    output = tmp_path / "result.json"
    right = OracleAnswerer()

    class Stops(OracleAnswerer):
        def answer(self, asked):
            if asked[0].scene == "scene0002":
                raise KeyboardInterrupt
            return super().answer(asked)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Stops(), records, output, "multi3drefer", batch_size=2)
    progress: list[int] = []
    evaluate(right, records, output, "multi3drefer", batch_size=2, on_progress=progress.append)
    assert progress[0] == 6
    evaluate(right, records, tmp_path / "alone.json", "multi3drefer", batch_size=2)
    assert output.read_bytes() == (tmp_path / "alone.json").read_bytes()
    with pytest.raises(ValueError, match="is of another run"):
        evaluate(right, records_of("multi3drefer", data, proposals="objects"), output, "multi3drefer")


def test_answers_that_are_none_are_refused(data):
    boxes, words = records_of("scanrefer", data)[:1], records_of("sqa3d", data)[:1]
    with pytest.raises(ValueError, match="must be boxes"):
        evaluate(Scripted({"0": "the chair"}), boxes, benchmark="scanrefer")
    with pytest.raises(ValueError, match="must be text"):
        evaluate(Scripted({"0": ChosenBoxes(BOXES, np.zeros(4))}), words, benchmark="sqa3d")
    with pytest.raises(ValueError, match="4 boxes, but the scores"):
        ChosenBoxes(BOXES, np.zeros(3))
    with pytest.raises(ValueError, match="0 targets, but accuracy"):
        evaluate(
            OracleAnswerer(),
            [record for record in records_of("multi3drefer", data) if not len(record.targets)],
            benchmark="scanrefer",
        )
    with pytest.raises(ValueError, match="no words"):
        TextRecord(id="1", scene="s", kind="is", prompt=" ", answers=("a",))


def test_comparisons_are_paired_and_of_one_benchmark(data, tmp_path):
    records = records_of("scanrefer", data)
    for name, answerer in (("oracle", OracleAnswerer()), ("blind", BlindAnswerer())):
        evaluate(answerer, records, tmp_path / f"{name}.json", "scanrefer")
    files = [[tmp_path / "blind.json"], [tmp_path / "oracle.json"]]
    differences = compare_files(*files, "acc@0.5")
    assert set(differences) == {"unique", "multiple", "overall"} and differences["overall"].scenes == 4
    assert differences["overall"].second - differences["overall"].first == 0.5
    for arguments, said in (
        ([], "overall: +50.0 points"),
        (["--scoring", "acc@0.5"], "overall: +50.0 points"),
        (["--scoring", "official"], "Choose another scoring, such as 'acc@0.25'"),
    ):
        compared = run("compare", "--first", files[0][0], "--second", files[1][0], *arguments)
        assert said in compared.output and compared.exit_code == (2 if "official" in arguments else 0)


def test_the_command(data, tmp_path):
    done = run(
        "evaluate", "--benchmark", "scanrefer", "--data", data, "--baseline", "oracle", "--output", tmp_path / "a.json"
    )
    assert done.exit_code == 0 and "acc@0.25" in done.stdout and "75.0" in done.stdout, done.output
    train = published_files(tmp_path / "train", scans=3)
    values = json.loads((train / "scanqa_val_llava_style.json").read_text())
    for row in values:
        row["video"] = row["video"].replace("scene00", "scene01")
    write(train / "train.json", values)
    done = run(
        "evaluate",
        "--benchmark",
        "scanqa",
        "--data",
        data,
        "--baseline",
        "blind",
        "--train-table",
        train / "train.json",
        "--json",
    )
    assert done.exit_code == 0 and json.loads(done.stdout)["summary"]["em"]["figures"]["overall"]["score"] == 1


REFUSED = [
    (["--benchmark", "scanrefer"], "Give a model, or a --baseline: chance, blind, oracle"),
    (["m", "--benchmark", "scanqa", "--train-table", "t.json"], "--train-table is only read by --baseline blind"),
    (["vega3d-tiny", "--benchmark", "scanrefer", "--data", "x"], "not made for grounding: its config has no ground_"),
    (["vega3d-tiny", "--benchmark", "scan2cap", "--data", "x"], "not made for grounding: its config has no coord_"),
    (["--benchmark", "rooms-grounding", "--baseline", "oracle", "--proposals", "x"], "one of detected, true, none"),
    (["--benchmark", "rooms-grounding", "--baseline", "oracle", "--table", "x"], "--table would have no effect"),
    (["--benchmark", "scanqa", "--baseline", "chance", "--skip-lost"], "asks no model"),
    (["--benchmark", "scanrefer", "--baseline", "most-frequent"], "must be one of chance, blind, oracle"),
    (["--benchmark", "scanrefer", "--baseline", "oracle"], "Give the folder of its files with --data"),
    (["--benchmark", "scanqa", "--baseline", "blind"], "counts on the training questions of --train-table"),
    (["--benchmark", "scanqa", "--baseline", "chance", "--num-frames", "8"], "asks no model"),
    (["vega3d-tiny", "--benchmark", "scanqa", "--baseline", "chance"], "asks no model. Leave 'vega3d-tiny' out"),
    (["--benchmark", "vsibench", "--baseline", "chance", "--proposals", "none"], "vsibench has no boxes or poses"),
    (["--baseline", "oracle"], "--baseline is 'oracle', but must be"),
]


@pytest.mark.parametrize("arguments, message", REFUSED)
def test_what_the_command_refuses(arguments, message):
    done = run("evaluate", *arguments)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_proposals_are_checked_before_anything_is_asked(data, tmp_path):
    boxes = proposals_of(4)
    boxes["scannet/scene0001_00"][0][4] = -1
    write(tmp_path / "p.json", boxes)
    done = run(
        "evaluate",
        "--benchmark",
        "scanrefer",
        "--data",
        data,
        "--proposals",
        tmp_path / "p.json",
        "--baseline",
        "chance",
    )
    assert done.exit_code == 2 and "scene0001_00: box 0 is" in done.stderr
