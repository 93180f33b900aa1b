"""Draws what options of the generator's speed cost: time of a clip against the errors of probes, with intervals.

python -m benchmarks.knowledge GENERATOR --output knowledge.json
python recipes/draw_knowledge.py knowledge.json docs/results/knowledge.png
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from palette import save_palette

from vega3d.files import check_input, check_output, read_json, write_whole

AXES = {"turn_error": "camera's turn [deg]", "depth_rmse": "depth, RMSE [m]"}


def draw(path: Path, result: Mapping) -> None:
    figure, axes = pyplot.subplots(1, len(AXES), figsize=(8, 3.4), layout="constrained")
    options = {name: values for name, values in result["options"].items() if name in result["times"]}
    whole = max(values["clips"] for values in options.values())
    # Others are of fewer clips, and the same as the reference but for rounding.
    shown = {name: values["figures"] for name, values in options.items() if values["clips"] == whole}
    for axis, (metric, title) in zip(axes, AXES.items(), strict=True):
        for name, figures in shown.items():
            seconds, value = result["times"][name]["processor_milliseconds"] / 1000, figures[metric]
            ends = [[value["score"] - value["low"]], [value["high"] - value["score"]]]
            colour = "firebrick" if name == "reference" else "steelblue"
            axis.errorbar(seconds, value["score"], yerr=ends, fmt="o", markersize=4, color=colour, linewidth=0.8)
            axis.annotate(name, (seconds, value["score"]), (4, 3), textcoords="offset points", fontsize=7)
        constant = result["options"]["mean"]["figures"][metric]["score"]
        axis.axhline(constant, color="grey", linestyle=":", linewidth=0.8)
        axis.annotate("a constant", (0.02, constant), (0, 3), ("axes fraction", "data"), "offset points", fontsize=7)
        axis.set_xlabel("time of a clip [s]")
        axis.set_title(title, fontsize=9)
        axis.set_xlim(left=0)
        axis.margins(x=0.25)
    save_palette(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON file of benchmarks.knowledge")
    parser.add_argument("output", type=Path, help="PNG file")
    arguments = parser.parse_args()
    result = read_json(check_input(arguments.result))
    write_whole(check_output(arguments.output), partial(draw, result=result))


if __name__ == "__main__":
    main()
