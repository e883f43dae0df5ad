"""Conversations: the template, what of it is learned, and how it comes to the model.

Claim: conversations have the text, tokens and learned tokens of transformers' `apply_chat_template`.
"""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
from golden import make_chat
from golden.make_chat import CONVERSATIONS

from dots_jax.config import UserError
from dots_jax.data import evaluation
from dots_jax.data.cache import token_cache
from dots_jax.data.cache.build import write_file
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.cache.token_format import FORMAT, Manifest
from dots_jax.data.cache.token_stream import TokenStream
from dots_jax.data.corpus import open_validation
from dots_jax.data.sequences import packing
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.data.sources.chat_task import ChatTask, add_chat_task
from dots_jax.data.sources.documents import Document
from dots_jax.data.sources.text_task import BYTES, DocumentsSource, register_text_task
from dots_jax.data.tokenizers import chat
from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary

GOLDEN = json.loads(make_chat.GOLDEN.read_text())
TASK = "chat_test"


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(make_chat.tokenizer_json())
    return TokenizerVocabulary(path)


@pytest.fixture
def add_task(vocab):
    """Registers TASK over records."""
    names = []

    def add(records, name=TASK, **kwargs):
        records = [record if isinstance(record, str) else json.dumps(record) for record in records]
        add_chat_task(name, DocumentsSource({"train": records, "validation": records}), vocab, field="text", **kwargs)
        names.append(name)

    yield add
    for name in names:
        seqio.TaskRegistry.remove(name)


# --- the template -----------------------------------------------------------------------------------------------------


def test_the_golden_file_is_of_these_conversations():
    assert [row["messages"] for row in GOLDEN] == CONVERSATIONS and len(GOLDEN) == 20


@pytest.mark.parametrize("row", GOLDEN, ids=range(20))
def test_text_and_tokens_are_those_of_transformers(row, vocab):
    chat.check(row["messages"])
    assert chat.render(row["messages"]) == row["text"]
    assert chat.render(row["messages"], add_generation_prompt=True) == row["prompt"]
    ids, weights = chat.encode(row["messages"], vocab)
    assert vocab.decode(ids) == row["text"]
    if "ids" in row:
        assert ids == row["ids"] and weights == row["learned"]


def test_the_assistants_words_are_learned(vocab):
    """Written out by hand."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "好🦊"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": ""},
    ]
    ids, weights = chat.encode(messages, vocab)
    learned = [i for i, weight in zip(ids, weights) if weight]
    end = vocab.special_id("<|endofresponse|>")
    assert learned == [*vocab.encode("好🦊"), end, end]
    assert vocab.decode(ids) == (
        "<|system|>Be brief.<|endofsystem|><|userprompt|>你好<|endofuserprompt|><|response|>好🦊<|endofresponse|>"
        "<|userprompt|>more<|endofuserprompt|><|response|><|endofresponse|>"
    )


def test_contents_that_spell_special_tokens_stay_letters(vocab):
    (row,) = [row for row in GOLDEN if "ids" not in row]
    ids, _ = chat.encode(row["messages"], vocab)
    special = [i for i in ids if i in {vocab.special_id(token) for token in (*chat.CHAT_TOKENS, "<|endoftext|>")}]
    assert special == [
        vocab.special_id(token) for role in ("system", "user", "assistant") for token in chat.TURNS[role]
    ]
    assert vocab.decode(ids) == row["text"]


@pytest.mark.slow
def test_the_golden_file_now():
    """And our own Jinja template, as transformers renders it."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    ours = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(make_chat.tokenizer_json()), chat_template=chat.JINJA
    )
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(make_chat.tokenizer_json()), chat_template=make_chat.TEMPLATE
    )
    for row in GOLDEN:
        for tokenizer in (ours, theirs):
            assert tokenizer.apply_chat_template(row["messages"], tokenize=False) == row["text"]
            prompt = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
            assert prompt == row["prompt"]
        assert "ids" not in row or theirs(row["text"])["input_ids"] == row["ids"]


# --- records that are malformed ---------------------------------------------------------------------------------------

GOOD = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
MALFORMED = {
    "{not json": "it is not JSON",
    '{"role": "user"}': "it is not a list of messages",
    "[]": "it is not a list of messages",
    "null": "it is not a list of messages",
    '["hello"]': "message 0 is not an object",
    '[{"role": "bot", "content": "x"}]': "message 0 has the role 'bot', not one of system, user, assistant",
    '[{"content": "x"}]': "message 0 has the role None",
    '[{"role": ["user"], "content": "x"}]': "message 0 has the role",
    '[{"role": "user", "content": 7}]': "message 0 has no text as its content",
    '[{"role": "user", "content": "x"}]': "it has no turn of the assistant",
    json.dumps([*GOOD, {"role": "system", "content": "x"}]): "message 2 is a system message",
}


@pytest.mark.parametrize("record", MALFORMED)
def test_a_malformed_record_is_named(add_task, tmp_path, record):
    add_task([GOOD, GOOD, record])
    with pytest.raises(UserError) as error:
        open_stream(TASK, "train", tmp_path)
    sentence = str(error.value)
    assert (
        sentence.startswith(f"Task '{TASK}': 1 of 3 records of split 'train' are malformed") and "record 3" in sentence
    )
    assert "\n" not in sentence and sentence.endswith("raise the limit.") and "in field 'text'" in sentence
    assert not list(tmp_path.rglob("manifest.json"))
    (shown,) = [
        json.loads(line) for path in tmp_path.rglob("malformed.jsonl") for line in path.read_text().splitlines()
    ]
    assert (shown["record"], shown["field"]) == (3, "text") and shown["begins"].startswith(MALFORMED[record])
    dataset = seqio.TaskRegistry.get(TASK).get_dataset(None, "train", shuffle=False)
    with pytest.raises(tf.errors.OpError, match="record 2 .from 0."):  # stock seqio has no place to count it
        list(dataset)


def test_a_malformed_record_is_left_out(add_task, vocab, tmp_path):
    add_task([GOOD] * 150 + ['[{"role": "user", "content": null}]'] + [GOOD] * 50)
    manifest = open_stream(TASK, "train", tmp_path).manifest
    assert manifest.documents == 200
    assert manifest.malformed == {"in field 'text' a message has no text as its content": 1}


def test_half_a_surrogate_pair_is_no_text_of_a_message():
    with pytest.raises(chat.MalformedConversation, match="message 1 has half of a surrogate pair"):
        chat.check([{"role": "user", "content": "a"}, {"role": "assistant", "content": "\ud83d"}])


def test_what_a_task_needs(vocab, tmp_path):
    source = DocumentsSource({"train": ["x"]})
    with pytest.raises(UserError, match="set DataConfig.tokenizer"):
        add_chat_task("chat_bytes", source, BYTES)
    add_chat_task("chat_field", source, vocab, field="messages")
    try:
        with pytest.raises(UserError, match="looks for messages in the field 'messages'.*their fields are text"):
            open_stream("chat_field", "train", tmp_path)
    finally:
        seqio.TaskRegistry.remove("chat_field")


# --- to the model -----------------------------------------------------------------------------------------------------


def conversations_of(rows):
    """The segments of packed sequences as (tokens, targets, weights)."""
    found = []
    for row in rows:
        for segment in range(1, row["segments"].max() + 1):
            here = row["segments"] == segment
            assert row["positions"][here].tolist() == list(range(here.sum()))
            found.append((row["tokens"][here].tolist(), row["targets"][here].tolist(), row["weights"][here].tolist()))
    return found


@pytest.mark.parametrize("seq_len", [30, 100, 1000])
def test_whole_conversations_with_their_weights(add_task, vocab, tmp_path, seq_len):
    answered = [
        messages for messages in CONVERSATIONS if any(m["content"] for m in messages if m["role"] == "assistant")
    ]
    assert len(answered) == len(CONVERSATIONS) - 1
    add_task(answered)
    stream = open_stream(TASK, "train", tmp_path)
    rows = [stream.sequence(i, seq_len) for i in range(stream.num_sequences(seq_len))]
    expected = {}
    for messages in answered:
        ids, weights = chat.encode(messages, vocab)
        # Of each place, whether what comes after it is learned; after the end token comes another conversation.
        expected[(*ids, vocab.eos_id)] = [*weights[1:], 0, 0]
    parts = conversations_of(rows)
    fitting = {document: weights for document, weights in expected.items() if len(document) <= seq_len}
    assert sorted(tuple(tokens) for tokens, _, _ in parts) == sorted(fitting)
    for tokens, targets, weights in parts:
        assert weights == fitting[tuple(tokens)]
        assert targets[:-1] == tokens[1:]
    left_out = stream.layout(seq_len).left_out
    assert sum(left_out.values()) == len(expected) - len(fitting) and set(left_out) <= {"longer than a sequence"}


def test_mixed_with_text_in_batches(add_task, vocab, tmp_path):
    add_task([GOOD] * 5)
    register_text_task("chat_text_test", {"train": ["some plain text " * 20]}, vocab)
    seqio.MixtureRegistry.add("chat_mixture_test", [(TASK, 3.0), ("chat_text_test", 1.0)])
    try:
        sequences = MixtureSequences("chat_mixture_test", 16, seed=0, cache_dir=tmp_path)
        assert sequences.counts(40) == {TASK: 30, "chat_text_test": 10}
        batch = sequences.rows(range(40))
        assert {name: values.dtype for name, values in batch.items()} == packing.FEATURES
        conversation = (batch["tokens"] == vocab.special_id("<|response|>")).any(axis=1)
        assert conversation.sum() == 30
        assert set(batch["weights"][conversation].sum(axis=1)) == {2, 4}  # "b" and its end, once or twice a sequence
    finally:
        seqio.MixtureRegistry.remove("chat_mixture_test")
        seqio.TaskRegistry.remove("chat_text_test")


def test_only_what_is_learned_is_scored(add_task, vocab, tmp_path):
    add_task([GOOD] * 3)

    def score(batch):
        return batch["weights"].sum(-1) * 2.0, batch["weights"].sum(-1)

    got = evaluation.evaluate_task(TASK, "validation", 16, 4, tmp_path, score)
    assert (got["tokens"], got["bytes"], got["loss"]) == (6, 3, 2.0)  # "b" and its end token, three times
    assert got["too_long"] == 0
    baselines = evaluation.byte_baselines(TASK, "validation", 16, tmp_path)
    assert baselines["unigram"] == 0  # every learned byte is "b"


def test_what_is_too_long_to_be_scored_is_counted(add_task, vocab, tmp_path, capsys):
    add_task([GOOD, [*GOOD[:-1], GOOD[-1] | {"content": "b" * 20}], GOOD])
    open_validation(TASK, 16, tmp_path)
    said = "of the 3 conversations of split 'validation', 1 are not scored: longer than a sequence of 16 tokens."
    assert said in capsys.readouterr().err
    score = lambda batch: (batch["weights"].sum(-1), batch["weights"].sum(-1))  # noqa: E731
    got = evaluation.evaluate_task(TASK, "validation", 16, 4, tmp_path, score)
    assert (got["tokens"], got["too_long"]) == (4, 1)
    open_validation(TASK, 64, tmp_path)
    assert "not scored" not in capsys.readouterr().err
    with pytest.raises(UserError, match="all 3 conversations of split 'validation' are longer than a sequence of 4"):
        open_validation(TASK, 4, tmp_path)


def test_a_task_that_turned_into_one_of_conversations_does_not_take_the_old_cache(add_task, vocab, tmp_path):
    register_text_task(TASK, {"train": [json.dumps(GOOD)], "validation": [json.dumps(GOOD)]}, vocab)
    open_stream(TASK, "train", tmp_path)
    seqio.TaskRegistry.remove(TASK)
    add_task([GOOD])
    with pytest.raises(UserError, match="was not one of conversations: delete"):
        open_stream(TASK, "train", tmp_path)


def test_weights_through_chunks_of_any_size(tmp_path):
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 259, rng.integers(1, 40)) for _ in range(30)]
    weights = [rng.integers(0, 2, len(document)).astype(np.uint8) for document in documents]
    for chunk_tokens in (1, 7, 8, 100):
        directory = tmp_path / str(chunk_tokens)
        directory.mkdir()
        files = []
        for start in range(0, len(documents), 7):
            here = [Document(*pair) for pair in zip(documents[start : start + 7], weights[start : start + 7])]
            row = {"name": f"tokens-{start}.array_record", "tokens": sum(len(d.tokens) for d in here)}
            files.append(
                row | {"documents": len(here)} | write_file(directory / row["name"], here, "<u2", chunk_tokens)
            )
        Manifest(
            format=FORMAT, task="t", split="train", source="s", fingerprint=None, vocabulary="bytes", eos_id=1,
            token_dtype="<u2", chunk_tokens=chunk_tokens, document_order_seed=0, weighted=True,
            documents=len(documents), tokens=sum(map(len, documents)), bytes=None, malformed={}, files=files,
        ).write(directory)  # fmt: skip
        stream = TokenStream(directory)
        tokens, ends, bits = stream._read(0, stream.num_tokens)
        np.testing.assert_array_equal(bits, np.concatenate(weights))
        np.testing.assert_array_equal(tokens, np.concatenate(documents))
        for seq_len in (5, 16, 64):
            rows = [stream.sequence(i, seq_len) for i in range(stream.num_sequences(seq_len))]
            # The first place of a document is given, the last predicts nothing.
            expected = [
                (document.tolist(), np.append(one[1:], 0).tolist())
                for document, one in zip(documents, weights)
                if len(document) <= seq_len
            ]
            assert sorted((tokens, bits) for tokens, _, bits in conversations_of(rows)) == sorted(expected)


def test_weights_must_fit_their_tokens(vocab, tmp_path):
    odd = ChatTask(
        "chat_odd",
        source=DocumentsSource({"train": ["x"]}),
        preprocessors=[lambda ds: ds.map(lambda ex: {"targets": [5, vocab.eos_id], "weights": [1]})],
        output_features={"targets": seqio.Feature(vocab)},
    )
    seqio.TaskRegistry.add_provider("chat_odd", odd)
    try:
        with pytest.raises(UserError, match="weights"):
            token_cache.open_stream("chat_odd", "train", tmp_path)
    finally:
        seqio.TaskRegistry.remove("chat_odd")
