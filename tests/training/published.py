"""Written rows of published data sets, with their keys, and small media beside them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from training_data import write_clip

SIZE = (160, 120)  # width and height [px]


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))


def chat(question: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def spar_rows() -> list[dict]:
    """As `spar_234k.json` has them: marks on three images, a box on one, and a type without marks."""
    frames = [f"spar/scannet/images/scene0012_01/image_color/{number}.jpg" for number in (2626, 3321, 133)]
    points = {"red_point": [[395, 89]], "blue_point": [[494, 620]], "green_point": [[878, 737]]}
    info = {**points, "point_img_idx": [[0, 2, 1]], "type": "depth_prediction_oo_mv"}
    return [
        {
            "id": "scene0012_01_1661",
            "conversations": chat("<image>\n<image>\n<image>\nHow deep is the chair (green point)?", "1.5"),
            "images": frames,
            "spar_info": json.dumps(info),
        },
        {
            "id": "scene0012_01_7",
            "conversations": chat("<image>\nHow large is the box (red bbox)?", "0.2"),
            "images": frames[:1],
            "spar_info": json.dumps({"red_bbox": [[250, 250, 500, 750]], "type": "spatial_volume_infer"}),
        },
        {
            "id": "scene0012_01_9",
            "conversations": chat("<image>\n<image>\nHow does the camera move?", "forward"),
            "images": frames[:2],
            "spar_info": json.dumps({"type": "view_change_infer"}),
        },
    ]


def hound_rows() -> list[dict]:
    """As `llava_hound_64k.json` has them."""
    return [
        {
            "id": "23230678_1",
            "conversations": chat("<video>\nWhat is the contrast?", "A handgun on documents."),
            "data_source": "llava_hound",
            "video": "llava_hound/frames/23230678",
        }
    ]


def vlm3r_rows() -> list[dict]:
    """As the files of `vsibench_train` have them: `<image>` stands for the video."""
    return [
        {
            "id": "7",
            "conversations": chat("<image>\nThese are frames of a video.\nHow many chairs are in this room?", "4"),
            "data_source": "scannet",
            "scene_name": "scene0000_00",
            "question_type": "object_counting",
            "video": "scannet/videos/scene0000_00.mp4",
        }
    ]


def vsi590k_rows() -> list[dict]:
    """As `vsi_590k.jsonl` has them: one of `video` and `image`, and `<image>` for both."""
    return [
        {
            "conversations": chat("<image>\nThese are frames of a video.\nHow large is this room?", "23.1"),
            "question_type": "absolute_size_room",
            "video": "scannet/scene0000_00.mp4",
        },
        {
            "conversations": chat("<image>\nHow far is the desk?", "1.2"),
            "question_type": "absolute_distance_object",
            "image": "procthor/1.jpg",
        },
    ]


def llava_rows() -> list[dict]:
    """As LLaVA's files have them: a turn after another, text without media, several images."""
    first = chat("<image>\nWhat is it?", "A room.") + chat("Which colour?", "Grey.")
    return [
        {"id": "a", "image": "procthor/1.jpg", "conversations": first},
        {"id": "b", "conversations": chat("Hello", "Hello.")},
        {"id": "c", "video": "scannet/scene0000_00.mp4", "conversations": chat("<video>\nWhere?", "Here.")},
    ]


PUBLISHED = {  # format -> the file that is published, its rows
    "spar": ("spar_234k.json", spar_rows),
    "llava_hound": ("llava_hound_64k.json", hound_rows),
    "vlm3r": ("merged_qa_scannet_train.json", vlm3r_rows),
    "vsi590k": ("vsi_590k.jsonl", vsi590k_rows),
    "llava": ("llava.json", llava_rows),
}


def write_media(root: Path) -> Path:
    """All that the rows above name, below `root`."""
    for number, path in enumerate(
        [
            *spar_rows()[0]["images"],
            *(f"llava_hound/frames/23230678/c01_{n:04}.jpeg" for n in range(5)),
            "procthor/1.jpg",
        ]
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / path, "JPEG")
    for seed, path in enumerate(("scannet/videos/scene0000_00.mp4", "scannet/scene0000_00.mp4")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write_clip(root / path, seed)
    return root


def write_rows(path: Path, rows: list[dict]) -> Path:
    """A list in a `.json`, one row a line in a `.jsonl`."""
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


def write_shard(path: Path, files: dict[str, bytes | str | dict | Image.Image]) -> Path:
    """A tar with these files in order; a name ends in `#` as often as it is to be told from another."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            if isinstance(content, dict):
                content = json.dumps(content)
            if isinstance(content, Image.Image):
                buffer = io.BytesIO()
                content.save(buffer, "PNG")
                content = buffer.getvalue()
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name.rstrip("#"))
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path
