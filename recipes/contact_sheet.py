"""Draws every object of a furniture pack by class, for people to look at.

python recipes/contact_sheet.py PACK.npz SHEET.png
"""

import sys
from pathlib import Path

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from PIL import Image, ImageDraw

from vega3d.geometry import intrinsics_from_field_of_view, look_at, unproject
from vega3d.rooms.scene.furniture import Furniture, load_furniture

TILE, COLUMNS, TITLE = 150, 10, 14  # [px]


def draw(packed: Path, sheet: Path) -> None:
    """Draws the objects of a pack, ordered by class, one cell each."""
    objects = sorted(load_furniture(packed), key=lambda piece: piece.name)
    rows = -(-len(objects) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + TITLE)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, piece in enumerate(objects):
        place = number % COLUMNS * TILE, number // COLUMNS * (TILE + TITLE)
        canvas.paste(Image.fromarray(picture(piece)), (place[0], place[1] + TITLE))
        pen.text((place[0] + 2, place[1]), f"{piece.name} {' x '.join(f'{edge:.2f}' for edge in piece.size)}", "black")
    canvas.save(sheet)


def picture(piece: Furniture) -> np.ndarray:
    """uint8[TILE, TILE, 3]: the object seen from the front right, lit from the camera's left."""
    mesh, images = piece.model
    middle = np.array([0, 0, piece.size[2] / 2])
    pose = look_at(middle + np.linalg.norm(piece.size) * np.array([0.8, -1.28, 0.72]), middle)
    pixels = np.stack(np.meshgrid(np.arange(TILE) + 0.5, np.arange(TILE) + 0.5), axis=-1).reshape(-1, 2)
    rays = unproject(pixels, np.ones(len(pixels)), intrinsics_from_field_of_view(TILE, TILE, 38), pose) - pose[:3, 3]
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices[mesh.faces])
    hit = scene.run(np.broadcast_to(pose[:3, 3], rays.shape).astype(np.float32), rays.astype(np.float32), output=1)
    image = np.full((TILE * TILE, 3), 235.0)
    seen = hit["primID"] >= 0
    face = hit["primID"][seen]
    weights = np.stack([1 - hit["u"] - hit["v"], hit["u"], hit["v"]], axis=1)[seen, :, None]
    normals, uv = ((values[mesh.faces[face]] * weights).sum(axis=1) for values in (mesh.normals, mesh.uv))
    normals *= -np.sign((normals * rays[seen]).sum(axis=1, keepdims=True))
    colours = [
        images[texture][_texel(images[texture], place)] for texture, place in zip(mesh.texture[face], uv, strict=True)
    ]
    image[seen] = colours * (0.45 + 0.55 * np.clip(normals @ (0.2, -0.6, 0.77), 0, 1))[:, None]
    return image.reshape(TILE, TILE, 3).clip(0, 255).astype(np.uint8)


def _texel(image: np.ndarray, place: np.ndarray) -> tuple[int, int]:
    height, width = image.shape[:2]
    return int((1 - place[1]) % 1 * height) % height, int(place[0] % 1 * width) % width


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
