"""Padding and opening time of a million conversations at 4,096 tokens, next to the next-fit packing of text.

    python -m benchmarks.pack_conversations

Lengths are lognormal, median 900 tokens, sigma 1. Next-fit, which the stream used before, takes conversations in their order and
opens a sequence when one does not fit; it is measured in the same minute. The tokens of conversations that are split are in
memory here; a cache reads them from its files.
"""

import json
import time
from pathlib import Path

import numpy as np

from dots_jax.data.sequences.conversation_layout import LayoutRule, lay_out

RESULT = Path(__file__).parent / "results" / "pack_conversations.json"
CONVERSATIONS, SEQ_LEN = 1_000_000, 4096


def next_fit(lengths: np.ndarray) -> int:
    """Sequences."""
    ends, start, rows = np.cumsum(lengths), 0, 0
    while start < ends[-1]:
        start = int(ends[np.searchsorted(ends, start + SEQ_LEN, side="right") - 1])
        rows += 1
    return rows


def main() -> None:
    rng = np.random.default_rng(0)
    lengths = np.maximum(8, np.exp(rng.normal(np.log(900), 1, CONVERSATIONS)).astype(int))
    found = {"conversations": CONVERSATIONS, "seq_len": SEQ_LEN}
    exchange = np.arange(200)  # a question of 60 tokens, an answer of 140
    tokens = np.tile(np.where(exchange == 0, 1, 2), lengths.max() // 200 + 1)
    weights = np.tile((exchange > 60).astype(np.uint8), lengths.max() // 200 + 1)
    rules = {"apart": LayoutRule(), "sessions_of_3": LayoutRule(sessions=3), "split": LayoutRule("split")}
    for name, rule in rules.items():
        begin = time.perf_counter()
        layout = lay_out(np.cumsum(lengths), SEQ_LEN, rule, lambda start, size: (tokens[:size], weights[:size]), 1)
        seconds = time.perf_counter() - begin
        padding = 1 - layout.lengths.sum() / (len(layout) * SEQ_LEN)
        found[name] = {"seconds": round(seconds, 2), "padding": round(float(padding), 6), "sequences": len(layout)}
    begin = time.perf_counter()
    fitting = lengths[lengths <= SEQ_LEN]
    rows = next_fit(fitting)
    padding = 1 - fitting.sum() / (rows * SEQ_LEN)
    found["next_fit"] = {"seconds": round(time.perf_counter() - begin, 2), "padding": round(float(padding), 6)}
    found["ratio_of_sequences"] = round(rows / found["apart"]["sequences"], 3)
    print(json.dumps(found, indent=1))
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
