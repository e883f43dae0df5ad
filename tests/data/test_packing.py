"""Concatenate and split: every token of every document exactly once, with loss, in order.

Claim: every token of every document is a target exactly once, in order.
"""

import numpy as np
import pytest
import seqio

from dots_jax.data.cache.build import write_file
from dots_jax.data.cache.token_format import FORMAT, Manifest
from dots_jax.data.cache.token_stream import TokenStream
from dots_jax.data.sequences import packing
from dots_jax.data.sources.documents import Document

VOCABULARY = seqio.ByteVocabulary()
EOS = VOCABULARY.eos_id


def random_documents(rng, seq_len):
    """Without their end tokens; the awkward kinds first, then random ones."""
    awkward = [
        [],
        [5],
        [0] * 7,
        [0],
        [],
        [EOS] * 4,
        [7, EOS, 9, EOS],
        rng.integers(0, 259, 3 * seq_len + 2).tolist(),
        [EOS, 0, EOS],
    ]
    others = [rng.integers(0, 259, rng.integers(0, 2 * seq_len)).tolist() for _ in range(rng.integers(0, 12))]
    documents = awkward + others
    rng.shuffle(documents)
    return [np.array(document, np.int64) for document in documents]


def stream_of(documents, directory, chunk_tokens, documents_per_file=5):
    directory.mkdir()
    ended = [np.append(document, EOS).astype(np.int64) for document in documents]
    files = []
    for start in range(0, len(ended), documents_per_file):
        here, name = ended[start : start + documents_per_file], f"tokens-{start}.array_record"
        files.append({"name": name, "documents": len(here), "tokens": sum(map(len, here))})
        files[-1] |= write_file(directory / name, map(Document, here), "<u2", chunk_tokens)
    Manifest(
        format=FORMAT, task="t", split="train", source="test", fingerprint=None, vocabulary="bytes", eos_id=EOS,
        token_dtype="<u2", chunk_tokens=chunk_tokens, document_order_seed=0, weighted=False, documents=len(ended),
        tokens=sum(map(len, ended)), bytes=None, malformed={}, files=files,
    ).write(directory)  # fmt: skip
    return TokenStream(directory)


@pytest.mark.parametrize(
    "seq_len, chunk_tokens", [(1, 4), (2, 3), (5, 64), (8, 8), (16, 5), (31, 7), (64, 16), (500, 37)]
)
def test_every_token_once_with_loss_in_order(tmp_path, seq_len, chunk_tokens):
    for trial in range(6):
        rng = np.random.default_rng([trial, seq_len, chunk_tokens])
        documents = random_documents(rng, seq_len)
        stream = stream_of(documents, tmp_path / str(trial), chunk_tokens)
        rows = [stream.sequence(i, seq_len) for i in range(stream.num_sequences(seq_len))]
        check_rows(rows, documents, seq_len)


def check_rows(rows, documents, seq_len):
    expected_targets = np.concatenate([np.append(document, EOS) for document in documents])
    expected_tokens = np.concatenate([np.insert(document, 0, EOS) for document in documents])
    expected_document = np.concatenate([np.full(len(document) + 1, i) for i, document in enumerate(documents)])
    together = {name: np.concatenate([row[name] for row in rows]) for name in packing.FEATURES}
    real = together["weights"] == 1
    n = len(expected_targets)
    assert real[:n].all() and not real[n:].any() and len(real) - n < seq_len  # padding only at the very end
    np.testing.assert_array_equal(together["targets"][:n], expected_targets)
    np.testing.assert_array_equal(together["tokens"][:n], expected_tokens)
    for name in ("tokens", "targets", "segments", "positions"):
        assert not together[name][n:].any()
    for number, row in enumerate(rows):
        for name, dtype in packing.FEATURES.items():
            assert row[name].dtype == dtype and row[name].shape == (seq_len,)
        of = expected_document[number * seq_len : (number + 1) * seq_len]
        segments, positions = row["segments"][: len(of)], row["positions"][: len(of)]
        np.testing.assert_array_equal(segments, 1 + np.cumsum(np.diff(of, prepend=of[0]) != 0))
        for segment in np.unique(segments):
            np.testing.assert_array_equal(positions[segments == segment], np.arange((segments == segment).sum()))


def test_one_sequence_by_hand():
    # ... 6 | 7 EOS, (empty) EOS, 8 9 (goes on)
    row = packing.pack(np.array([6, 7, EOS, EOS, 8, 9]), np.array([1, 2]), 6)
    assert row["tokens"].tolist() == [6, 7, EOS, EOS, 8, 0]
    assert row["targets"].tolist() == [7, EOS, EOS, 8, 9, 0]
    assert row["segments"].tolist() == [1, 1, 2, 3, 3, 0]
    assert row["positions"].tolist() == [0, 1, 0, 0, 1, 0]
    assert row["weights"].tolist() == [1, 1, 1, 1, 1, 0]


def test_pack_refuses_too_many_or_no_targets():
    for n in (0, 4):
        with pytest.raises(ValueError):
            packing.pack(np.zeros(n + 1, int), np.array([], int), 3)


def test_pad_rows():
    batch = packing.stack([packing.pack(np.array([1, 5, 6]), np.array([1]), 2)])
    padded = packing.pad_rows(batch, 3)
    assert all(values.shape == (3, 2) and not values[1:].any() for values in padded.values())
    assert all(padded[name].dtype == dtype for name, dtype in packing.FEATURES.items())
    assert packing.pad_rows(padded, 3) is padded


def test_windows_are_slices_of_the_stream(tmp_path):
    rng = np.random.default_rng(0)
    documents = random_documents(rng, 20)
    stream = stream_of(documents, tmp_path / "c", chunk_tokens=11)
    complete, ends = stream.window(0, stream.num_tokens)
    np.testing.assert_array_equal(complete, np.concatenate([np.append(d, EOS) for d in documents]))
    np.testing.assert_array_equal(ends, np.cumsum([len(d) + 1 for d in documents]) - 1)
    for _ in range(300):
        start = rng.integers(0, stream.num_tokens)
        length = rng.integers(1, stream.num_tokens - start + 1)
        tokens, offsets = stream.window(start, length)
        np.testing.assert_array_equal(tokens, complete[start : start + length])
        np.testing.assert_array_equal(offsets, [e - start for e in ends if start <= e < start + length])
    for start, length in ((-1, 2), (0, 0), (stream.num_tokens, 1), (0, stream.num_tokens + 1)):
        with pytest.raises(ValueError):
            stream.window(start, length)
    assert stream.num_documents == len(documents)
