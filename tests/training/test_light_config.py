"""A YAML is read and refused before the seconds that torch and transformers take to import."""

import subprocess
import sys
from pathlib import Path

import vega3d

LIGHT = """
import sys, types

package = types.ModuleType("vega3d")  # its own imports are not this test's subject
package.__path__, package.__version__ = [sys.argv[1]], "0"
sys.modules["vega3d"] = package

from vega3d.training import PARTS, DataSource, read_config

config = read_config(sys.argv[2])
for source in config.data:
    source.check()
try:
    read_config(sys.argv[2], {"tune": "gates"})
except ValueError as error:
    print(error)
print([name for name in ("torch", "transformers", "peft", "datasets", "pyarrow", "matplotlib") if name in sys.modules])
"""


def test_a_config_is_checked_without_torch(tmp_path):
    config, rows = tmp_path / "config.yaml", tmp_path / "rows.jsonl"
    rows.touch()
    config.write_text(f"model: vega3d-tiny\ndata: {rows}\noutput: out\ndevice: cpu\n")
    command = [sys.executable, "-c", LIGHT, str(Path(vega3d.__file__).parent), str(config)]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    assert "There is no part 'gates' to tune." in printed[0]
    assert printed[1] == "[]"
