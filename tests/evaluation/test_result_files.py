"""Result files and journals that no evaluation has written, copies of them, and outputs that are in use."""

import copy
import json
import os
from pathlib import Path

import pytest
from evaluation_data import download, question_records, question_rows

from command_line import run
from tiny_checkpoints import copy_frozen
from vega3d.evaluation.answerers import ChanceAnswerer
from vega3d.evaluation.report import compare_files, read_result
from vega3d.evaluation.run import check_request, evaluate
from vega3d.files import only_run

DEEP = 100_000 * "[" + 100_000 * "]"


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    return evaluate(ChanceAnswerer(), question_records())


def write(path: Path, values) -> Path:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def changed(result: dict, place: tuple, value) -> dict:
    """A copy with another value in one place; `...` takes it away."""
    found = values = copy.deepcopy(result)
    for name in place[:-1]:
        found = found[name]
    if value is ...:
        del found[place[-1]]
    else:
        found[place[-1]] = value
    return values


BROKEN = [
    (("questions",), None, "questions None, which are no list"),
    (("questions",), {}, "which are no list"),
    (("questions",), [1], "question 1, is 1, but must hold names with values"),
    (("questions",), [], "has no questions"),
    (("questions", 3), None, "question 4, is None"),
    (("questions", 3, "id"), 3, "has the id 3"),
    (("questions", 3, "scene"), ..., "has the scene None"),
    (("questions", 3, "question_type"), "colour", "has the question_type 'colour'"),
    (("questions", 3, "scores"), None, "has the scores None"),
    (("questions", 3, "scores", "official"), ..., "has the scores"),
    (("questions", 3, "scores", "likelihood"), 5, "'likelihood' score of .*question 4 is 5, but"),
    (("questions", 3, "scores", "official"), float("nan"), "is nan, but"),
    (("questions", 3, "scores", "lmms_eval"), "1.0", "is '1.0', but"),
    (("questions", 3, "id"), "4", "has question 4 2 times"),
    (("benchmark",), ..., "has the benchmark None"),
    (("settings",), [], r"has the settings \[\]"),
    (("summary",), {}, "has the summary {}"),
    (("questions_sha256",), 1, "has the questions_sha256 1"),
]


@pytest.mark.parametrize(("place", "value", "message"), BROKEN)
def test_what_no_evaluation_gives_is_refused(result, tmp_path, place, value, message):
    file = write(tmp_path / "broken.json", changed(result, place, value))

    with pytest.raises(ValueError, match=message):
        read_result(file)


@pytest.mark.parametrize("content", ["", "null", "[]", "1", DEEP, "{", '{"format": null}', "\x00"])
def test_files_that_are_no_results_are_told_in_one_line(result, tmp_path, content):
    good, bad = write(tmp_path / "good.json", result), write(tmp_path / "bad.json", content)

    done = run("compare", "--first", good, "--second", bad)

    assert done.exit_code == 2 and "bad.json" in done.output
    assert len(done.output.strip().splitlines()) == 1 and "Error:" not in done.output


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "absent"])
def test_places_without_a_file_are_told_in_one_line(result, tmp_path, kind):
    good, bad = write(tmp_path / "good.json", result), tmp_path / "bad.json"
    {
        "link": lambda: bad.symlink_to(bad),
        "pipe": lambda: os.mkfifo(bad),
        "folder": bad.mkdir,
        "absent": lambda: None,
    }[kind]()

    done = run("compare", "--first", good, "--second", bad)

    assert done.exit_code == 2 and len(done.output.strip().splitlines()) == 1 and "(--debug" not in done.output


def a_copy(file: Path, place: Path) -> None:
    place.write_bytes(file.read_bytes())


def a_hard_link(file: Path, place: Path) -> None:
    os.link(file, place)


def a_link(file: Path, place: Path) -> None:
    place.symlink_to(file)


def written_otherwise(file: Path, place: Path) -> None:
    place.write_text(json.dumps(json.loads(file.read_text()), indent=3, sort_keys=True))


def with_another_bootstrap(file: Path, place: Path) -> None:
    place.write_text(json.dumps({**json.loads(file.read_text()), "bootstrap": {"seed": 9, "resamples": 10}}))


COPIES = [a_copy, a_hard_link, a_link, written_otherwise, with_another_bootstrap]


@pytest.mark.parametrize("make", COPIES)
@pytest.mark.parametrize("side", ["first", "second"])
def test_a_copy_is_no_other_seed(result, tmp_path, make, side):
    file = write(tmp_path / "seed0.json", result)
    other = write(tmp_path / "other.json", evaluate(ChanceAnswerer(1), question_records()))
    make(file, tmp_path / "seed1.json")

    sides = {"first": [other], "second": [other]} | {side: [file, tmp_path / "seed1.json"]}

    with pytest.raises(ValueError, match=r"copy and no other|given twice"):
        compare_files(sides["first"], sides["second"])


def test_the_same_likelihoods_are_of_the_same_weights(result, tmp_path):
    sure = copy.deepcopy(result)
    for question in sure["questions"]:
        if question["options"]:
            question["option_probabilities"] = {"A": 0.5, "B": 0.3, "C": 0.2}
    renamed = changed(sure, ("settings", "name"), "another model")
    files = [write(tmp_path / f"{number}.json", values) for number, values in enumerate((sure, renamed))]

    with pytest.raises(ValueError, match="copy and no other training seed"):
        compare_files(files, files[:1])


def test_another_seed_is_no_copy(result, tmp_path):
    files = [write(tmp_path / f"{seed}.json", evaluate(ChanceAnswerer(seed), question_records())) for seed in range(2)]

    assert "macro" in compare_files(files, [write(tmp_path / "other.json", result)])


def interrupted(tmp_path) -> tuple[Path, list[str]]:
    """A run that was stopped: its output, and the lines of its journal."""
    output = tmp_path / "result.json"

    def stop(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(ChanceAnswerer(), question_records(), output, batch_size=4, on_progress=stop)
    return output, (tmp_path / "result.json.partial.jsonl").read_text().splitlines()


class Reasoned(ChanceAnswerer):
    """Says what its answers stand on."""

    def answer(self, records):
        return [
            (*answer, f"{record.id} is far. {record.id}")
            for record, answer in zip(records, super().answer(records), strict=True)
        ]


def test_reasons_survive_a_kill_and_are_not_scored(tmp_path):
    def stop(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    output = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Reasoned(), question_records(), output, batch_size=4, on_progress=stop)
    found = evaluate(Reasoned(), question_records(), output)
    bare = evaluate(ChanceAnswerer(), question_records())

    assert [question.pop("reason") for question in found["questions"]] == [
        f"{question['id']} is far. {question['id']}" for question in bare["questions"]
    ]
    assert found["questions"] == bare["questions"]


ANSWERS = [
    ('["A", {"Z": 1.0}]', r"options 'ABC', but the answer has probabilities of \['Z'\]"),
    ('["A", {"A": 2.0, "B": 0.0, "C": 0.0}]', "option probabilities of question 0"),
    ('["A", {"A": NaN, "B": 0.5, "C": 0.5}]', "option probabilities of question 0"),
    ('["A", {"A": "1", "B": 0.5, "C": 0.5}]', "option probabilities of question 0"),
    ('["A", [1, 2, 3]]', "has probabilities of"),
    ("[3, null]", "answer to question 0 is 3"),
    ('["A"]', "must have two values"),
    ('["A", null, 3]', "answer to question 0 is 3"),
    ('"A"', "must have two values"),
    ("null", "must have two values"),
]


@pytest.mark.parametrize(("answer", "message"), ANSWERS)
def test_answers_of_a_journal_are_checked(tmp_path, answer, message):
    output, lines = interrupted(tmp_path)
    lines[1] = '{"answers": {"0": ' + answer + "}}"
    write(tmp_path / "result.json.partial.jsonl", "\n".join(lines) + "\n")

    with pytest.raises(ValueError, match=rf"(?s)partial\.jsonl.*{message}.*Delete the file"):
        evaluate(ChanceAnswerer(), question_records(), output)

    assert not output.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 2, is damaged: it holds list"),
        ("null", "line 2, is damaged: it holds NoneType"),
        (DEEP, "line 2, is damaged: it is nested too deeply"),
        ("{}", "line 2, holds no answers"),
        ('{"answers": [1]}', "line 2, holds no answers"),
        ('{"answers": {"new": ["A", null]}}', "answers question new, which is not asked"),
        ("again", "line 3, answers a question again"),
    ],
)
def test_lines_of_a_journal_are_checked(tmp_path, line, message):
    output, lines = interrupted(tmp_path)
    changed_lines = [*lines, lines[1]] if line == "again" else [lines[0], line]
    write(tmp_path / "result.json.partial.jsonl", "\n".join(changed_lines) + "\n")

    with pytest.raises(ValueError, match=message):
        evaluate(ChanceAnswerer(), question_records(), output)


@pytest.mark.parametrize("make", [lambda file, output: file, a_hard_link, a_link])
def test_an_input_of_a_comparison_is_no_output(result, tmp_path, make):
    files = [write(tmp_path / f"{name}.json", result) for name in "ab"]
    output = tmp_path / "out.json"
    if make in (a_hard_link, a_link):
        make(files[1], output)
    else:
        output = files[1]
    before = files[1].read_bytes()

    done = run("compare", "--first", files[0], "--second", files[1], "--output", output)

    assert done.exit_code == 2 and "is an input of this command" in done.output
    assert files[1].read_bytes() == before


@pytest.mark.parametrize("name", ["test.jsonl", "scannet/scene0001.mp4", "train.jsonl"])
def test_an_input_of_an_evaluation_is_no_output(tmp_path, name):
    download(tmp_path, question_rows())
    (tmp_path / "train.jsonl").write_bytes((tmp_path / "test.jsonl").read_bytes())
    before = (tmp_path / name).read_bytes()

    options = ["--baseline", "most-frequent", "--benchmark", "vsibench", "--train-table", tmp_path / "train.jsonl"]
    done = run("evaluate", *options, "--data", tmp_path, "--output", tmp_path / name)

    assert done.exit_code == 2 and "is an input of this command" in done.output
    assert (tmp_path / name).read_bytes() == before and len(list(tmp_path.glob(".*"))) == 0


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_of_the_model_is_no_output(tmp_path, name):
    file = copy_frozen(tmp_path / "model") / name
    content = file.read_bytes()

    done = run("evaluate", tmp_path / "model", "--limit", 11, "--output", file)

    assert done.exit_code == 2 and ("is an input" in done.output or "must be a result file" in done.output)
    assert file.read_bytes() == content


@pytest.mark.parametrize("name", ["result.json", "result.json.partial.jsonl"])
def test_pipes_are_no_output(tmp_path, name):
    os.mkfifo(tmp_path / name)

    with pytest.raises(ValueError, match="is a named pipe"):
        evaluate(ChanceAnswerer(), question_records(), tmp_path / "result.json")


def test_a_second_run_of_an_output_is_told_so(tmp_path):
    output = tmp_path / "result.json"

    with only_run(output):
        for second in (
            lambda: check_request(output, 8),
            lambda: evaluate(ChanceAnswerer(), question_records(), output),
        ):
            with pytest.raises(ValueError, match="Another run is writing"):
                second()

    evaluate(ChanceAnswerer(), question_records(), output)
    assert os.listdir(tmp_path) == ["result.json"]
