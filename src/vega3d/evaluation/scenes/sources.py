"""The data that a benchmark's questions are about: scans, true boxes of objects, proposals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.evaluation.scenes.scans import (
    OBJECT_FILES,
    PROPOSAL_FILES,
    Objects,
    find_file,
    find_scan,
    read_objects,
    read_proposals,
    scan_objects,
    scene_of_scan,
)
from vega3d.evaluation.scenes.scoring import CAPTION_OVERLAP
from vega3d.evaluation.scenes.tables import GROUNDING_BENCHMARKS
from vega3d.files import check_input
from vega3d.geometry import box_iou

WITHOUT_PROPOSALS, TRUE_BOXES = "none", "objects"  # in place of a file of proposals


class MissingDataError(ValueError):
    """What a row names and the data lacks; the message is `SCAN: what`."""


@dataclass
class Source:
    """The data of a benchmark: where scans are, true boxes of objects, proposals.

    Attributes:
        data: folder of the benchmark.
        proposals: by scan; None where a model gets none.
        objects: by scan, from a file; None where each scan has its own.
        uses_objects: whether the true boxes stand in for proposals.
    """

    data: Path
    proposals: Mapping[str, np.ndarray] | None = None
    objects: Mapping[str, Objects] | None = None
    uses_objects: bool = False
    read: dict[str, Objects] = field(default_factory=dict)

    def objects_of(self, scan: str) -> Objects:
        """The true boxes of a scan; raises `MissingDataError` if there are none."""
        if scan not in self.read:
            if self.objects is not None:
                if scan not in self.objects:
                    raise MissingDataError(f"{scan}: no boxes of its objects")
                self.read[scan] = self.objects[scan]
            else:
                folder = find_scan(self.data, scan)
                if folder is None:
                    raise MissingDataError(f"{scan}: no scan, and so no boxes of its objects")
                self.read[scan] = scan_objects(folder)
        return self.read[scan]

    def object_box(self, scan: str, number: Any) -> np.ndarray:
        """float64[6], the true box of an object; raises `MissingDataError` if it is not there."""
        objects = self.objects_of(scan)
        if str(number) not in objects:
            raise MissingDataError(f"{scan}: no object {number}")
        return objects[str(number)]

    def boxes(self, scan: str) -> np.ndarray:
        """float64[M, 6], the proposals; raises `MissingDataError` if the scan has none."""
        if self.uses_objects:
            boxes = list(self.objects_of(scan).values())
            if not boxes:  # which a model would take for none given
                raise MissingDataError(f"{scan}: no boxes of its objects")
            return np.array(boxes)
        if self.proposals is None:
            return np.zeros((0, 6))
        if scan not in self.proposals:
            raise MissingDataError(f"{scan}: no proposals")
        return self.proposals[scan]

    def nearest(self, scan: str, target: np.ndarray) -> np.ndarray | None:
        """float64[6], the proposal that overlaps a box most, or None if none does by one half."""
        if self.proposals is None and not self.uses_objects:
            return target
        boxes = self.boxes(scan)
        overlaps = box_iou(boxes, target)
        return boxes[overlaps.argmax()] if overlaps.max() >= CAPTION_OVERLAP else None

    def place(self, scan: str) -> dict:
        """Scan, scene and folder of a record."""
        return {"scan": scan, "scene": scene_of_scan(scan), "folder": find_scan(self.data, scan)}


def open_source(benchmark: str, data: Path, proposals: str | Path | None, published: bool) -> Source:
    """The scans, objects and proposals that the questions of a benchmark need."""
    if benchmark not in GROUNDING_BENCHMARKS and (published or benchmark != "scan2cap"):
        if proposals is not None:
            raise ValueError(
                f"{benchmark} needs no proposals here, so --proposals would have no effect. Leave it out."
            )
        return Source(data)
    uses_objects = str(proposals) == TRUE_BOXES
    objects_file = find_file(data, OBJECT_FILES) if uses_objects or not published else None
    objects = None if objects_file is None else read_objects(objects_file)
    if uses_objects or str(proposals) == WITHOUT_PROPOSALS:
        return Source(data, None, objects, uses_objects)
    path = find_file(data, PROPOSAL_FILES) if proposals is None else check_input(proposals)
    if path is None:
        raise ValueError(
            f"{data} has no proposals ({', '.join(PROPOSAL_FILES)}). Give a file with --proposals, or say --proposals "
            f"{TRUE_BOXES} for the true boxes, or --proposals {WITHOUT_PROPOSALS} for a model that needs none."
        )
    return Source(data, read_proposals(path), objects)
