"""The Space: the page of `vega3d demo`. MODEL may be any folder or Hub id."""

try:
    import spaces  # before torch, which it changes on ZeroGPU
except ModuleNotFoundError:  # on a machine of one's own
    spaces = None

import torch

from vega3d.demo.app import build, launch
from vega3d.demo.compare import Comparer
from vega3d.hub.load import load

MODEL = "vega3d-tiny"
SECONDS = 120  # of the GPU that an answer may take


def on_gpu(function):
    return function if spaces is None else spaces.GPU(duration=SECONDS)(function)


session = load(MODEL, device="cpu")  # ZeroGPU has its GPU in the calls alone, and takes what is moved to it here
if torch.cuda.is_available():
    session.model.to("cuda")
demo = build(Comparer(session), on_gpu)

if __name__ == "__main__":
    launch(demo)
