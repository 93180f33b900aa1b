"""`python -m recipes.metaworld demonstrations ...`, `... evaluate ...` and `... compare ...`."""

from recipes.metaworld import commands, study_commands  # noqa: F401 (the second adds its commands)
from vega3d_cli import main

if __name__ == "__main__":  # not in the worker processes
    main(commands.app, commands.NAME)
