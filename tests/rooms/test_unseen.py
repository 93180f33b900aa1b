"""`test_unseen`: furniture and styles that no other split has, in rooms that keep the rules of all rooms."""

import importlib.util
import io
import itertools
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("embreex")
pytest.importorskip("fast_simplification")

import test_rooms

from vega3d.rooms import CLASSES, KINDS, SPLITS, furniture_for, load_furniture, sample_scene, scene_seed
from vega3d.rooms.scene.classes import VETTED, VETTED_UNSEEN
from vega3d.rooms.scene.furniture import PACK
from vega3d.rooms.scene.layout import Layout, kinds_for
from vega3d.rooms.scene.room import sample_room
from vega3d.rooms.scene.styles import FAMILIAR, STYLES, UNSEEN

LIBRARIES = Path(__file__).parents[1] / "fixtures" / "furniture"
RECIPE = Path(__file__).parents[2] / "recipes" / "pack_furniture.py"
OBJECTS = [
    "BlendSwap-CC-BY/chair3",
    "BlendSwap-CC-BY/table",
    "KatorLegaz/bullet-trash-can",
    "KatorLegaz/fridge",
    "Scopia/armchair1",
    "Scopia/saloon_table",
]
SEEN_ONLY = set(VETTED) - set(VETTED_UNSEEN)


def identifiers_of(table):
    return [identifier for identifiers in table.values() for identifier in identifiers]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("pack_furniture", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pack(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "unseen.npz"
    recipe.pack(LIBRARIES, path, "cc-by", OBJECTS)
    return path


@pytest.fixture(scope="module")
def furniture(pack):
    """The classes of the unseen pack, from the CC0 pack but for what the fixture has."""
    packed = load_furniture(pack)
    return packed + [item for item in load_furniture() if item.name not in SEEN_ONLY | {item.name for item in packed}]


@pytest.fixture(scope="module")
def scenes(furniture):
    kinds = kinds_for(furniture)
    return [sample_scene(scene_seed("test_unseen", number), furniture, kind) for number, kind in enumerate(kinds)]


def deb_of(folder, path):
    """A .deb with the folder's files: an `ar` archive of two members, the first of odd length."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        archive.add(folder, "./usr/share/sweethome3d/furniture")
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (("debian-binary", b"2.0"), ("data.tar.xz", data.getvalue())):
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))


def test_packed_objects_have_their_size_and_face_forwards(recipe, pack):
    items = {item.identifier: item for item in load_furniture(pack)}
    libraries = recipe.open_libraries(LIBRARIES)

    assert sorted(items) == OBJECTS
    for identifier, item in items.items():
        library, _, model = identifier.partition("/")
        entry = recipe.read_catalogue(libraries[library])[model]
        size = [float(entry[edge]) / 100 for edge in ("width", "depth", "height")]
        np.testing.assert_allclose(item.size, size, atol=0.006)
        assert item.name in CLASSES and item.identifier in VETTED_UNSEEN[item.name]
    for seat in ("BlendSwap-CC-BY/chair3", "Scopia/armchair1"):
        vertices = items[seat].model.mesh.vertices
        assert vertices[vertices[:, 2] > 0.7 * items[seat].size[2], 1].mean() > 0.1  # the back rest is behind


def test_large_meshes_become_small_and_small_ones_stay(recipe, pack):
    libraries = recipe.open_libraries(LIBRARIES)
    for identifier, item in zip(OBJECTS, load_furniture(pack), strict=True):
        library, _, model = identifier.partition("/")
        path = recipe.read_catalogue(libraries[library])[model]["model"].lstrip("/")
        before = sum(len(part.faces) for part in recipe.read_parts(libraries[library], path))
        after = len(item.model.mesh.faces)
        assert 0.9 * min(before, recipe.FACES) <= after <= min(before, 1.05 * recipe.FACES), identifier


def test_simplified_sheets_keep_their_borders_and_texture(recipe):
    """A seam is a border; if borders moved, the mesh would tear there."""
    u, v = (axis.reshape(-1) for axis in np.meshgrid(np.linspace(0, 1, 25), np.linspace(0, 1, 25)))
    number = np.arange(625).reshape(25, 25)
    quads = np.stack([number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]], axis=-1).reshape(-1, 4)
    vertices = np.stack([u, v, 0.05 * np.sin(3 * u)], axis=1) * 1000
    sheet = recipe.Part(
        vertices, quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3), np.stack([u, v], axis=1), (0, 0, 0), "x"
    )

    result = recipe.simplified(sheet, 300)

    assert len(result.faces) <= 301
    border = vertices[(u * v == 0) | (u == 1) | (v == 1)]
    assert (np.abs(border[:, None] - result.vertices).max(axis=2).min(axis=1) < 1e-3).all()
    assert np.abs(result.uv - result.vertices[:, :2] / 1000).max() < 0.06
    assert (result.vertices >= vertices.min(axis=0) - 1e-3).all()
    assert (result.vertices <= vertices.max(axis=0) + 1e-3).all()


def test_the_same_input_gives_the_same_bytes(recipe, pack, tmp_path):
    deb_of(LIBRARIES, tmp_path / "furniture.deb")
    recipe.pack(tmp_path / "furniture.deb", tmp_path / "again.npz", "cc-by", OBJECTS)

    assert (tmp_path / "again.npz").read_bytes() == pack.read_bytes()
    with zipfile.ZipFile(pack) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_texture_coordinates_that_float16_cannot_hold_are_mended(recipe, pack):
    library = recipe.open_libraries(LIBRARIES)["Scopia"]
    parts = recipe.read_parts(library, "scopia/saloon_table/saloon_table.obj")
    assert any(part.uv is not None and np.abs(part.uv).max() > np.finfo(np.float16).max for part in parts)

    with np.load(pack) as archive:
        uv = [archive[name] for name in archive.files if name.endswith("_uv")]
    assert len(uv) == 2 and all(np.abs(array).max() <= recipe.TILES for array in uv)


def test_every_creator_is_named(pack):
    lines = pack.with_name("unseen_ATTRIBUTION.txt").read_text().splitlines()
    for source, creator, licence in (
        ("Scopia/scopia/armchair1/armchair1.obj", "Scopia", "licenses/by/3.0/"),
        ("BlendSwap-CC-BY/blendswap-cc-by/chair3/chair3.obj", "MatBot", "licenses/by/3.0/"),
        ("KatorLegaz/katorlegaz/fridge/fridge.obj", "Kator Legaz", "licenses/by/3.0/us/"),
    ):
        (line,) = [line for line in lines if source in line]
        assert creator in line and licence in line


def test_no_object_is_both_seen_and_unseen():
    assert not set(identifiers_of(VETTED)) & set(identifiers_of(VETTED_UNSEEN))
    assert len(set(identifiers_of(VETTED_UNSEEN))) == len(identifiers_of(VETTED_UNSEEN))
    assert set(VETTED_UNSEEN) <= set(CLASSES)
    assert {item.identifier for item in load_furniture(PACK)} == set(identifiers_of(VETTED))


def test_each_split_gets_its_own_furniture(pack):
    assert [item.identifier for item in furniture_for("test_unseen", pack)] == OBJECTS
    for split in SPLITS[:3]:
        assert len(furniture_for(split)) == len(furniture_for(split, PACK)) == 93
        with pytest.raises(ValueError, match=rf"6 of 6 .* kept for test_unseen, but the split is {split}"):
            furniture_for(split, pack)
    with pytest.raises(ValueError, match=r"recipes/pack_furniture\.py"):
        furniture_for("test_unseen")
    with pytest.raises(ValueError, match=r"93 of 93 .* not kept for test_unseen"):
        furniture_for("test_unseen", PACK)


def test_styles_share_nothing():
    assert tuple(STYLES) == SPLITS and [STYLES[split] is UNSEEN for split in SPLITS] == [False, False, False, True]
    assert not set(UNSEEN.floors + UNSEEN.wallpapers) & set(FAMILIAR.floors + FAMILIAR.wallpapers)
    assert set(UNSEEN.builders) == set(FAMILIAR.builders)
    assert not set(UNSEEN.builders.values()) & set(FAMILIAR.builders.values())
    assert set(UNSEEN.palettes) == set(FAMILIAR.palettes)
    for name, colours in UNSEEN.palettes.items():
        assert not set(colours) & set(FAMILIAR.palettes[name]), name
    assert UNSEEN.ratios[0] > FAMILIAR.ratios[1]


@pytest.mark.parametrize("name", list(UNSEEN.builders))
def test_built_things_stand_on_the_origin(name):
    for seed in range(8):
        mesh, images = UNSEEN.builders[name](np.random.default_rng(seed))
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        np.testing.assert_allclose([*(low + high)[:2], low[2]], 0, atol=1e-6)
        assert (high - low < 3).all() and mesh.texture.max() < len(images)
        np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("material", UNSEEN.floors + UNSEEN.wallpapers)
def test_patterns_show_at_both_ends_of_the_pyramid(material):
    """A pattern is neither flat nor so dark or bright that light does not show on it."""
    first, second = (material(np.random.default_rng(seed)) for seed in (0, 1))
    assert first.image.dtype == np.uint8 and first.image.shape == (256, 256, 3) and 0.5 <= first.edge <= 3.5
    assert first.image.std(axis=(0, 1)).max() > 1.5 and 30 < first.image.mean() < 250
    assert (first.image != second.image).any()
    np.testing.assert_array_equal(first.image, material(np.random.default_rng(0)).image)


@pytest.mark.parametrize(
    "check",
    [
        test_rooms.test_boxes_are_the_boxes_of_the_meshes,
        test_rooms.test_everything_is_inside_the_room,
        test_rooms.test_nothing_interpenetrates,
        test_rooms.test_things_on_top_touch_what_carries_them,
        test_rooms.test_rooms_can_be_walked,
    ],
)
def test_unseen_rooms_keep_the_rules_of_all_rooms(scenes, check):
    check(scenes)


def test_unseen_rooms_have_the_unseen_style(scenes, furniture):
    familiar = [sample_scene(scene_seed("test", number), furniture) for number in range(3)]
    for scene, style in [(scene, UNSEEN) for scene in scenes] + [(scene, FAMILIAR) for scene in familiar]:
        skirting = scene.textures.texels[scene.textures.levels[3, 0, 0]]
        np.testing.assert_array_equal(skirting, style.skirting[0, 0])
        assert style.ratios[0] - 0.02 <= scene.room.size[0] / scene.room.size[1] <= style.ratios[1] + 0.02


def test_things_are_built_in_the_style_of_the_room(furniture):
    room = sample_room(np.random.default_rng(0), (20, 30))
    for style in (FAMILIAR, UNSEEN):
        piece = Layout(room, furniture, np.random.default_rng(1), style).piece("door")
        built = style.builders["door"](np.random.default_rng(1))  # the pack has no door, so that none is drawn
        np.testing.assert_array_equal(piece.model.mesh.vertices, built.mesh.vertices)


def test_what_the_pack_lacks_is_left_out(scenes, furniture):
    to_be_had = {item.name for item in furniture} | set(UNSEEN.builders)
    assert {"teddy bear", "chandelier", "headphones"} <= SEEN_ONLY
    sources = {item.source for item in furniture} | {"built"}
    for item in itertools.chain.from_iterable(scene.objects for scene in scenes):
        assert item.name in to_be_had and item.source in sources
    assert all(any(item.name == "ceiling light" for item in scene.objects) for scene in scenes)
    assert set(KINDS) - {scene.kind for scene in scenes} == {"games room"}


def test_unseen_rooms_have_enough_for_questions(scenes):
    for scene in scenes:
        names = [item.name for item in scene.objects]
        assert len(names) >= 8 and sum(names.count(name) == 1 for name in names) >= 5, scene.kind


def test_furniture_that_furnishes_nothing_is_refused(furniture):
    seed = scene_seed("test_unseen", 0)
    with pytest.raises(ValueError, match=r"only \['chair'\], which furnish no room.*recipes/pack_furniture.py"):
        sample_scene(seed, [item for item in furniture if item.name == "chair"])
    with pytest.raises(ValueError, match="no 'pool table' for a games room"):
        sample_scene(seed, furniture, "games room")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.deb", "cc-by", OBJECTS), "There is no .*absent.deb"),
        (("text.deb", "cc-by", OBJECTS), "neither a folder nor a .deb"),
        (("", "cc-by", OBJECTS), r"no library \(.sh3f\)"),
        ((LIBRARIES, "cc-by", ["Scopia/sofa"]), r"\['Scopia/sofa'\] are no vetted objects"),
        ((LIBRARIES, "cc-by", None), "has no .* Name what it has with --objects"),
        ((LIBRARIES, "cc0", OBJECTS), "no vetted objects with licence cc0"),
    ],
)
def test_bad_input_to_the_packer_is_refused(recipe, tmp_path, arguments, message):
    (tmp_path / "text.deb").write_text("no archive")
    source, licence, objects = arguments
    with pytest.raises(ValueError, match=message):
        recipe.pack(tmp_path / source, tmp_path / "pack.npz", licence, objects)
    assert not (tmp_path / "pack.npz").exists()
