"""Draws docs/assets/one_batch.svg, one_token.svg and one_weight.svg: `python docs/diagrams.py`.

Each picture is a column of steps, narrow enough for a phone. The file of a step is a path in dots_jax/, and a test checks
that it exists. Standard library only.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import NamedTuple

ASSETS = Path(__file__).parent / "assets"
WIDTH, MARGIN, LINE = 420, 10, 17
INK, GREY, BLUE, ORANGE, GREEN, PINK = "#1a1a1a", "#5f6368", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
PALE = {BLUE: "#d6e8f4", ORANGE: "#fbe3d3", GREEN: "#d3efe6", PINK: "#f6e3ee"}


class Step(NamedTuple):
    """One box. cells: a strip of small squares under the text, each a colour, or a letter and a colour."""

    title: str
    lines: tuple[str, ...]
    file: str
    colour: str = BLUE
    cells: tuple[tuple[str, str], ...] = ()
    group: str = ""  # of neighbouring steps that stand in one frame with this label


def text(x: float, y: float, words: str, size: int = 12, colour: str = INK, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" {more}>{escape(words)}</text>'


def box_height(step: Step) -> int:
    return 30 + LINE * (len(step.lines) + 1) + (26 if step.cells else 0)


def draw_cells(cells: tuple[tuple[str, str], ...], x: float, y: float, room: float) -> list[str]:
    size = min(26.0, room / len(cells))
    parts = []
    for i, (letter, colour) in enumerate(cells):
        fill = PALE.get(colour, "#ffffff")
        stroke = colour if colour in PALE else "#b8bcc2"
        parts.append(
            f'<rect x="{x + i * size:g}" y="{y:g}" width="{size - 2:g}" height="18" rx="2" fill="{fill}" stroke="{stroke}"/>'
        )
        centre = 'text-anchor="middle"'
        parts.append(text(x + i * size + size / 2 - 1, y + 13, letter, 11, INK, centre))
    return parts


def draw_step(number: int, step: Step, x: float, y: float, width: float) -> list[str]:
    height = box_height(step)
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="#ffffff" stroke="{step.colour}"/>',
        f'<rect x="{x}" y="{y}" width="5" height="{height}" rx="2" fill="{step.colour}"/>',
        text(x + 16, y + 21, f"{number}  {step.title}", 14, INK, 'font-weight="600"'),
    ]
    for i, line in enumerate(step.lines):
        parts.append(text(x + 16, y + 21 + LINE * (i + 1), line, 12, GREY))
    at = y + 21 + LINE * len(step.lines)
    if step.cells:
        parts += draw_cells(step.cells, x + 16, at + 8, width - 32)
        at += 26
    parts.append(text(x + 16, at + LINE, step.file, 11, step.colour, 'font-family="ui-monospace, Menlo, monospace"'))
    return parts


def column(title: str, steps: tuple[Step, ...]) -> str:
    y, parts, frames, previous = MARGIN, [], [], ""
    for number, step in enumerate(steps, start=1):
        if step.group != previous and step.group:
            frames.append([step.group, y, 0])
            y += 26
        if step.group:
            frames[-1][2] = y + box_height(step) + 10
        inset = 10 if step.group else 0
        parts += draw_step(number, step, MARGIN + inset, y, WIDTH - 2 * MARGIN - 2 * inset)
        y += box_height(step)
        last_of_group = step.group and (number == len(steps) or steps[number].group != step.group)
        y += 10 if last_of_group else 0
        if number < len(steps):
            middle = WIDTH / 2
            parts.append(
                f'<path d="M{middle} {y} v12 m-4 -5 l4 5 l4 -5" fill="none" stroke="{GREY}" stroke-width="1.5"/>'
            )
        y += 18
        previous = step.group
    behind = []
    for label, top, bottom in frames:
        behind.append(
            f'<rect x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{bottom - top}" rx="8" fill="#f4f6f8" '
            f'stroke="#b8bcc2" stroke-dasharray="4 3"/>'
        )
        behind.append(text(MARGIN + 12, top + 18, label, 12, GREY, 'font-weight="600"'))
    height = y - 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fbfbfc"/>\n' + "\n".join(behind + parts) + "\n</svg>\n"
    )


def cells(letters: str, colours: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((letter, colours.get(letter, "")) for letter in letters)


def one_batch() -> str:
    documents = cells("aaaaabbbbbbbcccc", {"a": BLUE, "b": ORANGE, "c": GREEN})
    return column(
        "One batch, from text to a training step",
        (
            Step("Schedule", ("step n: its stage, sequence numbers, learning rate",), "curriculum/stages.py"),
            Step("Order", ("(seed, sequence number): task, epoch, window",), "data/sequences/order.py"),
            Step("Token cache", ("any window of a task's token stream, int32 [T]",), "data/cache/token_stream.py"),
            Step(
                "Packing",
                (
                    "documents a, b, c in one sequence, cut at its end",
                    "tokens, targets, positions, segments, weights [T]",
                ),
                "data/sequences/packing.py",
                cells=documents,
            ),
            Step("Prefetch", ("the next batch is read while the device works",), "parallel/prefetch.py"),
            Step(
                "Place on the mesh",
                ("global arrays [B, T]: rows over data x fsdp x expert,", "pieces of a sequence over context"),
                "parallel/batches.py",
                ORANGE,
            ),
            Step(
                "Train step",
                (
                    "loss and gradients, summed over microbatches; clip;",
                    "AdamW; then one sign step of the router biases",
                ),
                "training/step.py",
                ORANGE,
            ),
            Step("Metrics", ("read while the next step runs; one row of JSON",), "training/metrics.py", GREEN),
            Step("Checkpoint", ("arrays, and the data position: one integer",), "checkpoint/store.py", GREEN),
        ),
    )


def one_token() -> str:
    experts = cells("01234567890123456789", {})
    chosen = {1, 4, 7, 11, 14, 18}
    strip = tuple(("", ORANGE if i in chosen else "") for i, _ in enumerate(experts))
    layers = "61 layers, one lax.scan"
    return column(
        "One token, from its id to its loss",
        (
            Step("Embedding", ("id in [0, 152064): hidden state of 4096",), "model/transformer.py"),
            Step("Layer 0", ("attention and a dense SwiGLU of 10944",), "model/transformer.py"),
            Step(
                "Attention",
                (
                    "norm; 32 heads of 128 with QK norm and rotary positions;",
                    "it sees earlier tokens of its own document",
                ),
                "model/attention.py",
                GREEN,
                group=layers,
            ),
            Step(
                "Router, in float32",
                ("scores = sigmoid(x w); the six largest of score + bias;", "gates = those scores, sum 1, times 2.5"),
                "model/router.py",
                PINK,
                group=layers,
            ),
            Step(
                "Six of 128 experts",
                (
                    "copies sorted by expert; a grouped matmul on those rows;",
                    "gated sum of the six. No token is dropped",
                ),
                "model/experts/strategy.py",
                ORANGE,
                cells=strip,
                group=layers,
            ),
            Step(
                "Two shared experts",
                ("one SwiGLU of 2 x 1408 for every token, added",),
                "model/layers.py",
                ORANGE,
                group=layers,
            ),
            Step(
                "Head",
                ("norm; logits in chunks of tokens; softmax in float32;", "loss of the next token"),
                "model/head.py",
            ),
        ),
    )


def one_weight() -> str:
    mesh = tuple((letter, BLUE) for letter in "01234567")
    return column(
        "One weight, from the hub to the chip and back",
        (
            Step(
                "Safetensors",
                ("experts.5.gate_proj and .up_proj of layer 3,", "[1408, 4096] each, bfloat16"),
                "huggingface/safetensors_read.py",
                PINK,
            ),
            Step(
                "Table of names",
                ("joined and transposed: w_gate_up_EDF[2, 5],", "one slice of [layer, expert, 4096, 2816]"),
                "huggingface/names.py",
                PINK,
            ),
            Step(
                "Checkpoint on disk",
                ("a chunk holds one layer and one expert;", "each array has a checksum"),
                "checkpoint/arrays.py",
                GREEN,
            ),
            Step(
                "Declaration",
                ("logical axes, weight decay, compute dtype, stack:", "declared once, where the layer makes it"),
                "model/parameters.py",
            ),
            Step(
                "Shards on the mesh",
                ("float32, split by the rule table of logical axes:", "each device holds its own part"),
                "parallel/sharding.py",
                cells=mesh,
            ),
            Step(
                "Unshard for one layer",
                ("cast once a step; all-gather over one mesh axis after", "the other, while the layer before computes"),
                "parallel/collectives.py",
                ORANGE,
            ),
            Step("Grouped matmul", ("rows of its tokens times [4096, 2816]",), "kernels/select.py", ORANGE),
            Step(
                "Gradient and update",
                ("reduce-scatter to the shards; AdamW in float32", "on each device's own part"),
                "training/step.py",
                ORANGE,
            ),
            Step("Export", ("the same table, read from right to left",), "huggingface/to_hf.py", PINK),
        ),
    )


PICTURES: dict[str, Callable[[], str]] = {
    "one_batch.svg": one_batch,
    "one_token.svg": one_token,
    "one_weight.svg": one_weight,
}

if __name__ == "__main__":
    ASSETS.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (ASSETS / name).write_text(draw())
