"""Steps of an experiment: which run beside each other, on which card, and what a failure ends."""

import pytest

from research.steps import Runner, Step


def run_steps(
    tmp_path, *steps: tuple[str, list[str], bool], cards: int = 2, per_card: int = 1
) -> tuple[int, list[str]]:
    """Exit code, and the lines that each step (its name, what it needs, on a card?) wrote as it started and ended."""
    diary = tmp_path / "diary"
    program = "import os, sys, time; n = sys.argv[1]; f = open(sys.argv[2], 'a', 1); \
print('+' + n, file=f); time.sleep(0.6); print('-' + n, file=f); sys.exit(n == 'bad')"
    (tmp_path / "one_step.py").write_text(program)
    made = [Step(name, ["one_step", name, str(diary)], needs, on_card) for name, needs, on_card in steps]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        code = Runner(made, cards, "cpu", tmp_path, per_card).run()
    return code, diary.read_text().split()


def test_steps_run_beside_each_other_when_their_needs_are_met(tmp_path):
    code, diary = run_steps(
        tmp_path, ("rooms", [], False), ("a", ["rooms"], True), ("b", ["rooms"], True), ("c", ["rooms"], True)
    )
    assert code == 0 and diary[:2] == ["+rooms", "-rooms"] and set(diary[2:4]) == {"+a", "+b"}
    assert diary.index("+c") > min(diary.index("-a"), diary.index("-b"))


def test_a_step_that_fails_ends_the_others(tmp_path):
    code, diary = run_steps(tmp_path, ("bad", [], True), ("next", ["bad"], True))
    assert code == 1 and diary == ["+bad", "-bad"]


def test_steps_share_a_card(tmp_path):
    code, diary = run_steps(tmp_path, ("a", [], True), ("b", [], True), ("c", [], True), cards=1, per_card=2)

    assert code == 0 and set(diary[:2]) == {"+a", "+b"}


@pytest.mark.parametrize(("cards", "per_card", "shown"), [(2, 2, ["0", "1", "0", "1"]), (1, 3, ["0", "0", "0"])])
def test_places_go_around_the_cards(tmp_path, monkeypatch, cards, per_card, shown):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    (tmp_path / "one_card.py").write_text(program)
    names = [str(number) for number in range(len(shown))]

    made = [Step(name, ["one_card"], on_card=True) for name in names]
    assert Runner(made, cards, "cuda", tmp_path, per_card).run() == 0

    assert [(tmp_path / f"{name}.log").read_text().strip() for name in names] == shown


def test_what_is_done_already_does_not_wait_for_a_card(tmp_path):
    code = Runner([Step("a", [], on_card=True), Step("b", [], ["a"])], 1, "cpu", tmp_path).run()

    assert code == 0 and not list(tmp_path.iterdir())
