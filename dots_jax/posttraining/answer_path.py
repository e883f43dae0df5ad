"""When two right answers to a question are the same path: the RFT paper (arXiv 2308.01825) keeps one of each list of equations."""

import ast
import re
import unicodedata
import warnings

from dots_jax.evaluation.scoring.answer_text import half_width

EQUATION = re.compile(r"[\d.,()+\-*/×÷^%$ xX]*[+\-*/×÷^xX][\d.,()+\-*/×÷^%$ xX]*=\s*\$?-?[\d.,]*\d")
SIGNS = str.maketrans({"×": "*", "÷": "/", "x": "*", "X": "*", "$": "", " ": "", ",": ""})


def answer_path(text: str, program: str | None = None) -> str:
    """What makes an answer another one: its equations in their order, or its words where it has none; of a program, its syntax
    tree, without comments, layout and docstrings."""
    if program is not None:
        return _program_path(program)
    equations = [found.translate(SIGNS) for found in EQUATION.findall(half_width(text))]
    return "; ".join(equations) or normalised(text)


def normalised(text: str) -> str:
    """NFKC, lower case, single spaces, without punctuation at the end of words."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(word.strip(".,;:!?。，；：！？") or word for word in words)


def _program_path(program: str) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(program)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
                node.body = body[1:] or [ast.Pass()]
        return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return normalised(program)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
