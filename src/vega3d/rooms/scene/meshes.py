"""Triangle meshes with textures as arrays: shading normals, joining, and one flat table of all texels."""

from typing import NamedTuple

import numpy as np

CREASE = 40.0  # [deg]: faces that meet at a sharper angle keep an edge
LEVELS = 9  # of a texture pyramid: 256 texels down to 1


def dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float[n]: dot products of float[n, 3], equal to `(first * second).sum(axis=1)` and three times as fast."""
    return first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1] + first[:, 2] * second[:, 2]


def length(vectors: np.ndarray) -> np.ndarray:
    """float[n]: lengths of float[n, 3], equal to `np.linalg.norm(vectors, axis=1)` and three times as fast."""
    return np.sqrt(dot(vectors, vectors))


def cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float[n, 3]: cross products of float[n, 3], equal to `np.cross(first, second)` and several times as fast."""
    (a, b, c), (d, e, f) = np.ascontiguousarray(first.T), np.ascontiguousarray(second.T)
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=1)


class Mesh(NamedTuple):
    """Triangles that share neither normals nor texture coordinates across a sharp edge."""

    vertices: np.ndarray  # float32[V, 3] [m]
    normals: np.ndarray  # float32[V, 3], unit
    uv: np.ndarray  # float32[V, 2], repeating, v upwards
    faces: np.ndarray  # int32[F, 3]
    texture: np.ndarray  # int32[F], number of the face's texture

    @classmethod
    def uniform(
        cls, vertices: np.ndarray, normals: np.ndarray, uv: np.ndarray, faces: np.ndarray, texture: int
    ) -> "Mesh":
        """A mesh whose faces all have the texture of a number."""
        vertices, normals, uv = (array.astype(np.float32) for array in (vertices, normals, uv))
        return cls(vertices, normals, uv, faces.astype(np.int32), np.full(len(faces), texture, np.int32))


def face_normals(mesh: Mesh) -> np.ndarray:
    """float32[F, 3]: of twice the length of each face's area."""
    first, second, third = (mesh.vertices.take(column, axis=0) for column in mesh.faces.T)
    return cross(second - first, third - first)


def creased_mesh(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray | None = None, texture: int = 0) -> Mesh:
    """A mesh of float[V, 3] [m], int[F, 3] and float[V, 2], whose faces all have the texture of a number.

    Its normals are smooth where faces meet below the crease angle; faces of no area are left out.
    """
    corners = vertices[faces]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = np.linalg.norm(areas, axis=1)
    keep = size > 1e-10
    faces, areas = faces[keep], areas[keep]
    normals = _corner_normals(vertices, faces, areas, areas / size[keep, None])
    where = faces.reshape(-1)
    uv = np.zeros((len(vertices), 2)) if uv is None else uv
    key = np.concatenate([vertices[where], np.round(normals, 2), uv[where]], axis=1).astype(np.float32) + np.float32(0)
    packed = np.ascontiguousarray(key).view(np.dtype((np.void, key.itemsize * key.shape[1])))[:, 0]
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    return Mesh.uniform(vertices[where][first], normals[first], uv[where][first], inverse.reshape(-1, 3), texture)


def _corner_normals(vertices: np.ndarray, faces: np.ndarray, areas: np.ndarray, units: np.ndarray) -> np.ndarray:
    """float[3 F, 3]: for each corner, the mean of the faces around its place that bend less than the crease angle."""
    _, place = np.unique(np.round(vertices * 2000).astype(np.int64) @ (1, 1 << 20, 1 << 40), return_inverse=True)
    place = place[faces].reshape(-1)
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place)
    starts = np.cumsum(counts) - counts
    around = counts[place]
    corner = np.repeat(np.arange(len(place)), around)
    step = np.arange(len(corner)) - np.repeat(np.cumsum(around) - around, around)
    other = order[starts[place[corner]] + step] // 3
    alignment = (units[corner // 3] * units[other]).sum(axis=1)
    weight = (np.abs(alignment) > np.cos(np.radians(CREASE))) * np.sign(alignment)
    total = np.stack([np.bincount(corner, weight * areas[other, axis], len(place)) for axis in range(3)], axis=1)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def join(meshes: list[Mesh]) -> Mesh:
    """One mesh of all; their texture numbers stay as they are."""
    offsets = np.cumsum([0, *[len(mesh.vertices) for mesh in meshes[:-1]]], dtype=np.int32)
    numbered = [mesh._replace(faces=mesh.faces + offset) for mesh, offset in zip(meshes, offsets, strict=True)]
    return Mesh(*map(np.concatenate, zip(*numbered, strict=True)))


def moved(mesh: Mesh, rotation: np.ndarray, translation: np.ndarray) -> Mesh:
    """The mesh turned by float[3, 3] and then shifted by float[3] [m]."""
    return mesh._replace(
        vertices=(mesh.vertices @ rotation.T + translation).astype(np.float32),
        normals=(mesh.normals @ rotation.T).astype(np.float32),
    )


def refined(mesh: Mesh, longest: float) -> Mesh:
    """The mesh with triangles cut in four until no edge is longer than `longest` [m]."""
    mesh = _oriented(mesh)
    large = _longer(mesh.vertices, mesh.faces, longest)
    while large.any():
        pairs = mesh.faces[large][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        codes, edge = np.unique(np.sort(pairs, axis=1) @ (len(mesh.vertices), 1), return_inverse=True)
        ends = np.stack(np.divmod(codes, len(mesh.vertices)))
        normals = mesh.normals[ends].mean(axis=0)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        ab, bc, ca = (edge.reshape(-1, 3) + len(mesh.vertices)).T
        a, b, c = mesh.faces[large].T
        cut = [np.stack(triple, axis=1) for triple in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
        mesh = Mesh(
            np.concatenate([mesh.vertices, mesh.vertices[ends].mean(axis=0)]),
            np.concatenate([mesh.normals, normals]),
            np.concatenate([mesh.uv, mesh.uv[ends].mean(axis=0)]),
            np.concatenate([mesh.faces[~large], *cut]).astype(np.int32),
            np.concatenate([mesh.texture[~large], *[mesh.texture[large]] * 4]),
        )
        made = 4 * len(a)  # the others were short enough before
        large = np.zeros(len(mesh.faces), bool)
        large[-made:] = _longer(mesh.vertices, mesh.faces[-made:], longest)
    return mesh


def _longer(vertices: np.ndarray, faces: np.ndarray, longest: float) -> np.ndarray:
    """bool[F]: whether an edge of faces int[F, 3] is longer than that."""
    a, b, c = (vertices.take(column, axis=0) for column in faces.T)
    return (length(a - c) > longest) | (length(b - a) > longest) | (length(c - b) > longest)


def _oriented(mesh: Mesh) -> Mesh:
    """The mesh with faces counter-clockwise seen from where their normals point."""
    a, b, c = (mesh.vertices.take(column, axis=0) for column in mesh.faces.T)
    first, second, third = (mesh.normals.take(column, axis=0) for column in mesh.faces.T)
    wrong = dot(cross(b - a, c - a), first + second + third) < 0
    return mesh._replace(faces=np.where(wrong[:, None], mesh.faces[:, ::-1], mesh.faces))


class Textures(NamedTuple):
    """All textures and their pyramids in one table."""

    texels: np.ndarray  # uint8[N, 3], sRGB, row by row
    # int32[K, LEVELS, 3]: offset into `texels`, height and width of each level; the last one repeats
    levels: np.ndarray
    # float32[K]: light that a texture sends out, as a factor of its colour; 0 for all but lamps and sky
    glow: np.ndarray


def pack_textures(images: list[np.ndarray], glow: list[float]) -> Textures:
    """The table of images uint8[h, w, 3], sRGB, with one factor of glow each."""
    texels, levels, offset = [], np.zeros((len(images), LEVELS, 3), np.int32), 0
    for number, image in enumerate(images):
        for level in range(LEVELS):
            texels.append(image.reshape(-1, 3))
            levels[number, level] = offset, *image.shape[:2]
            offset += len(texels[-1])
            if image.shape[:2] == (1, 1):
                levels[number, level:] = levels[number, level]
                break
            image = _half(image)
    return Textures(np.concatenate(texels), levels, np.array(glow, np.float32))


def _half(image: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        if image.shape[axis] > 1:
            even = np.take(image, range(0, image.shape[axis] - 1, 2), axis).astype(np.uint16)
            odd = np.take(image, range(1, image.shape[axis], 2), axis)
            image = ((even + odd + 1) // 2).astype(np.uint8)
    return image
