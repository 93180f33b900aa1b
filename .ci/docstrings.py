"""Lint of docstrings: each begins with a sentence that says what the thing is, and argument lines say something.

python .ci/docstrings.py src research
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:", "Yields:", "Example:")
ARGUMENT = re.compile(r"^ +(\w+): (.+(?:\n {12,}.+)*)", re.MULTILINE)
EMPTY = "a an and as at by for from in is it its of on that the their these this to with"
DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sections(docstring: str) -> Iterator[str]:
    """The texts below `Args:` and `Attributes:`."""
    for match in re.finditer(r"^ *(?:Args|Attributes):\n((?: *\S.*\n?)+)", docstring, re.MULTILINE):
        yield match[1]


def says_nothing(name: str, description: str) -> bool:
    """Whether a description holds at most one word beside the argument's own name: "of the model", "the folder"."""
    words = (
        set(re.findall(r"[\w./-]+|\[.*?\]", description.lower())) - set(EMPTY.split()) - set(name.lower().split("_"))
    )
    return len(words) < 2


def complaints(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, DOCUMENTED) or (docstring := ast.get_docstring(node, clean=False)) is None:
            continue
        place = f"{path}:{node.lineno}: {node.name}"
        if docstring.strip().startswith(SECTIONS):
            yield f"{place} does not say what it is: its docstring begins with {docstring.split()[0]!r}"
        for section in sections(docstring):
            for name, description in ARGUMENT.findall(section):
                if says_nothing(name, description):
                    yield f"{place}: the line {f'{name}: {description}'!r} says nothing: say more, or delete it"


def main() -> int:
    files = [file for folder in sys.argv[1:] for file in sorted(Path(folder).rglob("*.py"))]
    found = [complaint for file in files for complaint in complaints(file)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(files)} files, {len(found)} complaints", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
