"""Checkpoints that were changed, cut, or are another program's; outputs that cannot be written."""

import json
import logging
import pickle
import resource
import shutil

import pytest
import torch
from test_trainer import assert_same_run, copy_run
from training_data import run_config, run_training, trainer_for

from vega3d.files import only_run, write_json
from vega3d.runs import check_same_settings
from vega3d.training.checkpoints import damage, last_whole_checkpoint, mark_whole, needed_files, read_state


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.fixture(scope="module")
def whole_run(talk, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "whole"
    result = run_training(run_config(talk, output, save_total_limit=9, steps=4))
    return output, result


@pytest.fixture
def stopped(whole_run, tmp_path):
    """The checkpoints of a run that was stopped after its second one, and the folder of the newest."""
    copy_run(whole_run[0], tmp_path / "run", 4)
    return tmp_path / "run", tmp_path / "run" / "checkpoints" / "checkpoint-4"


def flip_a_bit(file) -> None:
    held = bytearray(file.read_bytes())
    held[len(held) // 2] ^= 1
    file.write_bytes(held)


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_bit_that_was_flipped_is_noticed(whole_run, stopped, talk, caplog, name):
    output, checkpoint = stopped
    flip_a_bit(checkpoint / name)

    with caplog.at_level(logging.WARNING):
        continued = run_training(run_config(talk, output, steps=4))

    assert continued["continued_from"] == "checkpoint-2"
    assert f"{name} was changed after it was written" in caplog.text
    assert_same_run(*whole_run, output, continued)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trained.safetensors"])
def test_a_file_that_is_missing_is_noticed_though_nothing_names_it(stopped, talk, name):
    output, checkpoint = stopped
    (checkpoint / name).unlink()
    mark_whole(checkpoint)

    with pytest.raises(ValueError, match=rf"checkpoint-4 cannot be continued from: it has no {name}"):
        run_training(run_config(talk, output, steps=4))


def test_checkpoints_with_lengths_alone_are_still_read(whole_run, stopped, talk):
    output, checkpoint = stopped
    sizes = {file.name: file.stat().st_size for file in checkpoint.iterdir() if file.name != "whole.json"}
    write_json(checkpoint / "whole.json", sizes)

    continued = run_training(run_config(talk, output, steps=4))

    assert continued["continued_from"] == "checkpoint-4"
    assert_same_run(*whole_run, output, continued)


@pytest.mark.parametrize("text", ["[]", "null", "5", "{", "[" * 100_000, '{"a": null}', '{"a": {"bytes": "1"}}'])
def test_a_list_of_files_that_is_none_makes_no_whole_checkpoint(tmp_path, text):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "whole.json").write_text(text)

    assert damage(tmp_path) is not None
    assert damage(tmp_path) is not None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "config.json"]
)
def test_the_checkpoint_of_another_trainer_is_not_touched(talk, tmp_path, name):
    foreign = tmp_path / "checkpoint-9"
    foreign.mkdir()
    (foreign / name).write_bytes(b"mine")
    trainer = trainer_for(talk, tmp_path, "gate", steps=1)

    with pytest.raises(ValueError, match=f"checkpoint-9 holds {name}, so it is another program's"):
        trainer.train(resume_from_checkpoint=True)

    assert (foreign / name).read_bytes() == b"mine"


def test_a_plain_trainers_checkpoint_by_name_is_refused(talk, tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_bytes(b"mine")

    with pytest.raises(ValueError, match="no checkpoint of VegaTrainer"):
        trainer_for(talk, tmp_path, "gate", steps=1).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize("content", ["trap", "list", "text", "empty"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_states_of_another_kind_are_refused_by_name(stopped, talk, name, content):
    output, checkpoint = stopped
    file = checkpoint / name
    if content == "trap":
        file.write_bytes(pickle.dumps(Trap()))
    elif content == "list":
        torch.save([1, 2], file)
    else:
        file.write_bytes(b"" if content == "empty" else b"no pickle at all")
    mark_whole(checkpoint)
    trainer = trainer_for(talk, output / "checkpoints", "gate,projector,llm-lora", 6)

    with pytest.raises(ValueError, match=rf"checkpoint-4/{name} cannot be used: .*Remove"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"global_step": "4", "max_steps": 4, "log_history": []}',
        '{"global_step": 4, "max_steps": 4, "log_history": [5]}',
        '{"global_step": 4, "max_steps": 4, "log_history": null}',
        '{"global_step": 4, "max_steps": 4, "log_history": [], "zzz": 5}',
    ],
)
def test_a_state_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "trainer_state.json").write_text(text)

    with pytest.raises(
        ValueError, match=r"trainer_state\.json can(not| not) be (read|used)|trainer_state\.json holds"
    ):
        read_state(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 100_000])
def test_settings_that_are_none_are_refused(stopped, talk, text):
    output, _ = stopped
    (output / "training_config.json").write_text(text)

    with pytest.raises(ValueError, match="holds checkpoints of unknown settings"):
        run_training(run_config(talk, output, steps=4))


@pytest.mark.parametrize(("change", "told"), [({"steps": 5}, True), ({"seed": 1}, False)])
def test_a_run_that_is_to_be_longer_is_told_how(stopped, talk, change, told):
    output, _ = stopped

    with pytest.raises(ValueError, match="holds a run with other settings") as refused:
        run_training(run_config(talk, output, **{"steps": 4, **change}))

    remedy = f"to train longer, start from its result, with model={output} and another output"
    assert (remedy in str(refused.value)) == told


def test_remedies_belong_to_settings_that_differ(tmp_path):
    write_json(tmp_path / "settings.json", {"a": 1, "b": 2})

    with pytest.raises(ValueError, match=r"a was 1 and is 3\. .*output\. Do this\.$"):
        check_same_settings(tmp_path / "settings.json", {"a": 3, "b": 2}, {"a": "Do this.", "b": "Do that."})


def test_the_best_checkpoint_must_be_whole(talk, tmp_path):
    trainer = trainer_for(talk, tmp_path, "gate", steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    flip_a_bit(tmp_path / "checkpoint-1" / "trained.safetensors")
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")

    with pytest.raises(ValueError, match=r"The best checkpoint, .*was changed after it was written"):
        trainer._load_best_model()


def test_older_checkpoints_stay_where_the_newest_is_whole(tmp_path):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "a").write_bytes(b"1")
    mark_whole(tmp_path / "checkpoint-2")

    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    with pytest.raises(ValueError, match="it has no b"):
        last_whole_checkpoint(tmp_path, ["a", "b"])


def test_each_process_needs_its_random_state():
    assert needed_files(1)[-1] == "rng_state.pth"
    assert needed_files(2)[-2:] == ["rng_state_0.pth", "rng_state_1.pth"]


def test_a_second_run_of_an_output_is_told_so(stopped, talk):
    output, checkpoint = stopped
    shutil.copy(checkpoint / "whole.json", checkpoint / "kept.json")
    (checkpoint / "whole.json").unlink()  # as while it is being written

    with only_run(output), pytest.raises(ValueError, match="Another run is writing"):
        run_training(run_config(talk, output, steps=4))

    assert checkpoint.is_dir()


@pytest.mark.parametrize("length", [5_000, 40_000, 300_000])
def test_a_disk_that_is_full_is_told(talk, tmp_path, length):
    """Limits below the trained weights, the optimizer's state and the whole model, in bytes."""
    settings = {"steps": 1, "save_steps": 1, "tune": "gate,projector", "learning_rates": {}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, limits[1]))
    try:
        with pytest.raises(OSError, match=r"out.* cannot be written: |File too large"):
            run_training(run_config(talk, tmp_path / "out", **settings))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert json.loads((tmp_path / "out" / "training_config.json").read_text())["steps"] == 1
