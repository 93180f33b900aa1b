"""Ships an exported checkpoint as the embedded model: its files, its scores, and the examples of the README.

python -m research.tiny.ship runs/vega3d-tiny --results runs/all/study/results.json

Run it in a checkout; then read the diff, run the tests and commit. Of the texts only what a program can say is
rewritten: answers, and the size. Some minutes on two cores.
"""

import argparse
import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import vega3d
import vega3d_cli
from research.tiny.study.export import check_sizes
from vega3d.files import LOCK, write_whole
from vega3d.questions import SpatialQuestion
from vega3d.shipped import ASSETS, model_folder

NAME = "vega3d-tiny"
LARGEST_TREE = 43 * 2**20  # bytes of all tracked files, of which the model has 24 and its tests 9
README, MAKEFILE = Path("README.md"), Path("Makefile")
SNIPPETS = (("room", "object_rel_distance"), ("study", "object_counting"))  # those of the README, in its order
VERDICT = re.compile(r"  # .+, which is (?:right|wrong)$", re.MULTILINE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of `--stages export`")
    parser.add_argument("--results", type=Path, help="results.json of its study, for the card and the demo")
    parser.add_argument("--rooms", type=int, default=100, help="of the split test, which are asked about")
    parser.add_argument("--workers", type=int, default=2, help="processes that make rooms")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if not README.is_file() or model_folder(NAME) != (Path("src/vega3d/assets") / NAME).resolve():
        raise ValueError("This rewrites files of a checkout. Run it at its root, with its own package.")
    sizes = check_sizes(model_folder(options.checkpoint))
    embed(options.checkpoint)
    recipe = runpy.run_path("recipes/make_scores.py")
    recipe["score_model"](model_folder(NAME), options.results, options.rooms, 8, options.workers)
    rewrite(README, with_answers(README.read_text(encoding="utf-8"), sum(sizes.values())))
    tree = tracked_bytes()
    print(f"{NAME} has {sum(sizes.values()):,} bytes, all tracked files {tree:,} of at most {LARGEST_TREE:,}.")
    if tree > LARGEST_TREE:
        raise ValueError(f"The tracked files have {tree:,} bytes, but at most {LARGEST_TREE:,} are wanted. Drop some.")


def embed(checkpoint: Path) -> None:
    """Puts the files of a checkpoint in the place of those of the embedded model."""
    folder = model_folder(NAME)
    shutil.rmtree(folder)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(LOCK))


def with_answers(readme: str, size: int) -> str:
    """The README with what the model answers to its first command, and in its snippets, right or wrong."""
    [command] = re.findall(r"^ask:.*\n\t\$\(BIN\)/vega3d (.+)$", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    printed = said_by(shlex.split(command))
    readme = re.sub(r"(?<=\nand prints\n\n```\n).*?(?=right: )", lambda _: printed, readme, flags=re.DOTALL)
    readme = re.sub(r"(?<=`vega3d-tiny` takes )\d+(?= MB)", f"{size / 1e6:.0f}", readme)
    session = vega3d.load(NAME, device="cpu")
    verdicts = iter([verdict(session, *example) for example in SNIPPETS])
    return VERDICT.sub(lambda _: next(verdicts), readme)


def said_by(words: list[str]) -> str:
    """What a command writes, without the line that it is loading."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        vega3d_cli.run(words)
    return "".join(line for line in written.getvalue().splitlines(True) if not line.startswith("loading "))


def verdict(session, clip: str, question_type: str) -> str:
    """The comment behind a snippet that asks the first question of a type about a clip."""
    rows = json.loads((ASSETS / "clips" / "questions.json").read_text(encoding="utf-8"))
    row = next(row for row in rows if (row["clip"], row["question_type"]) == (clip, question_type))
    asked = SpatialQuestion(clip, row["question"], row["options"], is_numeric=not row["options"])
    text = session.answer(asked).text
    return f"  # {text}, which is {'right' if text.split('. ')[0] == row['answer'] else 'wrong'}"


def rewrite(file: Path, text: str) -> None:
    write_whole(file, partial(Path.write_text, data=text, encoding="utf-8"))


def tracked_bytes() -> int:
    """Of all files that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], check=True, capture_output=True
    )
    files = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
