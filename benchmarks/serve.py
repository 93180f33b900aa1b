"""The second question about a clip against the first, through a running `vega3d serve`.

    vega3d serve --cache-size 1 --device cpu  # in another shell
    OMP_NUM_THREADS=1 python benchmarks/serve.py http://127.0.0.1:8000/v1 --output serve.json

The server holds one clip, and the shipped clips take turns, so the first question about a clip finds nothing in memory
and the second finds it. Each answer is cut at the same number of tokens. Times are the client's: the clip goes as
base64 with each question, is read, encoded, and the answer is waited for.
"""

import argparse
import base64
import platform
import statistics
import time
from pathlib import Path

import openai

import vega3d
from vega3d.files import write_json
from vega3d.shipped import example_clip

CLIPS = ("room", "study")
QUESTIONS = ("How many chair(s) are in this room?", "How many lamp(s) are in this room?")


def seconds(client: openai.OpenAI, model: str, part: dict, question: str) -> float:
    content = [part, {"type": "text", "text": question}]
    began = time.perf_counter()
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}], max_tokens=1)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="that `vega3d serve --cache-size 1` prints")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.address, api_key=options.api_key, timeout=600)
    model = client.models.list().data[0].id
    clips = []
    for name in CLIPS:
        url = f"data:video/mp4;base64,{base64.b64encode(example_clip(name).read_bytes()).decode()}"
        clips.append({"type": "video_url", "video_url": {"url": url}})
    times: list[list[float]] = [[], []]
    for repeat in range(options.repeats + 1):
        for part in clips:
            for number, question in enumerate(QUESTIONS):
                took = seconds(client, model, part, question)
                if repeat:  # the first round warms up
                    times[number].append(took)
    first, second = map(statistics.median, times)
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    spread = f"from {ratios[0]:.1f} to {ratios[-1]:.1f} over {len(ratios)} pairs"
    print(f"first question {first:.2f} s, second {second:.2f} s")
    print(f"ratio of each pair: median {statistics.median(ratios):.1f}, {spread}")
    if options.output is not None:
        results = {
            "command": "python benchmarks/serve.py",
            "model": model,
            "hardware": platform.processor() or platform.machine(),
            "vega3d": vega3d.__version__,
            "first_seconds": times[0],
            "second_seconds": times[1],
        }
        write_json(options.output, results)


if __name__ == "__main__":
    main()
