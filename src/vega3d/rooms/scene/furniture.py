"""The furniture pack: meshes of real furniture with class names and true sizes."""

import io
import json
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vega3d.configs import shown
from vega3d.rooms.archives import read_archive
from vega3d.rooms.scene import UNSEEN_SPLIT
from vega3d.rooms.scene.classes import CLASSES, VETTED_UNSEEN
from vega3d.rooms.scene.meshes import Mesh, creased_mesh, join

PACK = Path(__file__).parents[2] / "assets" / "furniture" / "furniture_cc0.npz.xz"
HEIGHT_STEP = 0.02  # [m], of `Furniture.height_map`
MILLIMETRE = 1e-3  # [m], unit of the stored vertices
LARGEST_PACK = 1 << 29  # bytes of all arrays
REPACK = "Repack it with recipes/pack_furniture.py."
UNSEEN_REMEDY = (
    "Make one with `python recipes/pack_furniture.py sweethome3d-furniture_*.deb furniture_unseen.npz "
    "--licence cc-by` and give it as --furniture."
)


class Model(NamedTuple):
    """What is drawn of a piece of furniture."""

    mesh: Mesh  # z up, front towards -y, origin at the centre of the footprint on the floor [m]
    images: list[np.ndarray]  # uint8[h, w, 3] each, sRGB; `mesh.texture` numbers them


class Furniture:
    """One object of a pack, of a class `name`; its mesh is decoded when it is first asked for.

    Args:
        source: where the pack's maker took it from; unique in a pack.
        arrays: the archive's arrays of this object's parts, by their names without the object's number.
        parts: colour and whether it is textured, of each part.
    """

    def __init__(self, name: str, source: str, arrays: dict[str, np.ndarray], parts: list[dict]):
        self.name, self.source, self._arrays, self._parts = name, source, arrays, parts

    @property
    def identifier(self) -> str:
        """`{library}/{model}`, as in `classes.py`, of an object of a pack."""
        return f"{self.source.partition('/')[0]}/{Path(self.source).stem}"

    @classmethod
    def from_model(cls, name: str, model: Model) -> "Furniture":
        """An object that is in no pack."""
        item = cls(name, "built", {}, [])
        item.__dict__["model"] = model
        return item

    @cached_property
    def model(self) -> Model:
        meshes, images = [], []
        for number, part in enumerate(self._parts):
            vertices = self._arrays[f"{number}_v"].astype(float) * MILLIMETRE
            uv = self._arrays[f"{number}_uv"].astype(float) if part["textured"] else None
            meshes.append(creased_mesh(vertices, self._arrays[f"{number}_f"].astype(np.int64), uv, number))
            images.append(self._image(number, part))
        return Model(_centred(join(meshes)), images)

    def _image(self, number: int, part: dict) -> np.ndarray:
        if not part["textured"]:
            return np.array(part["color"], np.uint8).reshape(1, 1, 3)
        try:
            image = Image.open(io.BytesIO(self._arrays[f"{number}_jpg"].tobytes())).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"Texture {number} of {self.source} is damaged. Fetch the pack again.") from error
        return np.asarray(image)

    @cached_property
    def size(self) -> np.ndarray:
        """float[3]: width, depth and height of the mesh [m]."""
        return np.ptp(self.model.mesh.vertices, axis=0).astype(float)

    @cached_property
    def height_map(self) -> np.ndarray:
        """float[n, m]: height of the mesh from above [m], in squares from the lower left corner; 0 where empty."""
        vertices, faces = self.model.mesh.vertices.astype(float), self.model.mesh.faces
        heights = np.zeros(np.ceil(self.size[:2] / HEIGHT_STEP - 1e-6).astype(int))
        corners = vertices[faces] + (*self.size[:2] / 2, 0)
        longest = np.linalg.norm(np.ptp(corners[:, :, :2], axis=1), axis=1)
        splits = 2 ** np.ceil(np.log2(np.maximum(longest / HEIGHT_STEP * 2, 1))).astype(int)
        for split in np.unique(splits):
            points = (_lattice(int(split)) @ corners[splits == split]).reshape(-1, 3)
            x, y = (points[:, :2] / HEIGHT_STEP).astype(int).clip(0, np.array(heights.shape) - 1).T
            np.maximum.at(heights.reshape(-1), x * heights.shape[1] + y, points[:, 2])  # fast for one axis alone
        return heights


def _lattice(split: int) -> np.ndarray:
    """float[(split + 1) (split + 2) / 2, 3]: barycentric coordinates of a regular lattice on a triangle."""
    first, second = np.indices((split + 1, split + 1)).reshape(2, -1)
    keep = first + second <= split
    return np.stack([first, second, split - first - second], axis=1)[keep] / split


def _centred(mesh: Mesh) -> Mesh:
    """The mesh with its origin at the centre of its footprint: in a pack that is so up to a millimetre alone."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
    return mesh._replace(vertices=mesh.vertices - middle)


def load_furniture(path: str | os.PathLike = PACK) -> list[Furniture]:
    """The objects of a pack, in the order of the file.

    A process reads a pack once, as long as its file does not change: the objects are shared by all who load it.

    Args:
        path: a pack (docs/data: `.npz` or `.npz.xz`, one JSON table and the arrays of each part), with a class for
            each object.

    Raises:
        ValueError: if the file is no pack, is damaged, or has an unknown class.
    """
    try:
        status = os.stat(path)
        version = (status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):
        version = None  # reading it says what is wrong
    return list(_read_pack(Path(path), version))


@lru_cache(maxsize=8)
def _read_pack(path: Path, version: tuple[int, int] | None) -> list[Furniture]:
    """What `load_furniture` gives; `version` changes with the file, and is part of the key of the cache alone."""
    try:
        arrays = read_archive(path, largest=LARGEST_PACK, remedy="")
        table = json.loads(arrays.pop("meta").tobytes())
    except (KeyError, ValueError, RecursionError) as error:
        reason = str(error).removesuffix(".")
        raise ValueError(f"{path} is no furniture pack or is damaged ({reason}). Fetch it again.") from error
    if not isinstance(table, list) or not table:
        raise ValueError(f"{path} is no furniture pack: meta must be a list of objects. Fetch it again.")
    owned: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        number, _, name = key.partition("_")
        owned.setdefault(number, {})[name] = array
    return [_object(path, str(number), entry, owned.get(str(number), {})) for number, entry in enumerate(table)]


def furniture_for(split: str, path: Path | None = None) -> list[Furniture]:
    """The objects of a pack, if they are for rooms of the split.

    Args:
        split: `test_unseen` takes objects of `VETTED_UNSEEN` alone; other splits take none of them.
        path: a pack; the CC0 pack of this package if None, which `test_unseen` does not accept.

    Raises:
        ValueError: if the pack is not for the split, or cannot be read (`load_furniture`).
    """
    path = PACK if path is None else path
    furniture = load_furniture(path)
    unseen = {identifier for identifiers in VETTED_UNSEEN.values() for identifier in identifiers}
    wrong = [item.identifier for item in furniture if (item.identifier in unseen) != (split == UNSEEN_SPLIT)]
    if wrong:
        found = f"{len(wrong)} of {len(furniture)} objects of {path}, the first of them {wrong[0]},"
        if split == UNSEEN_SPLIT:
            raise ValueError(f"{found} are not kept for {UNSEEN_SPLIT}. {UNSEEN_REMEDY}")
        raise ValueError(f"{found} are kept for {UNSEEN_SPLIT}, but the split is {split}. Leave that pack out.")
    return furniture


def _object(path: str | os.PathLike, number: str, entry: Any, arrays: dict[str, np.ndarray]) -> Furniture:
    if not isinstance(entry, dict):
        raise ValueError(f"Object {number} of {path} is {shown(entry)}, but must be names with values. {REPACK}")
    missing = {"class", "source", "parts"} - set(entry)
    if missing:
        raise ValueError(f"Object {number} of {path} has no {sorted(missing)}. {REPACK}")
    if not isinstance(entry["class"], str) or entry["class"] not in CLASSES:
        raise ValueError(f"Object {number} of {path} is a {shown(entry['class'])}, none of {sorted(CLASSES)}.")
    if not isinstance(entry["source"], str) or not isinstance(entry["parts"], list) or not entry["parts"]:
        raise ValueError(f"Object {number} of {path} needs a source and a list of parts. {REPACK}")
    for part_number, part in enumerate(entry["parts"]):
        if not _is_look(part):
            raise ValueError(
                f"Part {part_number} of object {number} of {path} is {shown(part)}, but must have textured, true or "
                f"false, and a color of three numbers from 0 to 255. {REPACK}"
            )
        names = ["v", "f", "uv", "jpg"] if part["textured"] else ["v", "f"]
        absent = [name for name in names if f"{part_number}_{name}" not in arrays]
        if absent:
            raise ValueError(f"Part {part_number} of object {number} of {path} lacks {absent}. Fetch the pack again.")
        _check_part(f"Part {part_number} of object {number} of {path}", part_number, arrays)
    return Furniture(entry["class"], entry["source"], arrays, entry["parts"])


def _is_look(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("textured"), bool):
        return False
    color = part.get("color")
    if part["textured"]:
        return True
    return isinstance(color, list) and len(color) == 3 and all(type(one) is int and 0 <= one <= 255 for one in color)


def _check_part(what: str, number: int, arrays: dict[str, np.ndarray]) -> None:
    vertices, faces = arrays[f"{number}_v"], arrays[f"{number}_f"]
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"{what} has vertices {vertices.shape} and faces {faces.shape}; both need 3 columns.")
    if vertices.dtype.kind not in "iuf" or faces.dtype.kind not in "iu" or not np.isfinite(vertices).all():
        raise ValueError(f"{what} has vertices {vertices.dtype} and faces {faces.dtype}; both need finite numbers.")
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError(f"{what} has faces up to vertex {faces.max()}, but {len(vertices)} vertices.")
    uv = arrays.get(f"{number}_uv")
    if uv is not None and (uv.dtype.kind != "f" or uv.shape != (len(vertices), 2) or not np.isfinite(uv).all()):
        raise ValueError(f"{what} has texture coordinates {uv.shape} that are not finite or not one a vertex.")
