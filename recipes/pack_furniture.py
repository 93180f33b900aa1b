"""Packs the vetted furniture of Debian's package `sweethome3d-furniture`, with a list of its creators beside it.

apt-get download sweethome3d-furniture
python recipes/pack_furniture.py sweethome3d-furniture_*.deb furniture_unseen.npz --licence cc-by

The objects are those that `vega3d.rooms.scene.classes` names: `VETTED` for `--licence cc0`, `VETTED_UNSEEN` for
`--licence cc-by`. Needs `pip install ".[pack]"` in a clone. The same input gives the same bytes.
"""

import argparse
import io
import json
import lzma
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fast_simplification
import numpy as np
from PIL import Image

from vega3d.files import write_whole
from vega3d.rooms.scene.classes import VETTED, VETTED_UNSEEN

CHOICES = {"cc0": VETTED, "cc-by": VETTED_UNSEEN}
LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/",
    "BlendSwap-CC-BY": "CC-BY 3.0, https://creativecommons.org/licenses/by/3.0/",
    "Scopia": "CC-BY 3.0, https://creativecommons.org/licenses/by/3.0/",
    "KatorLegaz": "CC-BY 3.0 US, https://creativecommons.org/licenses/by/3.0/us/",
}
CATALOGUE = "PluginFurnitureCatalog.properties"
FACES = 2500  # of an object, about
TEXTURE = 256  # [px], largest edge
CENTIMETRE = 10  # [mm], unit of the catalogue's sizes
TILES = 64  # texture repeats beyond this lose too many digits in float16
PLAIN = ((204, 204, 204), None)  # look of a material that no file describes
UPRIGHT = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # from y up and front +z to z up and front -y


class Part(NamedTuple):
    """What an object has of one material.

    Args:
        vertices: float[n, 3] [mm].
        faces: int[m, 3].
        uv: float[n, 2], or None without a texture.
        color: three numbers in 0 to 255, sRGB.
        image: path of the texture in the library, or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None
    color: tuple[int, ...]
    image: str | None


def open_libraries(source: Path) -> dict[str, zipfile.ZipFile]:
    """The libraries (`.sh3f`) in a .deb or in a folder where it is unpacked, by their names."""
    if not source.exists():
        raise ValueError(f"There is no {source}. Get it by `apt-get download sweethome3d-furniture`.")
    if source.is_dir():
        found = {path.stem: zipfile.ZipFile(path) for path in sorted(source.rglob("*.sh3f"))}
    else:
        found = {Path(name).stem: zipfile.ZipFile(data) for name, data in _files_of_deb(source)}
    if not found:
        raise ValueError(f"{source} holds no library (.sh3f). Get it by `apt-get download sweethome3d-furniture`.")
    return found


def _files_of_deb(source: Path) -> Iterator[tuple[str, io.BytesIO]]:
    """Names and contents of the libraries in a .deb: an `ar` archive, whose member `data.tar.*` has the files."""
    with source.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError(f"{source} is neither a folder nor a .deb.")
        while header := file.read(60):
            name, size = header[:16].decode().strip(), int(header[48:58])
            if name.startswith("data.tar"):
                with tarfile.open(fileobj=io.BytesIO(file.read(size))) as archive:
                    for member in archive:
                        if member.name.endswith(".sh3f") and (content := archive.extractfile(member)):
                            yield member.name, io.BytesIO(content.read())
                return
            file.seek(size + size % 2, os.SEEK_CUR)


def read_catalogue(library: zipfile.ZipFile) -> dict[str, dict[str, str]]:
    """The entries of a library's catalogue by the names of their models, which are unique."""
    entries: dict[str, dict[str, str]] = {}
    for line in library.read(CATALOGUE).decode("latin-1").splitlines():
        key, separator, value = line.partition("=")
        name, _, number = key.partition("#")
        if separator and number:
            entries.setdefault(number, {})[name] = value.strip().encode("latin-1").decode("unicode_escape")
    models = [entry for entry in entries.values() if "model" in entry]
    return {posixpath.splitext(posixpath.basename(entry["model"]))[0]: entry for entry in models}


def read_materials(library: zipfile.ZipFile, path: str) -> dict[str, tuple[tuple[int, ...], str | None]]:
    """Colour of each material of an .mtl file, and path of its texture, or None if the library has none."""
    materials: dict[str, tuple[tuple[int, ...], str | None]] = {}
    present = set(library.namelist())
    if path not in present:
        raise ValueError(f"The library lacks {path}, the materials of a model. Take that model out of classes.py.")
    name = ""
    for line in library.read(path).decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "newmtl":
            name = rest.strip()
            materials[name] = PLAIN
        elif word == "Kd":
            color = tuple(round(255 * min(float(value), 1.0)) for value in rest.split())
            materials[name] = (color, materials[name][1])
        elif word == "map_Kd":
            image = posixpath.join(posixpath.dirname(path), rest.split("\\")[-1].strip())
            materials[name] = (materials[name][0], image if image in present else None)
    return materials


def read_parts(library: zipfile.ZipFile, path: str) -> list[Part]:
    """The parts of an .obj file, as its author placed them; materials that look the same make one part."""
    points: list[list[float]] = []
    texture_points: list[list[float]] = []
    materials: dict[str, tuple[tuple[int, ...], str | None]] = {}
    corners: dict[tuple, list[tuple[int, int]]] = {}
    look: tuple = PLAIN
    for line in library.read(path).decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "v":
            points.append([float(value) for value in rest.split()[:3]])
        elif word == "vt":
            texture_points.append([float(value) for value in rest.split()[:2]])
        elif word == "mtllib":
            materials |= read_materials(library, posixpath.join(posixpath.dirname(path), rest.strip()))
        elif word == "usemtl":
            look = materials.get(rest.strip(), PLAIN)
        elif word == "f":
            face = [_corner(corner, len(points), len(texture_points)) for corner in rest.split()]
            fan = [face[place] for number in range(1, len(face) - 1) for place in (0, number, number + 1)]
            corners.setdefault(look, []).extend(fan)
    places, texture_places = np.array(points), np.array([*texture_points, [0.0, 0.0]])
    return [_part(look, np.array(pairs), places, texture_places) for look, pairs in corners.items()]


def _corner(text: str, points: int, texture_points: int) -> tuple[int, int]:
    """Numbers of point and texture point of `7/3/1` or `7//1`; -1, which is (0, 0), without a texture point."""
    numbers = [int(number) if number else 0 for number in text.split("/")] + [0]
    point, texture_point = numbers[:2]
    return (
        point - 1 if point > 0 else points + point,
        texture_point - 1 if texture_point >= 0 else texture_points + texture_point,
    )


def _part(look: tuple, pairs: np.ndarray, points: np.ndarray, texture_points: np.ndarray) -> Part:
    """Welds corners of the same place and texture coordinates."""
    color, image = look
    places = points[pairs[:, 0]]
    key = np.round(places / max(float(np.ptp(points, axis=0).max()), 1e-9) * 20_000)
    uv = np.nan_to_num(texture_points[pairs[:, 1]], nan=0, posinf=0, neginf=0) if image else np.zeros((len(pairs), 2))
    _, first, inverse = np.unique(np.concatenate([key, uv], axis=1), axis=0, return_index=True, return_inverse=True)
    return Part(places[first], inverse.reshape(-1, 3), uv[first] if image else None, color, image)


def simplified(part: Part, target: int) -> Part:
    """The part with about `target` faces; its borders stay, so that it does not tear, unless too many faces do."""
    if len(part.faces) <= target:
        return part
    faces = part.faces.astype(np.int32)
    for borders_stay in (True, False):
        result = fast_simplification.simplify(
            part.vertices, faces, target_count=target, return_collapses=True, preserve_border=borders_stay
        )
        if len(result[1]) <= 3 * target:
            break
    vertices, faces_left, goes_to = fast_simplification.replay_simplification(part.vertices, faces, result[2])
    merged = np.flatnonzero(goes_to >= 0)
    owner = goes_to[merged]
    low, high = np.full_like(vertices, np.inf), np.full_like(vertices, -np.inf)
    np.minimum.at(low, owner, part.vertices[merged])
    np.maximum.at(high, owner, part.vertices[merged])
    vertices = np.clip(vertices, low, high)  # a nearly flat place has its best point anywhere, even kilometres away
    if part.uv is None:
        return part._replace(vertices=vertices, faces=faces_left)
    distance = np.linalg.norm(part.vertices[merged] - vertices[owner], axis=1)
    order = np.lexsort((distance, owner))
    _, first = np.unique(owner[order], return_index=True)
    return part._replace(vertices=vertices, faces=faces_left, uv=part.uv[merged[order[first]]])


def in_millimetres(parts: list[Part], entry: dict[str, str]) -> list[Part]:
    """The parts turned and stretched as the catalogue says; z up, front -y, origin below the middle."""
    rotation = np.array(entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split(), float).reshape(3, 3)
    placed = [part.vertices @ rotation.T @ UPRIGHT.T for part in parts]
    low = np.min([vertices.min(axis=0) for vertices in placed], axis=0)
    high = np.max([vertices.max(axis=0) for vertices in placed], axis=0)
    size = np.array([float(entry[name]) for name in ("width", "depth", "height")]) * CENTIMETRE
    scale = size / np.maximum(high - low, 1e-9)
    origin = np.array([*(low + high)[:2] / 2, low[2]])
    return [part._replace(vertices=(vertices - origin) * scale) for part, vertices in zip(parts, placed, strict=True)]


def near_zero(part: Part) -> Part:
    """The part with texture coordinates as near 0 as whole tiles allow, which float16 rounds least."""
    if part.uv is None:
        return part
    uv = part.uv - np.floor(np.median(part.uv, axis=0))
    if np.abs(uv).max() <= TILES:
        return part._replace(uv=uv)
    corners = part.uv[part.faces]
    corners = corners - np.floor(corners.mean(axis=1, keepdims=True))
    vertices = part.vertices[part.faces].reshape(-1, 3)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    return part._replace(vertices=vertices, faces=faces, uv=np.clip(corners.reshape(-1, 2), -TILES, TILES))


def jpeg(library: zipfile.ZipFile, path: str) -> np.ndarray:
    """uint8[n]: the texture as JPEG, made small; what is transparent gets the mean colour of the rest."""
    with library.open(path) as file:
        image = Image.open(file).convert("RGBA")
    image.thumbnail((TEXTURE, TEXTURE))
    pixels = np.asarray(image, float)
    opaque = pixels[..., 3:] / 255
    mean = (pixels[..., :3] * opaque).sum(axis=(0, 1)) / max(opaque.sum(), 1e-9)
    flat = np.round(pixels[..., :3] * opaque + mean * (1 - opaque)).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(flat).save(written, "JPEG", quality=88)
    return np.frombuffer(written.getvalue(), np.uint8)


def pack_object(library: zipfile.ZipFile, entry: dict[str, str]) -> tuple[list[dict], dict]:
    """The table's parts, and the arrays by their names without the object's number."""
    parts = in_millimetres(read_parts(library, entry["model"].lstrip("/")), entry)
    total = sum(len(part.faces) for part in parts)
    table, arrays = [], {}
    for part in parts:
        target = max(round(FACES * len(part.faces) / total), 16) if total > FACES else len(part.faces)
        part = near_zero(simplified(part, target))
        number = len(table)
        arrays[f"{number}_v"] = np.round(part.vertices).astype(np.int16)
        arrays[f"{number}_f"] = part.faces.astype(np.uint16)
        if part.uv is not None and part.image is not None:
            arrays[f"{number}_uv"] = part.uv.astype(np.float16)
            arrays[f"{number}_jpg"] = jpeg(library, part.image)
        table.append({"color": list(part.color), "textured": part.image is not None})
    return table, arrays


def archive(arrays: dict[str, np.ndarray], is_xz: bool) -> bytes:
    """A .npz, or one in xz, where equal arrays cost little; the same arrays give the same bytes."""
    file = io.BytesIO()
    (np.savez if is_xz else np.savez_compressed)(file, **arrays)
    return lzma.compress(file.getvalue(), preset=9 | lzma.PRESET_EXTREME) if is_xz else file.getvalue()


def pack(source: Path, packed: Path, licence: str, objects: list[str] | None = None) -> None:
    """Writes a pack, and beside it the list of its creators.

    Args:
        source: the .deb, or a folder with its libraries.
        packed: pack to write (`.npz`, or `.npz.xz`, which is smaller).
        licence: one of `CHOICES`.
        objects: identifiers, `{library}/{model}`, of the vetted objects to pack; all if None.
    """
    chosen = {identifier: name for name, identifiers in CHOICES[licence].items() for identifier in identifiers}
    unknown = sorted(set(objects or ()) - set(chosen))
    if unknown:
        raise ValueError(f"{unknown} are no vetted objects with licence {licence}. Add them to classes.py.")
    libraries = open_libraries(source)
    catalogues = {name: read_catalogue(library) for name, library in libraries.items()}
    entries, arrays = [], {}
    for identifier in objects or sorted(chosen):
        library, _, model = identifier.partition("/")
        if model not in catalogues.get(library, {}):
            raise ValueError(f"{source} has no {identifier}. Name what it has with --objects.")
        entry = catalogues[library][model]
        parts, owned = pack_object(libraries[library], entry)
        arrays |= {f"{len(entries)}_{key}": array for key, array in owned.items()}
        described = {"class": chosen[identifier], "name": entry["name"], "source": f"{library}{entry['model']}"}
        entries.append({**described, "creator": entry["creator"], "licence": LICENCES[library], "parts": parts})
    table = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    content = archive({"meta": table, **arrays}, packed.suffix == ".xz")
    write_whole(packed, lambda partial: partial.write_bytes(content))
    name = Path(packed.name.removesuffix(".xz")).stem
    packed.with_name(f"{name}_ATTRIBUTION.txt").write_text(attribution(entries), encoding="utf-8")
    print(f"{len(entries)} objects of {len({entry['class'] for entry in entries})} classes in {packed}")


def attribution(entries: list[dict]) -> str:
    """Creator and licence of each object, as the licences ask for."""
    head = (
        "Furniture from Debian's package sweethome3d-furniture (Sweet Home 3D's additional 3D models). Changed:\n"
        "meshes are simplified, textures reduced. Class, name, creator, licence and source of each object:\n\n"
    )
    fields = ("class", "name", "creator", "licence", "source")
    return head + "".join("; ".join(str(entry[field]) for field in fields) + "\n" for entry in entries)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="the .deb, or a folder with its libraries")
    parser.add_argument("packed", type=Path, help="pack to write (.npz or .npz.xz)")
    parser.add_argument("--licence", choices=sorted(CHOICES), required=True)
    parser.add_argument("--objects", nargs="+", metavar="LIBRARY/MODEL", help="some of the vetted objects; else all")
    pack(**vars(parser.parse_args()))
