"""A hook of MkDocs: fills `<!-- settings -->` with a table for each class of dots_jax/config/: field, type, default, comment.

Read as text, so that a comment next to a field is its documentation, and nothing is imported. Standard library only.
"""

import ast
import io
import tokenize
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "dots_jax" / "config"
NO_SETTINGS = ("records",)  # values that others are made of
FIRST = ("training", "curriculum", "model", "compute", "mesh", "data", "curation", "commands")  # the order of the page


def comments(text: str) -> dict[int, str]:
    """Line number -> the comment on it."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def cell(words: str) -> str:
    return words.replace("|", "\\|")


def class_table(node: ast.ClassDef, comment: dict[int, str]) -> str:
    rows = []
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            said = " ".join(comment[i] for i in range(field.lineno, field.end_lineno + 1) if i in comment)
            kind = cell(ast.unparse(field.annotation))
            default = f"`{cell(ast.unparse(field.value))}`" if field.value else "required"
            default = "its own" if default == f"`{kind}()`" else default
            rows.append(f"| `{field.target.id}` | `{kind}` | {default} | {cell(said)} |")
    docstring = "\n".join(line.strip() for line in (ast.get_docstring(node) or "").splitlines())
    columns = "| setting | type | default | |\n| --- | --- | --- | --- |\n"
    return f"## {node.name}\n\n{docstring}\n\n" + columns + "\n".join(rows) + "\n"


def settings() -> str:
    paths = sorted(CONFIG.glob("*.py"), key=lambda path: (*FIRST, path.stem).index(path.stem))
    parts = []
    for path in (path for path in paths if path.stem not in NO_SETTINGS):
        text = path.read_text()
        classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.decorator_list]
        # The class that a command reads comes last in its file, and first on the page.
        parts += [class_table(node, comments(text)) for node in reversed(classes)]
    return "\n".join(parts)


def on_page_markdown(markdown: str, **unused) -> str:
    """Called by MkDocs for each page."""
    return markdown.replace("<!-- settings -->", settings()) if "<!-- settings -->" in markdown else markdown


if __name__ == "__main__":
    print(settings())
