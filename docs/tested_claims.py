"""A hook of MkDocs: fills `<!-- tested claims -->` from the docstrings of tests/, and `<!-- include: FILE -->` from a file.

A claim is a line `Claim: ...` in the docstring of a test module or of a test. `python docs/tested_claims.py` prints the page.
Tests are read as text and never imported. Standard library only.
"""

import ast
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CLAIM = re.compile(r"^Claim: (.+?)(?=\n\s*(?:Claim:|\n)|\Z)", re.S | re.M)


class Module(NamedTuple):
    """A test module. tests: (sentence, slow) of each test."""

    path: str
    summary: str
    claims: list[tuple[str, bool]]
    tests: list[tuple[str, bool]]


def is_slow(node: ast.AST) -> bool:
    return any("mark.slow" in ast.unparse(one) for one in getattr(node, "decorator_list", ()))


def claims_of(docstring: str | None) -> list[str]:
    return [" ".join(claim.split()) for claim in CLAIM.findall(docstring or "")]


def sentence(test: ast.FunctionDef) -> str:
    """The first line of the test's docstring, or its name as words."""
    docstring = ast.get_docstring(test)
    if docstring and not docstring.startswith("Claim:"):
        return " ".join(docstring.split("\n\n")[0].split())
    return test.name.removeprefix("test_").replace("_", " ")


def read_module(path: Path) -> Module:
    tree = ast.parse(path.read_text())
    all_slow = any(isinstance(n, ast.Assign) and "mark.slow" in ast.unparse(n) for n in tree.body)
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    docstring = ast.get_docstring(tree) or ""
    claims = [(claim, all_slow) for claim in claims_of(docstring)]
    claims += [(claim, all_slow or is_slow(t)) for t in tests for claim in claims_of(ast.get_docstring(t))]
    return Module(
        str(path.relative_to(ROOT)),
        " ".join(docstring.split("\n\n")[0].split()),
        claims,
        [(sentence(test), all_slow or is_slow(test)) for test in tests],
    )


def modules() -> list[Module]:
    return [read_module(path) for path in sorted((ROOT / "tests").rglob("test_*.py"))]


def claims_table() -> str:
    """The claims alone, as rows of a table."""
    rows = [
        f"| {claim.rstrip('.')} | `{module.path}`{' (slow)' if slow else ''} |"
        for module in modules()
        for claim, slow in module.claims
    ]
    return "\n".join(["| claim | test |", "| --- | --- |", *rows])


def page() -> str:
    parts = [claims_table(), "\n## Every test\n"]
    room = ""
    for module in modules():
        here = Path(module.path).parent.name
        if here != room:
            room = here
            parts.append(f"\n### {room}\n")
        parts.append(f'\n??? note "{Path(module.path).name}: {module.summary.replace(chr(34), chr(39))}"\n')
        lines = [f"* {escape(words)}{' *(slow)*' if slow else ''}" for words, slow in module.tests]
        parts.append(textwrap.indent("\n".join(lines) or "No tests of its own.", "    "))
    return "\n".join(parts)


def escape(words: str) -> str:
    return re.sub(r"([*_<>\[\]])", r"\\\1", words)


def included(name: str) -> str:
    """A file of the repository as part of a page: its title goes, since the page has one, and links are to the repository."""
    text = (ROOT / name).read_text()
    text = re.sub(r"\A# .*\n", "", text)
    text = re.sub(r"^([^\s*|#-].*)\n([*-] )", r"\1\n\n\2", text, flags=re.M)  # a list needs a blank line before it here
    return re.sub(r"\]\((?!https?:|#)(?:docs/)?([^)]+\.md[^)]*)\)", r"](\1)", text)


def on_page_markdown(markdown: str, **unused) -> str:
    """Called by MkDocs for each page."""
    markdown = markdown.replace("<!-- tested claims -->", page()) if "<!-- tested claims -->" in markdown else markdown
    return re.sub(r"<!-- include: (\S+) -->", lambda match: included(match[1]), markdown)


if __name__ == "__main__":
    print(page())
