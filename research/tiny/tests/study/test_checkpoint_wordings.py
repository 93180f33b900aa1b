"""A finished checkpoint is asked in each of the wordings, and what it says is scored as the study scores it."""

from dataclasses import asdict

import numpy as np
import pytest
import yaml

from research.tiny.study.checkpoint_wordings import ClipAnswerer, ask, main
from research.tiny.study.held_out import CONDITIONS, TRAINED, PlainQuestion, choice_values
from research.tiny.study.table import paired_values
from research.tiny.study.wordings import OFFICIAL, read_texts
from tiny_checkpoints import FROZEN
from vega3d.files import read_json
from vega3d.hub.load import load_vega
from vega3d.questions import ReasonedAnswer

HELD_OUT, NEW_NAMES = (name for name in CONDITIONS if name != TRAINED)


class KnowsTrainedWordings:
    """The right answers, in the words that are asked for, to wordings that are trained, and no answer to others."""

    def __init__(self):
        self.settings = {"name": "knows"}

    def answer(self, records: list[PlainQuestion]) -> list[ReasonedAnswer]:
        trained = {wording for some in read_texts().trained.values() for wording in some} | set(OFFICIAL.values())
        return [
            (self.right(record) if record.asked.wording in trained else "What?", None, "because") for record in records
        ]

    def right(self, record: PlainQuestion) -> str:
        in_letters = not record.options or record.asked.needs_options
        return record.answer if in_letters else record.asked.options[record.letters.index(record.answer)]


def test_only_what_is_answered_in_held_out_wordings_counts_there(toy, tmp_path):
    results = ask(KnowsTrainedWordings(), toy.data("validation").records(), tmp_path)
    values = paired_values(results, [TRAINED], "official", 50)
    scores = {condition: values["scores"][condition]["macro"]["score"] for condition in CONDITIONS}
    assert scores == {TRAINED: 1.0, HELD_OUT: 0.0, NEW_NAMES: 0.0}
    assert values["differences"][f"{HELD_OUT} - {TRAINED}"]["macro"]["interval"]["score"] == -1.0

    choices = choice_values({condition: result for condition, [result] in results.items()})
    for condition, right in ((TRAINED, 1.0), (HELD_OUT, 0.0)):
        asked = [question for question in results[condition][0]["questions"] if question["options"]]
        found = choices[condition].values()
        for how, is_shown in (("options", True), ("words", False)):
            wanted = sum(("Options:" in question["prompt"]) is is_shown for question in asked)
            assert sum(ways[how]["questions"] for ways in found) == wanted > 0
            assert {ways[how]["score"] for ways in found} <= {right, None}


def test_a_clip_is_shown_as_it_was_made(toy):
    data = toy.data("validation")
    record = data.records()[-1]
    asked = ClipAnswerer(*load_vega(FROZEN, device="cpu"), "frozen", data).question(record)
    assert record.visual == 1
    np.testing.assert_array_equal(asked.visual.frames, data.frames([0, 1])[1])
    assert asked.visual.seconds.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_checkpoint_is_asked_by_the_command_and_not_again(toy, tmp_path, capsys, monkeypatch):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(asdict(toy.recipe)))
    command = [str(FROZEN), "--recipe", str(tmp_path / "toy.yaml"), "--output", str(toy.output), "--rooms", "2"]
    main(command)
    table = capsys.readouterr().out
    assert f"| category | {HELD_OUT} - {TRAINED} | {NEW_NAMES} - {TRAINED} |" in table
    [found] = read_json(toy.output / "wordings.json")["validation"].values()
    assert found["scenes"] == 2 and list(found["scores"]) == list(CONDITIONS)

    monkeypatch.setattr(ClipAnswerer, "answer", lambda self, records: pytest.fail("It is asked again."))
    main(command)
    assert table.endswith(capsys.readouterr().out[-200:])

    with pytest.raises(SystemExit, match="2"):
        main([*command[:-1], "0"])
    assert "rooms is 0" in capsys.readouterr().err
