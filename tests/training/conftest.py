from pathlib import Path

import pytest
from training_data import write_clip, write_jsonl

from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import synthesize


@pytest.fixture(scope="session")
def rooms(tmp_path_factory) -> Path:
    """Two small rooms with their questions, split train."""
    folder = tmp_path_factory.mktemp("training") / "rooms"
    synthesize(folder, DatasetSettings("train", size=128, num_frames=5), 2, 1)
    return folder


@pytest.fixture(scope="session")
def talk(tmp_path_factory) -> Path:
    """A file of messages with short noisy videos beside it: 12 conversations of one or two turns."""
    folder = tmp_path_factory.mktemp("talk")
    for number in range(3):
        write_clip(folder / f"clip{number}.mp4", seed=number)
    rows = []
    for number in range(12):
        first = [{"type": "video"}, {"type": "text", "text": f"How many chairs, please? {number}"}]
        messages = [{"role": "user", "content": first}, {"role": "assistant", "content": f"{number} chairs"}]
        if number % 3 == 0:
            messages += [{"role": "user", "content": "And lamps?"}, {"role": "assistant", "content": "none at all"}]
        rows.append({"id": f"row{number}", "messages": messages, "videos": [f"clip{number % 3}.mp4"]})
    write_jsonl(folder / "talk.jsonl", rows)
    return folder / "talk.jsonl"
