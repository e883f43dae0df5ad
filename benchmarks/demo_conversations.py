"""Conversations about the Python library, for gin/sft_tiny.gin: what a function does, as its docstring begins.

    python -m benchmarks.demo_conversations --output=runs/conversations.jsonl

One row of `messages` for each public function and class with a docstring. Nothing is imported or downloaded.
"""

import argparse
import ast
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

from dots_jax.data.sources.python_stdlib import library_files
from dots_jax.storage import atomic_write

LONGEST = 300  # characters of an answer


def conversations() -> Iterator[dict]:
    for name, text in library_files():
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in strings
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue
        for path, docstring in _docstrings(tree, module):
            answer = " ".join(docstring.split("\n\n")[0].split())
            if 10 <= len(answer) <= LONGEST:
                question = {"role": "user", "content": f"What does {path} do?"}
                yield {"messages": [question, {"role": "assistant", "content": answer}]}


def _docstrings(tree: ast.AST, path: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            here = f"{path}.{node.name}"
            if docstring := ast.get_docstring(node):
                yield here, docstring
            yield from _docstrings(node, here)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="the .jsonl to write")
    flags = parser.parse_args()
    Path(flags.output).parent.mkdir(parents=True, exist_ok=True)
    rows = list(conversations())
    with atomic_write(flags.output) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows):,} conversations in {flags.output}")


if __name__ == "__main__":
    main()
