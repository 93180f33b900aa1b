"""The tables of answers: rows that need space, what names alone score, and errors at names."""

import numpy as np
import pytest
from scipy import stats

from research.tiny.study.data import Row
from research.tiny.study.fusion_watch import is_void
from research.tiny.study.held_out import CONDITIONS, TRAINED, plain_questions
from research.tiny.study.name_alone import NameAlone
from research.tiny.study.name_errors import mentions, name_table, name_values
from research.tiny.study.power import power_table, power_values
from research.tiny.study.question_forms import FORMS, OPTIONS
from research.tiny.study.said import SAID
from research.tiny.study.table import NEED_SPACE, SPATIAL, experiment_values, markdown, split_values
from research.tiny.study.wordings import read_texts
from vega3d.evaluation.metrics import CATEGORIES, QUESTION_TYPES
from vega3d.evaluation.report import compare, seed_intervals
from vega3d.evaluation.run import evaluate
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.questions import fill, reason_and_answer
from vega3d.statistics import draw

NAMES = dict(zip("abcde", ("bed", "trash can", "tv", "lamp", "sofa"), strict=True))


def record(kind: str, scene: str, answer: str, names=NAMES) -> AnnotatedQuestion:
    options = tuple(fill(option, names) for option in OPTIONS.get(kind, ()))
    return AnnotatedQuestion(
        id=f"{scene}/{kind}",
        dataset="rooms",
        scene=scene,
        question_type=kind,
        question=fill(FORMS[kind], names).replace("four marked boxes", "four boxes"),
        options=options,
        answer=answer,
        visual=0,
    )


def asked(kinds=QUESTION_TYPES, scenes: int = 12) -> list[AnnotatedQuestion]:
    return [
        record(kind, f"room{scene:02d}", "A" if kind in OPTIONS else "100")
        for scene in range(scenes)
        for kind in kinds
    ]


class Told:
    """Answers right with some probability; with a reason."""

    def __init__(self, seed: int, skill: float, reason: str = ""):
        self.settings = {"name": f"told {skill}", "kind": "told", "seed": seed}
        self.random, self.skill, self.reason = np.random.default_rng(seed), skill, reason

    def answer(self, records):
        right = self.random.random(len(records)) < self.skill
        return [(record.answer if one else "B", None, self.reason) for record, one in zip(records, right, strict=True)]


def told(records, skill: float, seeds: int = 3) -> list[dict]:
    return [evaluate(Told(seed, skill), records, benchmark="rooms", resamples=2) for seed in range(seeds)]


def test_the_mean_of_the_rows_that_need_space_is_paired_as_the_macro_is():
    records = asked()
    results = {"semantic": told(records, 0.5), "trained": told(records, 0.8)}
    alone = evaluate(NameAlone(records), records, benchmark="rooms", resamples=2)
    found = split_values(results, alone, ["semantic"], "official", resamples=300)

    sides = [{str(seed): result for seed, result in enumerate(side)} for side in results.values()]
    theirs = compare(*sides, resamples=300, paired_seeds=True)
    for name, value in seed_intervals(sides[1], resamples=300).items():
        assert found["scores"]["trained"][name] == pytest.approx(vars(value))
        assert found["differences"]["trained - semantic"][name]["interval"] == pytest.approx(
            vars(theirs[name].interval)
        )

    scores = {name: value["score"] for name, value in found["scores"]["trained"].items()}
    assert scores[SPATIAL] == pytest.approx(np.mean([scores[name] for name in NEED_SPACE]))
    assert set(NEED_SPACE) - set(CATEGORIES) == {"localisation_by_choice"} and len(NEED_SPACE) == 6
    difference = found["differences"]["trained - semantic"][SPATIAL]
    assert difference["verdict"] == "second" and 0.1 < difference["interval"]["low"] < difference["interval"]["score"]


def test_tables_show_what_names_alone_score_and_which_rows_are_missing():
    records = asked([kind for kind in QUESTION_TYPES if kind != "route_planning"])
    results = {"test": {"semantic": told(records, 0.5), "trained": told(records, 0.8)}}
    alone = {"test": evaluate(NameAlone(records), records, benchmark="rooms", resamples=2)}
    values = experiment_values("toy", results, alone, [0, 1, 2], ["semantic"], {}, ["official"], resamples=100)
    text = markdown(values)
    (row,) = [line for line in text.splitlines() if line.startswith("| object_counting | 100.0 [")]
    assert row.count("**-") == 2  # both arms are worse than a name that always has the same number
    assert f"note: {SPATIAL} is without route_planning" in text


def test_what_reasons_say_is_scored_beside_the_letters():
    records = asked(["object_rel_distance", "obj_appearance_order", "localisation_by_choice", "object_abs_distance"])
    wrong = {record.id: f"bed 0; A bed 0 yes: {record.options[1]}" for record in records if record.options}
    right = {name: f"bed 1.0 away: {NAMES['a']}; A bed yes" for name in wrong if name.endswith("object_rel_distance")}

    class Misspelt:
        def __init__(self):
            self.settings = {"name": "misspelt", "kind": "told", "seed": 0}

        def answer(self, records):
            return [
                ("B" if record.options else "100", None, {**wrong, **right}.get(record.id, "no place"))
                for record in records
            ]

    misspelt = evaluate(Misspelt(), records, benchmark="rooms", resamples=2)
    silent = evaluate(Told(0, 0.0), records, benchmark="rooms", resamples=2)
    results = {"test": {"semantic": [silent], "trained": [misspelt]}}
    alone = {"test": evaluate(NameAlone(records), records, benchmark="rooms", resamples=2)}

    values = experiment_values("toy", results, alone, [0], ["semantic"], {}, ["official", SAID], resamples=20)

    found = values["splits"]["test"]
    assert found["official"]["scores"]["trained"]["object_rel_distance"]["score"] == 0
    assert found[SAID]["scores"]["trained"]["object_rel_distance"]["score"] == 1
    assert found[SAID]["scores"]["trained"]["obj_appearance_order"]["score"] == 0
    assert found[SAID]["scores"]["semantic"]["object_rel_distance"]["score"] == 0
    assert found[SAID]["scores"]["trained"]["object_abs_distance"]["score"] == 1
    assert "whatever letter follows" in markdown(values)


def test_void_runs_are_named_with_their_line_of_the_log():
    shut, silent = (
        {"step": 9, "gate": 0.995, "residual_scale": 0.5},
        {"step": 9, "gate": 0.5, "residual_scale": -0.002},
    )
    assert is_void(shut) and is_void(silent) and not is_void({"step": 9, "gate": 0.9, "residual_scale": -0.1})
    assert not is_void({"step": 9})  # an arm without a second stream
    records = asked(["object_rel_distance"])
    results = {"test": {arm: told(records, 0.5, 1) for arm in ("semantic", "trained", "twin")}}
    alone = {"test": evaluate(NameAlone(records), records, benchmark="rooms", resamples=2)}
    void = {"trained": {0: shut}}
    text = markdown(experiment_values("toy", results, alone, [0], ["semantic"], void, ["official"], resamples=20))
    assert '- `trained`, seed 0: `{"step": 9, "gate": 0.995' in text
    assert "| category | semantic | trained (void) | twin |" in text
    assert "| category | trained - semantic (void) | twin - semantic |" in text


def test_power_is_what_repeated_studies_find():
    """Of studies with a difference that their seeds resolve, four in five find it; with fewer seeds, fewer do."""
    random, scenes, draws = np.random.default_rng(0), 200, draw(200, (1,), 400)
    of_seed, of_scene, of_both, count = 0.02, 0.1, 0.3, 8

    def study(difference: float) -> np.ndarray:
        common = difference + random.normal(0, of_scene, scenes)
        return common + random.normal(0, of_seed, (count, 1)) + random.normal(0, of_both, (count, scenes))

    def power(values: np.ndarray) -> dict:
        return power_values(values @ draws.scenes.T / scenes)

    found = [power(study(0.0)) for _ in range(100)]
    true = np.hypot(of_seed, of_both / scenes**0.5)
    assert np.mean([one["seed_deviation"] ** 2 for one in found]) ** 0.5 == pytest.approx(true, rel=0.1)
    assert np.mean([one["scene_deviation"] ** 2 for one in found]) ** 0.5 == pytest.approx(
        of_scene / scenes**0.5, rel=0.2
    )

    resolved = np.median([one["resolved"] for one in found])
    critical = stats.t.ppf(0.975, count - 1)
    tests = [
        abs(values.mean()) > critical * np.hypot(one["seed_deviation"] / count**0.5, one["scene_deviation"])
        for values in (study(resolved) for _ in range(300))
        for one in [power(values)]
    ]
    assert 0.72 < np.mean(tests) < 0.88
    assert all(one["seeds"]["1"] is None or one["seeds"]["1"] > one["seeds"]["4"] for one in found)
    assert power_values(np.zeros((1, 5))) is None


def test_seeds_for_smaller_differences_are_printed():
    differences = np.full((3, 5), 0.01) + np.array([[-0.02], [0.0], [0.02]])  # of seeds alone
    found = power_values(differences)
    assert found["scene_deviation"] == 0 and found["seed_deviation"] == pytest.approx(0.02)
    assert found["resolved"] == pytest.approx((4.3027 + 1.0607) * 0.02 / 3**0.5, rel=1e-4)
    assert found["seeds"] == {"1": 34, "2": 10, "4": 5}
    assert power_table({"a - b": found})[-2] == "| a - b | 2.00 | 0.00 | 6.19 | 34 | 10 | 5 |"
    assert power_values(np.where(np.arange(5) < 3, np.nan, differences)) is None
    assert "say nothing of the smallest" in power_table({"a - b": None})[0]


def test_names_alone_answer_with_the_median_of_the_name_and_else_of_the_type():
    sizes = [("bed", "200"), ("bed", "180"), ("bed", "220"), ("tv", "90"), ("tv", "100"), ("lamp", "40")]
    train = [record("object_size_estimation", f"t{n}", size, {"a": name}) for n, (name, size) in enumerate(sizes)]
    train += [record("object_counting", f"t{n}", count, {"a": "bed"}) for n, count in enumerate(["2", "2", "4", "9"])]
    easy = record("object_rel_direction_easy", "t", "B")
    predictor = NameAlone([*train, easy, easy])

    def answer(kind, name):
        return predictor.answer_one(record(kind, "v", "1", {"a": name}))[0]

    assert [answer("object_size_estimation", name) for name in ("bed", "tv", "sofa")] == ["200", "95", "140"]
    assert answer("object_counting", "tv") == "2"
    letter, letters = predictor.answer_one(easy)
    assert letter == "B" and letters == {"A": 0.25, "B": 0.75}
    with pytest.raises(ValueError, match="No training question is of the type room_size_estimation"):
        answer("room_size_estimation", "bed")


def test_reasons_are_read_as_they_are_written():
    text = "trash can 1.2 ahead 0.4 left; tv 3.0 behind 0.2 right 4.7 away, tv to lamp 60: front-left"
    assert mentions(text) == {
        ("place", "trash can"): (1.2, -0.4),
        ("place", "tv"): (-3.0, 0.2),
        ("bearing", "tv to lamp"): (60.0,),
    }
    assert mentions("bed 7, trash can 0: trash can, bed") == {("frame", "bed"): (7.0,), ("frame", "trash can"): (0.0,)}
    assert mentions("bed 1.2 ahead 0.4 left; lamp 0.7 away, tv") == {("place", "bed"): (1.2, -0.4)}
    assert mentions("") == mentions("I see a bed") == {}


TRUE = "bed 1.0 ahead 1.0 left, tv 2.0 ahead 0.0 right; bed to tv 345, bed to lamp 0: left. A"


def test_errors_at_names_are_in_metres_and_degrees_and_say_what_is_left_out():
    kind, scenes = "object_rel_direction_easy", 20
    records = asked([kind], scenes)
    rows = [Row(one.id, one.scene, 0, kind, one.question, one.options, "A", TRUE) for one in records]
    reasons = {
        "good": reason_and_answer(TRUE)[0],
        # 1 m off; tv has no place, and is 30 degrees off
        "bad": "bed 1.6 ahead 0.2 left; bed to tv 15, bed to lamp 0: left",
        "mute": "",
    }
    results = {
        arm: [evaluate(Told(seed, 1.0, reason), records, benchmark="rooms", resamples=2) for seed in range(2)]
        for arm, reason in reasons.items()
    }
    values = name_values(results, rows, ["good"], resamples=100)
    scores = {
        arm: {f"{kind} {name}": one["score"] for kind, some in found.items() for name, one in some.items()}
        for arm, found in values["errors"].items()
    }
    assert scores["good"] == pytest.approx(dict(zip(scores["good"], (0, 0, 1, 0, 0, 1), strict=True)))
    assert scores["bad"] == pytest.approx(dict(zip(scores["bad"], (1, 1, 0.5, 0, 15, 1), strict=True)))
    assert scores["mute"]["place told"] == 0 and scores["mute"]["place mean"] is None
    assert values["differences"]["bad - good"]["bearing"]["mean"]["score"] == pytest.approx(15)
    assert list(values["seed_errors"]["bad"]) == ["0", "1"] and "frame" not in values["errors"]["bad"]
    table = name_table("test", values)
    assert "| bad, seed 1 | 1.000 [1.000, 1.000] |" in table and "| mute | - | - | 0.000" in table


def test_medians_follow_the_rooms_that_are_drawn():
    kind, random = "object_abs_distance", np.random.default_rng(0)
    records = asked([kind], 40)
    words = "bed 0.0 ahead 0.0 right. 1.0"
    rows = [Row(one.id, one.scene, 0, kind, one.question, (), "1.0", words) for one in records]
    away = np.round(random.uniform(0, 9, (2, 40)), 1)

    class Far(Told):
        def answer(self, records):
            return [("1.0", None, f"bed {away[self.settings['seed'], n]:.1f} ahead 0.0 right") for n in range(40)]

    results = {
        "far": [evaluate(Far(seed, 1.0), records, benchmark="rooms", resamples=2, batch_size=40) for seed in (0, 1)]
    }
    values = name_values(results, rows, [], resamples=500)
    found = values["errors"]["far"]["place"]
    ordered = np.sort(away.ravel())
    assert found["mean"]["score"] == pytest.approx(away.mean()) and found["median"]["score"] == ordered[39]
    assert found["median"]["low"] < ordered[36] and found["median"]["high"] > ordered[43]
    assert values["seed_errors"]["far"]["1"]["place"]["mean"]["score"] == pytest.approx(away[1].mean())


def test_results_without_reasons_are_refused():
    records = asked(["object_rel_distance"])
    results = {"old": [evaluate(NameAlone(records), records, benchmark="rooms", resamples=2)]}
    with pytest.raises(ValueError, match="name alone has no reasons"):
        name_values(results, [], [], resamples=2)


def test_plain_questions_are_the_same_in_trained_and_in_held_out_wordings():
    texts = read_texts()
    records = asked(scenes=5)
    found = {condition: plain_questions(records, condition) for condition in CONDITIONS}
    held_out = {wording for some in texts.held_out.values() for wording in some}
    words = {word for some in texts.new_synonyms.values() for word in some}
    for name, questions in found.items():
        assert [question.id for question in questions] == [record.id for record in records]
        assert all((question.asked.wording in held_out) == (name != TRAINED) for question in questions)
        is_new = any(word in words for question in questions for word in question.asked.said.values())
        assert is_new == (name == "held-out wordings and names")
    assert found[TRAINED] == plain_questions(records[:3], TRAINED) + plain_questions(records[3:], TRAINED)


def test_words_stand_for_letters_where_no_options_were_shown():
    records = [record(kind, f"room{number}", "A") for number in range(8) for kind in OPTIONS]
    records += [record("object_abs_distance", f"room{number}", "2.0") for number in range(8)]
    for condition in CONDITIONS:
        for question in plain_questions(records, condition):
            assert question.prompt.endswith(question.asked.question) or "Options:" in question.prompt
            if not question.options:
                value = float(question.answer)
                assert min(abs(value - wanted) for wanted in (2.0, 200.0, 6.6, 79.0)) < 0.1
                assert question.official(question.answer) == question.answer
            elif question.asked.needs_options:
                assert question.official("B") == "B"
            else:
                assert question.official(question.asked.options[1]) == "B" and question.official("B") == ""
                assert question.official(f"{question.asked.options[0].upper()}.") == "A"
                assert "Options:" not in question.prompt
