"""Asks a running server by OpenAI's client, and prints the transcript of docs/serving.md.

vega3d serve --device cpu  # in another shell
python recipes/serving_transcript.py http://127.0.0.1:8000/v1
"""

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

from openai import BadRequestError, OpenAI
from PIL import Image

from vega3d.processing.video_vega3d import read_video
from vega3d.questions import SpatialQuestion
from vega3d.shipped import ASSETS, example_clip

CLIPS = ("room", "study")
CLIENTS = 8


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def video(name: str) -> dict:
    return {"type": "video_url", "video_url": {"url": data_url(example_clip(name).read_bytes(), "video/mp4")}}


def first_frame(name: str) -> dict:
    content = BytesIO()
    Image.fromarray(read_video(example_clip(name), 1).frames[0]).save(content, "PNG")
    return {"type": "image_url", "image_url": {"url": data_url(content.getvalue(), "image/png")}}


def worded(row: dict) -> str:
    """A question in the words that the model was trained on."""
    return SpatialQuestion(None, row["question"], row["options"], is_numeric=not row["options"]).prompt


def main(address: str) -> None:
    client = OpenAI(base_url=address, api_key="none")
    [model] = client.models.list().data
    print(f">>> client.models.list()\n{model.id}: {model.notice}")

    def ask(part: dict, text: str, **options):
        messages = [{"role": "user", "content": [part, {"type": "text", "text": text}]}]
        return client.chat.completions.create(model=model.id, messages=messages, **options)

    def written(part: dict, text: str) -> str:
        return ask(part, text).choices[0].message.content

    rows = json.loads((ASSETS / "clips" / "questions.json").read_text())
    counts = [row for row in rows if row["question_type"] == "object_counting"]
    asked = SpatialQuestion(None, "How many chair(s) are in this room?", is_image=True, is_numeric=True).prompt
    print(f"\n>>> an image, the first frame of room: {asked!r}\n{written(first_frame('room'), asked)}")
    for row in counts[:2]:
        answer = ask(video(row["clip"]), worded(row))
        print(f"\n>>> a video, {row['clip']}: {worded(row)!r}")
        print(f"{answer.choices[0].message.content}   (right: {row['answer']}; {answer.choices[0].finish_reason}, "
              f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens)")  # fmt: skip

    print(f"\n>>> as a stream, room: {(asked := 'Where is the bed, from the first frame?')!r}")
    chunks = ask(video("room"), asked, stream=True)
    print(" | ".join(piece for chunk in chunks if (piece := chunk.choices[0].delta.content)))

    asked_at_once = [(video(row["clip"]), worded(row)) for row in rows if not row["marks"]][:CLIENTS]
    alone = [written(*parts) for parts in asked_at_once]
    with ThreadPoolExecutor(CLIENTS) as clients:
        together = list(clients.map(lambda parts: written(*parts), asked_at_once))
    print(f"\n>>> {len(asked_at_once)} clients, one at a time and then at once\n{alone}\n{together}")
    print(f"equal: {together == alone}")

    print("\n>>> what is not supported")
    for refused in ({"logprobs": True}, {"max_tokens": 10**6}):
        try:
            ask(video("room"), "What?", **refused)
        except BadRequestError as error:
            print(f"{error.status_code} {error.body['code']}: {error.body['message']}")
    try:
        ask({"type": "video_url", "video_url": {"url": "/etc/passwd"}}, "What?")
    except BadRequestError as error:
        print(f"{error.status_code} {error.body['code']}: {error.body['message']}")


if __name__ == "__main__":
    main(sys.argv[1])
