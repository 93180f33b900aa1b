"""Small data of the five benchmarks with the published keys: their own files, published rows, scans, boxes."""

import json
from pathlib import Path

import numpy as np

CHAIR, OTHER_CHAIR, DOOR, DESK = "0", "1", "2", "3"
NAMES = {CHAIR: "office_chair", OTHER_CHAIR: "chair", DOOR: "door", DESK: "desk"}
CLASSES = {"office chair": 5, "chair": 5, "door": 8, "desk": 14, "kettle": 40}
SITUATION = "I am sitting at the desk."


def box_of(scan: int, number: str) -> list[float]:
    return [1.0 * scan + 3 * int(number), 0.5, 1.0, 1.0, 0.5, 2.0]


def write(path: Path, values) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def scan_names(scans: int) -> list[str]:
    return [f"scene{number:04d}_00" for number in range(scans)]


def described(scan: str, number: str, text: str, ann_id: int) -> dict:
    token = text.lower().split()
    return {
        "scene_id": scan,
        "object_id": number,
        "object_name": NAMES[number],
        "ann_id": str(ann_id),
        "description": text,
        "token": token,
    }


def scanrefer(scans: int) -> list[dict]:
    rows = []
    for place, scan in enumerate(scan_names(scans)):
        rows += [
            described(scan, CHAIR, f"this is the Chair of room {place}. it stands near the door.", 0),
            described(scan, CHAIR, "a chair, close to the door", 1),
            described(scan, OTHER_CHAIR, "the other chair by the desk.", 0),
            described(scan, DOOR, f"the white door of room {place}", 0),
        ]
    return rows


def multi3drefer(scans: int) -> list[dict]:
    kinds = [("mt", [0, 1], "the chairs"), ("st_wo_d", [2], "the door"), ("zt_wo_d", [], "the bath tub")]
    return [
        {"scene_id": scan, "object_ids": ids, "object_name": "x", "ann_id": place, "eval_type": kind}
        | {"description": text}
        for scan in scan_names(scans)
        for place, (kind, ids, text) in enumerate(kinds)
    ]


def scanqa(scans: int) -> list[dict]:
    return [
        {
            "scene_id": scan,
            "question_id": f"val-{scan[:9]}-{place}",
            "question": f"What is left of the door in room {place}?",
            "answers": [f"chair number {place}", "a brown chair"],
            "object_ids": [0],
            "object_names": ["chair"],
        }
        for place, scan in enumerate(scan_names(scans))
    ]


def sqa3d(scans: int) -> tuple[dict, dict]:
    asked = [("What is in front of me?", "desk"), ("Is the door open?", "yes"), ("Am I alone?", "no")]
    questions, annotations = [], []
    for place, scan in enumerate(scan_names(scans)):
        for number, (question, answer) in enumerate(asked):
            id = 10 * place + number
            questions.append({"scene_id": scan, "question_id": id, "situation": SITUATION, "question": question})
            questions[-1]["alternative_situation"] = ["At the desk."]
            answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": 1}]
            annotations.append({"question_id": id, "scene_id": scan, "answers": answers, "question_type": "other"})
            annotations[-1] |= {"position": {"x": 0, "y": 0, "z": 0}, "rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1}}
    return {"questions": questions}, {"annotations": annotations}


def boxes_of(scans: int) -> dict:
    return {
        f"scannet/{scan}": [box_of(place, number) for number in NAMES] for place, scan in enumerate(scan_names(scans))
    }


def proposals_of(scans: int) -> dict:
    """Of each scan the boxes without the other chair, and one that is nothing; the door's is too large by far."""
    found = {}
    for place, scan in enumerate(scan_names(scans)):
        door = [*box_of(place, DOOR)[:3], 1.0, 0.5, 6.0]
        found[f"scannet/{scan}"] = [box_of(place, DESK), box_of(place, CHAIR), [9.0, 9.0, 1.0, 0.4, 0.4, 0.4], door]
    return found


def download(folder: Path, scans: int = 3) -> Path:
    """A folder with every benchmark's own file of evaluation, boxes and proposals; no scan is on disk."""
    questions, annotations = sqa3d(scans)
    write(folder / "ScanRefer_filtered_val.json", scanrefer(scans))
    write(folder / "multi3drefer_val.json", multi3drefer(scans))
    write(folder / "ScanQA_v1.0_val.json", scanqa(scans))
    write(folder / "v1_balanced_questions_test_scannetv2.json", questions)
    write(folder / "v1_balanced_sqa_annotations_test_scannetv2.json", annotations)
    write(folder / "objects.json", boxes_of(scans))
    write(folder / "proposals.json", proposals_of(scans))
    lines = ["id\traw_category\tcategory\tcount\tnyu40id"]
    lines += [f"{place}\t{name}\t{name}\t1\t{number}" for place, (name, number) in enumerate(CLASSES.items())]
    (folder / "scannetv2-labels.combined.tsv").write_text("\n".join(lines) + "\n")
    return folder


def published(id, scan: str, question: str, answer: str, kind: str, **more) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    metadata = {"dataset": "x", "question_type": kind, **more.pop("metadata", {})}
    return {"id": id, "video": f"scannet/{scan}", "conversations": turns, "metadata": metadata, **more}


def published_files(folder: Path, scans: int = 3) -> Path:
    """A folder with the same questions as `download`, as rows of `*_llava_style.json`, and proposals."""
    multiple = {CHAIR: "multiple", OTHER_CHAIR: "multiple", DOOR: "unique"}
    places = {scan: place for place, scan in enumerate(scan_names(scans))}
    identify = "<image>Identify the object according to the following description.\n"
    several = "\nThere may be no corresponding object, or there may be one or more objects."
    rows: dict[str, list] = {"scanrefer": [], "multi3drefer": [], "scan2cap": [], "scanqa": [], "sqa3d": []}
    own = scanrefer(scans)
    for id, row in enumerate(own):
        scan, number = row["scene_id"], row["object_id"]
        box, words = box_of(places[scan], number), row["description"].capitalize()
        rows["scanrefer"].append(published(id, scan, identify + words, "<ground>", multiple[number], box=box))
        captions = [other["description"] for other in own if (other["scene_id"], other["object_id"]) == (scan, number)]
        if captions[0] == row["description"]:
            question = "<image> Given an object located at <coord> , describe the object in detail."
            given = {CHAIR: box, OTHER_CHAIR: None, DOOR: None}[number]
            more = {"box_input": given, "gt_box": box, "annotations": captions}
            rows["scan2cap"].append(published(id, scan, question, words, multiple[number], **more))
    for id, row in enumerate(multi3drefer(scans)):
        boxes = [box_of(places[row["scene_id"]], str(number)) for number in row["object_ids"]]
        question = identify + row["description"].capitalize() + several
        rows["multi3drefer"].append(published(id, row["scene_id"], question, "<ground>", row["eval_type"], box=boxes))
    for row in scanqa(scans):
        question = f"<image> {row['question']} Answer the question simply."
        answers = {"answers": row["answers"]}
        id = f"{row['question_id']}_0"
        rows["scanqa"].append(published(id, row["scene_id"], question, row["answers"][0], "unknow", metadata=answers))
    questions, annotations = sqa3d(scans)
    for row, answer in zip(questions["questions"], annotations["annotations"], strict=True):
        question = f"<image> {SITUATION} {row['question']} Answer the question using a single word or phrase."
        kind = {"W": "what", "I": "is", "A": "others"}[row["question"][0]]
        text = answer["answers"][0]["answer"]
        rows["sqa3d"].append(published(row["question_id"], row["scene_id"], question, text, kind))
    for name, values in rows.items():
        write(folder / f"{name}_{'test' if name == 'sqa3d' else 'val'}_llava_style.json", values)
    write(folder / "scannet_val_pred_box.json", proposals_of(scans))
    return folder


def write_scan(folder: Path, alignment: np.ndarray) -> Path:
    """A scan's mesh, segments and aggregation: object 0 has the segments 7 and 8, object 4 the segment 9."""
    folder.mkdir(parents=True)
    name = folder.name
    points = np.array([[0, 0, 0], [1, 2, 3], [5, 5, 5], [6, 5, 7], [9, 9, 9]])
    vertices = np.zeros(len(points), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgba", "u1", 4)])
    vertices["x"], vertices["y"], vertices["z"] = points.T
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 5\nproperty float x\nproperty float y\n"
    header += "property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
    header += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    (folder / f"{name}_vh_clean_2.ply").write_bytes(header.encode() + vertices.tobytes())
    write(folder / f"{name}_vh_clean_2.0.010000.segs.json", {"segIndices": [7, 8, 9, 9, 3]})
    groups = [{"objectId": 0, "label": "chair", "segments": [7, 8]}, {"objectId": 4, "label": "door", "segments": [9]}]
    write(folder / f"{name}.aggregation.json", {"segGroups": groups})
    numbers = " ".join(str(value) for value in alignment.reshape(-1).tolist())
    (folder / f"{name}.txt").write_text(f"axisAlignment = {numbers} \ncolorHeight = 968\n")
    return folder
