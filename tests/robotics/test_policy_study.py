"""The study of policies: its recipe, the steps that it consists of, what the arms share, and its tables."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from recipes.metaworld import commands, study_commands
from recipes.metaworld.study import (
    FEATURES,
    MISSING,
    Study,
    check_there,
    choose,
    claim,
    read_study,
    steps,
    training_file,
)
from robotics.demonstration_data import write_toy
from robotics.test_results import result_of
from tiny_checkpoints import FROZEN, save_policy
from vega3d import VegaConfig
from vega3d.features.cache import FeatureCache
from vega3d.features.identity import feature_identity
from vega3d.hub.load import load_processor, load_vega
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.robotics import statistics
from vega3d.training.actions import ActionCollator, PolicyData, policy_of
from vega3d_cli import run

RECIPES = Path(commands.__file__).parent
NONE = importlib.util.find_spec("metaworld") is None
BASE = {
    "demonstrations": {"tasks": ["push-v3", "reach-v3"], "episodes": 2, "size": 64},
    "arms": {"semantic": {"options": {"fusion": "none"}}, "trained": {}, "late": {"options": {"block": 3}}},
    "seeds": [0, 1],
    "pairs": [["semantic", "trained"]],
    "training": {
        "tune": ["gate", "projector", "llm", "vision", "act"],
        "learning_rates": {"gate": "1e-3", "llm": "1e-3"},
        "steps": 2,
        "actions": {"chunk": 4, "cameras": ["front", "wrist"]},
    },
}


def write_recipe(folder: Path, **changes) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({**BASE, **changes}, sort_keys=False))
    return file


def study_of(folder: Path, stages=("train",), wanted=None, **changes) -> Study:
    """A study of which some arms are wanted; `changes` are of the recipe."""
    file = write_recipe(folder, **changes)
    recipe = read_study(file)
    chosen, numbers = choose(recipe, wanted, None)
    return Study(recipe=recipe, file=file, output=folder / "out", stages=stages, arms=chosen, seeds=numbers)


def commands_of(study: Study) -> dict[str, list[str]]:
    return {step.name: step.command for step in steps(study)}


@pytest.mark.parametrize("name", ["study", "smoke_study"])
def test_recipes_that_are_published_can_be_read(name, tmp_path):
    recipe = read_study(RECIPES / f"{name}.yaml")
    arms, seeds = choose(recipe, None, None)

    study = Study(recipe=recipe, file=RECIPES / f"{name}.yaml", output=tmp_path / "out", arms=arms, seeds=seeds)

    before: set[str] = set()
    for step in steps(study):
        assert before.issuperset(step.needs)
        before.add(step.name)
    assert {config.seed for config in study.configs().values()} == set(recipe.seeds)
    assert {("semantic", "trained"), ("semantic", "random")} <= set(recipe.pairs)
    assert name != "study" or list(recipe.demonstrations.tasks) == list(commands.TASKS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "There is no setting 'arm'. Did you mean 'arms'"),
        ({"arms": {}}, "arms names nothing"),
        ({"arms": {"../x": {}}, "pairs": []}, "The arm '../x' names files"),
        ({"seeds": [0, 0]}, r"The seeds of 'semantic' are \(0, 0\)"),
        ({"pairs": [["semantic", "nobody"]]}, "each must be two of the arms"),
        ({"evaluation": {"seed": 3}}, "evaluation.seed is 3, but must be at least 1000"),
        ({"training": {"tune": ["act"], "steps": 1}}, "training has no `actions`"),
        ({"training": {**BASE["training"], "model": "x"}}, r"training names \['model'\], which the study gives"),
    ],
)
def test_bad_recipes_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(write_recipe(tmp_path, **changes))


def test_trainings_of_arms_differ_in_what_they_start_from_alone(tmp_path):
    study = study_of(tmp_path)

    semantic, trained = (study.configs()[arm, 1] for arm in ("semantic", "trained"))

    assert semantic.cache is None and trained.cache == study.output / FEATURES
    assert semantic.tune == ("llm", "vision", "act") and semantic.learning_rates == {"llm": 1e-3}
    same = {"cache": None, "tune": semantic.tune, "learning_rates": semantic.learning_rates}
    assert replace(trained, model=semantic.model, output=semantic.output, **same) == semantic


def test_parts_that_a_fusion_has_not_are_not_tuned():
    config = VegaConfig.from_pretrained(FROZEN)

    bare = {name for name, kind in FUSIONS.items() if not list(kind(config).parameters())}

    assert bare | {"none"} == MISSING.keys() and all("gate" in parts for parts in MISSING.values())


MORE = {"more": {"options": {"fusion": "add"}}, "random": {"options": {"family": "random"}}}


def test_features_are_computed_once_for_arms_that_read_the_same(tmp_path):
    study = study_of(tmp_path, arms={**BASE["arms"], **MORE})

    found = {step.name: step for step in steps(study)}

    features = [name for name in found if name.startswith("features-")]
    assert features == ["features-trained", "features-late", "features-random"]
    assert found["train-more-seed1"].needs == ["features-trained"]
    assert found["train-semantic-seed1"].needs == ["models"]
    assert all(step.on_card == (not name.startswith("models")) for name, step in found.items())


def test_stages_are_separable(tmp_path):
    train, evaluate = (commands_of(study_of(tmp_path, stages)) for stages in (("train",), ("evaluate", "rate")))

    assert not any({"demonstrations", "evaluate"} & set(command) for command in train.values())
    assert not any({"train", "features", "models", "demonstrations"} & set(command) for command in evaluate.values())
    assert {name for name in evaluate if name.startswith("evaluate-")} == {
        f"evaluate-{arm}-seed{seed}" for arm in BASE["arms"] for seed in (0, 1)
    }


def test_what_is_done_is_not_done_again(tmp_path):
    study = study_of(tmp_path, ("demonstrations", "train", "evaluate"), wanted=["semantic", "late"])
    put(study.output / "demonstrations/meta/seeds.json", {})
    put(study.policy(("semantic", 0)) / "training.json", {})
    put(study.result("late-seed1"), {})

    found = commands_of(study)

    done = [name for name, command in found.items() if not command]
    assert done == ["demonstrations", "train-semantic-seed0", "evaluate-late-seed1"]
    put(study.policy(("semantic", 1)) / "training.json", {})
    assert found["models"] != commands_of(study)["models"] and "features-late" in found


def put(file: Path, values: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def test_a_stage_without_what_it_needs_is_refused(tmp_path):
    for stages, message in (
        (("train",), r"There is no .*seeds\.json. Add the stage demonstrations"),
        (("evaluate", "tables"), r"There is no policy .*semantic-seed0. Add the stage train"),
        (("tables",), r"There is no .*semantic-seed0\.json. Add the stage evaluate"),
    ):
        with pytest.raises(ValueError, match=message):
            check_there(study_of(tmp_path, stages))
    study = study_of(tmp_path, ("train",))
    kept = {"tasks": ["push-v3"], "episodes": 2, "most_steps": 300}
    put(study.output / "demonstrations/meta/seeds.json", {**kept, "environment": {"size": 64}})
    with pytest.raises(ValueError, match=r"holds others: tasks was \['push-v3'\] and is"):
        check_there(study)


def test_a_study_goes_on_with_more_arms_and_seeds_and_with_no_other_settings(tmp_path):
    claim(study_of(tmp_path))

    claim(study_of(tmp_path, arms={**BASE["arms"], **MORE}, seeds=[0, 1, 2]))
    claim(study_of(tmp_path, training={**BASE["training"], "workers": 3}))
    with pytest.raises(ValueError, match=r"is of another study: training.steps was 2 and is 3"):
        claim(study_of(tmp_path, training={**BASE["training"], "steps": 3}))
    with pytest.raises(ValueError, match=r"arms.late.options.block was 3 and is 1"):
        claim(study_of(tmp_path, arms={**BASE["arms"], "late": {"options": {"block": 1}}}))
    put(tmp_path / "out" / "study.json", {})
    (tmp_path / "out" / "study.json").rename(tmp_path / "out" / "mine.json")
    with pytest.raises(ValueError, match=r"holds mine\.json, and no study"):
        claim(study_of(tmp_path))


def test_tables_show_failures_differences_and_what_the_seeds_resolve(tmp_path, capsys):
    study = study_of(tmp_path, ("tables",), wanted=["semantic", "trained"], evaluation={"baselines": ["blind"]})
    worse, better, best = ([True] * count + [False] * (4 - count) for count in (1, 3, 4))
    for name, done in (("semantic", [worse, worse]), ("trained", [better, best])):
        for seed in (0, 1):
            put(study.result(f"{name}-seed{seed}"), result_of({"push-v3": done[seed]}, policy=f"{name} {seed}"))
    put(study.result("blind"), result_of({"push-v3": worse}, policy="blind"))
    log = [{"loss": 2.0}, {"loss": 1.0, "gate_mean": 0.25}]
    training = {"steps": 2, "loss_first": 2.0, "loss_last": 1.0, "residual_scale": 0.5, "warnings": ["it is deaf"]}
    put(study.policy(("trained", 0)) / "training.json", {**training, "log": log})

    study_commands.write_tables(study)

    values, text = json.loads((study.output / "tables.json").read_text()), capsys.readouterr().out
    assert text.strip() == (study.output / "tables.md").read_text().strip()
    found = values["arms"]["trained"]["tasks"]["push-v3"]
    assert (found["successes"], found["failures"], found["of_each_seed"]) == (7, 1, [3, 4])
    assert found["low"] < found["rate"] == 0.875 < found["high"]
    assert values["arms"]["blind"]["tasks"]["all tasks"]["high"] == pytest.approx(0.6994, abs=1e-4)  # Wilson, 1 of 4
    pair = values["pairs"]["trained - semantic"]
    assert pair["differences"]["push-v3"]["difference"] == 0.625 and pair["seeds"] == [0, 1]
    assert pair["power"]["seed_deviation"] == pytest.approx(0.25 / 2**0.5) and pair["power"]["resolved"] > 1
    assert "| push-v3 | 25 [5, 70] (1 + 3) | 25 [" in text and "(7 + 1)" in text and "+62.5 [" in text
    assert "- trained-seed0: it is deaf" in text and "| 0.2500 |" in text


STARTED = ["semantic", "trained", "more", "random"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A study of the test's generator, with toy demonstrations of the robot, models to start from, and features."""
    from recipes.metaworld import training

    folder = tmp_path_factory.mktemp("study")
    study = study_of(folder, generator=str(FROZEN), seeds=[0], arms={**BASE["arms"], **MORE}, wanted=STARTED)
    write_toy(study.output / "demonstrations", 2, steps=4, state_size=4, action_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics.constants, "HF_HOME", str(folder / "hf"))
        models = {path.name: path for path in training.make_models(study)}
        progress: list[tuple[int, int]] = []
        stats = training.fill_features(study, "trained", lambda done, of: progress.append((done, of)))
        yield study, models, stats, progress


def test_arms_of_a_seed_begin_with_the_same_weights(begun):
    study, models, _, _ = begun
    semantic, trained, random = (
        load_file(models[f"{arm}-seed0"] / "model.safetensors") for arm in ("semantic", "trained", "random")
    )
    plain = [name for name in semantic if not name.startswith("model.generator.")]

    assert len(plain) > 50 and all(torch.equal(semantic[name], trained[name]) for name in plain)
    assert trained.keys() == random.keys() and all(torch.equal(trained[name], random[name]) for name in trained)
    heads = [policy(study, models[f"{arm}-seed0"]).action_head.state_dict() for arm in ("semantic", "trained")]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def policy(study: Study, folder: Path):
    """The policy from which a training begins."""
    model, processor = load_vega(folder, device="cpu")
    [config] = [one for one in study.configs().values() if Path(one.model) == folder]
    return policy_of(model, processor.tokenizer, PolicyData(config.data[0], config.actions), config.actions, 0)


def test_arms_read_the_generator_of_the_fused_model_as_it_does(begun):
    _, models, _, _ = begun
    fused, _ = load_vega(FROZEN, device="cpu")
    arms = {arm: load_vega(models[f"{arm}-seed0"], device="cpu")[0] for arm in ("trained", "random", "more")}
    clip = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    features = {arm: model.generator_module.encode([clip])[0] for arm, model in arms.items()}

    torch.testing.assert_close(features["trained"], fused.float().generator_module.encode([clip])[0])
    assert torch.equal(features["trained"], features["more"])
    assert (features["trained"] - features["random"]).abs().mean() > 0.1
    assert arms["more"].config.fusion == "add" and arms["random"].config.generator_config.family == "random"


def test_the_features_of_all_rows_are_there_before_a_training(begun):
    study, models, _, progress = begun
    start = policy(study, models["trained-seed0"])
    config = study.configs()["trained", 0]
    collator = ActionCollator(load_processor(models["trained-seed0"]), config=start.config)
    cache, identity = FeatureCache(study.output / FEATURES), feature_identity(start.generator_module)

    batch = collator(list(PolicyData(config.data[0], config.actions)))

    assert len(batch["input_ids"]) == sum(done for done, _ in progress) == 8
    found = cache.attach(batch, identity, collator.processor.generator_patch_size)
    assert len(found["generator_hidden_states"]) == 16


def test_a_training_of_the_study_ends_with_a_policy(begun, monkeypatch, capsys):
    study, _, stats, _ = begun
    monkeypatch.setattr(statistics.constants, "HF_HOME", str(study.file.parent / "hf"))

    assert run(["train", str(training_file(study, ("trained", 0))), "--json"]) == 0

    assert study.is_trained(("trained", 0)) and json.loads(capsys.readouterr().out)["steps"] == 2
    assert FeatureCache(study.output / FEATURES).stats()["entries"] == stats["entries"]
    assert [step.name for step in steps(study) if step.name.startswith("train-") and not step.command] == [
        "train-trained-seed0"
    ]


def test_rates_of_policies_are_medians_of_one_run(tmp_path, capsys):
    folder = save_policy(tmp_path / "policy", ("front", "wrist"), 4, 4, action_chunk=3)
    arguments = ["rate", str(folder), "vega3d-metaworld", "--rounds", "5", "--size", "32", "--device", "cpu"]

    assert run([*arguments, "--output", str(tmp_path / "rate.json")], commands.app, commands.NAME) == 0

    found = json.loads((tmp_path / "rate.json").read_text())
    assert [one["fusion"] for one in found["policies"]] == ["token_gated_residual", "none"]
    for one in found["policies"]:
        assert one["quartiles"][0] <= one["seconds"] <= one["quartiles"][1]
        assert one["actions_per_second"] == pytest.approx(one["chunk"] / one["seconds"])
    assert found["device"] and [one["chunk"] for one in found["policies"]] == [3, 16]
    assert "actions/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stages", "cook"], "--stages names ['cook']"),
        (["--stages", "train", "--arms", "nobody"], "--arms names ['nobody'], but the recipe has"),
        (["--stages", "train"], "Add the stage demonstrations"),
        (["--stages", "evaluate"], "metaworld" if NONE else "Add the stage train"),
    ],
)
def test_bad_input_to_a_study_ends_in_one_line(arguments, said, tmp_path, capsys):
    file = write_recipe(tmp_path)

    code = run(["study", str(file), "--output", str(tmp_path / "out"), *arguments], commands.app, commands.NAME)

    assert code == 2 and said in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [file]
