"""The Space: the page of `vega3d demo`. MODEL may be any folder or Hub id."""

from vega3d.demo.app import build, launch
from vega3d.demo.compare import Comparer
from vega3d.hub.load import load

MODEL = "vega3d-tiny"

demo = build(Comparer(load(MODEL)))

if __name__ == "__main__":
    launch(demo)
