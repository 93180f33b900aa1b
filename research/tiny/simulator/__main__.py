"""`python -m research.tiny.simulator train-generator ...`, `... sample ...` and `... trim ...`."""

from research.tiny.simulator import sample_command, train_command, trim_command  # noqa: F401 (each adds its command)
from research.tiny.simulator.commands import NAME, app
from vega3d_cli import main

if __name__ == "__main__":  # not in the worker processes that make rooms
    main(app, NAME)
