"""The application whose commands train a world simulator and make videos with it."""

from vega3d_cli.common import make_app

NAME = "python -m research.tiny.simulator"
app = make_app("Train the world simulator of the embedded model, and make videos with it.")
