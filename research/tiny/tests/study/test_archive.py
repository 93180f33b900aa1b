"""The archive of results has the same bytes, whichever process writes it: STUDY.md says so."""

import json
import os
import subprocess
import sys

from test_claims import SURROUNDINGS

WRITE = """
import hashlib, sys
from pathlib import Path
from research.tiny.study.table import archive

print(hashlib.sha256(archive(Path(sys.argv[1])).read_bytes()).hexdigest())
"""


def test_the_same_results_give_the_same_archive_in_other_processes(tmp_path):
    found = []
    for number, surroundings in enumerate(SURROUNDINGS):
        folder = tmp_path / str(number)
        for name in ("b", "a") if number % 2 else ("a", "b"):
            (folder / "results" / name).mkdir(parents=True)
            (folder / "results" / name / "seed0.json").write_text(json.dumps({"name": name}))
        variables = {name: value for name, value in surroundings.items() if name != "umask"}
        environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(sys.path)}

        command = [sys.executable, "-c", WRITE, str(folder)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, umask=surroundings["umask"]
        )

        found.append(done.stdout)

    assert len(found) == len(SURROUNDINGS) and len(set(found)) == 1
