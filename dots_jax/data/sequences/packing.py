"""Concatenate and split: a slice of a token stream becomes one training sequence. Pure numpy.

A stream is its documents one after the other, each closed by the end token: `d1 EOS d2 EOS ...`. Sequence w of length
T has as targets the stream at [w*T, (w+1)*T) and as inputs the same stream one place earlier, with EOS before the first
token. So EOS is what the model reads at the start of each document, every token of every document (its EOS too) is a
target exactly once, nothing is dropped and only the last sequence of a stream can hold padding.

Streams with weights (conversations) are cut otherwise, see conversation_layout.py and `pack_weighted`: a document's first
token is given and not learned, so nothing comes before it, and a document that fits one sequence is never cut.

Where documents begin comes from the explicit `document_ends`, never from ids: 0 and EOS may be ordinary tokens.
"""

import numpy as np

Batch = dict[str, np.ndarray]

FEATURES = {
    "tokens": np.int32,  # what the model reads
    "targets": np.int32,  # what it must predict, aligned with tokens
    "positions": np.int32,  # from 0 within each segment
    "segments": np.int32,  # from 1 within the sequence; 0 is padding
    "weights": np.float32,  # 1 where the target counts, 0 on padding and on what is given
}


def num_sequences(stream_tokens: int, seq_len: int) -> int:
    """Sequences that hold a stream of that many tokens (end tokens included); the last may be partly padding."""
    return -(-stream_tokens // seq_len)


def pack(tokens: np.ndarray, document_ends: np.ndarray, seq_len: int) -> Batch:
    """One packed sequence.

    Args:
      tokens: int [n + 1], the slice's n <= seq_len targets after the token that precedes them in the stream (EOS when
        the slice opens the stream).
      document_ends: rising int [m], offsets in 0..n-1 of the *targets* that close a document.
      seq_len: T.

    Returns: FEATURES, each [T].
    """
    n = len(tokens) - 1
    if not 0 < n <= seq_len:
        raise ValueError(f"pack: {n} targets do not fit a sequence of {seq_len}.")
    out = empty(seq_len)
    out["tokens"][:n] = tokens[:-1]
    out["targets"][:n] = tokens[1:]
    out["weights"][:n] = 1
    _number(out, np.asarray(document_ends, np.int64), n)
    return out


def pack_weighted(tokens: np.ndarray, weights: np.ndarray, document_ends: np.ndarray, seq_len: int) -> Batch:
    """One packed sequence of a stream whose tokens have weights. Its segments are the documents themselves, or several that see
    each other, from position 0, as the model reads a conversation when it is used.

    Args:
      tokens: int [n + 1], the slice's n <= seq_len inputs and the token that follows them in the stream (any, at its end).
      weights: 0 or 1 [n + 1], of the same tokens; that of a document's first token counts for nothing.
      document_ends: rising int [m], offsets in 0..n-1 of the *inputs* that close a segment.
      seq_len: T.

    Returns: FEATURES, each [T].
    """
    n = len(tokens) - 1
    if not 0 < n <= seq_len:
        raise ValueError(f"pack_weighted: {n} inputs do not fit a sequence of {seq_len}.")
    out = empty(seq_len)
    out["tokens"][:n] = tokens[:-1]
    out["targets"][:n] = tokens[1:]
    out["weights"][:n] = weights[1:]
    ends = np.asarray(document_ends, np.int64)
    out["weights"][ends] = 0  # what follows is another document's
    _number(out, ends, n)
    return out


def _number(out: Batch, ends: np.ndarray, n: int) -> None:
    """Segments and positions of n places, of which those in `ends` are the last of theirs."""
    begins = ends + 1
    begins = np.concatenate([[0], begins[begins < n]])
    lengths = np.diff(begins, append=n)
    out["segments"][:n] = np.repeat(np.arange(1, len(begins) + 1), lengths)
    out["positions"][:n] = np.arange(n) - np.repeat(begins, lengths)


def empty(*shape: int) -> Batch:
    """FEATURES of that shape, all padding."""
    return {name: np.zeros(shape, dtype) for name, dtype in FEATURES.items()}


def stack(rows: list[Batch]) -> Batch:
    """Sequences [T] -> one batch [len(rows), T]."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def pad_rows(batch: Batch, num_rows: int) -> Batch:
    """The batch with padding rows added up to num_rows; a full batch is returned as it is."""
    have, seq_len = batch["tokens"].shape
    if have == num_rows:
        return batch
    padding = empty(num_rows - have, seq_len)
    return {name: np.concatenate([batch[name], padding[name]]) for name in padding}
