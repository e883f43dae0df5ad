"""Vocabularies of tokenizer.json files, and the command that trains one.

Claim: any text comes back from its tokens, and no text becomes a special token.
"""

import gzip
import json
import pickle
import random
import unicodedata

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import seqio
import tensorflow as tf
import zstandard

from dots_jax.cli.main import main
from dots_jax.config import Source, UserError
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.sources import json_lines, text_task
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.tokenizers import training as tokenizer_training
from dots_jax.data.tokenizers import vocabulary
from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary
from dots_jax.data.tokenizers.tokenizer_file import SPECIAL_TOKENS
from dots_jax.data.tokenizers.training import LeftOut

TEXTS = [
    "def f(x):\n    return x ** 2  # 你好,世界\n",
    "The quick brown fox doesn't jump 1234 times. " * 20,
    "naïve café 🦊🦊",
]
VOCAB_SIZE = 320


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tokenizer_training.train_tokenizer(TEXTS * 10, VOCAB_SIZE).to_str())
    return path


@pytest.fixture(scope="module")
def vocab(file):
    return TokenizerVocabulary(file)


def random_text(rng):
    """Characters of every kind: ASCII, controls, Chinese, emoji, combining marks, and any of Unicode."""
    kinds = [
        lambda: chr(rng.randrange(32, 127)), lambda: chr(rng.randrange(32)), lambda: chr(rng.randrange(0x4E00, 0x9FFF)),
        lambda: chr(rng.randrange(0x1F300, 0x1FAFF)), lambda: chr(rng.randrange(0x300, 0x370)), lambda: rng.choice("\r\n\t  "),
        lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
        lambda: rng.choice(SPECIAL_TOKENS), lambda: rng.choice(["'s", "e\u0301", "\u200d", "\x00", "return ", "123"]),
    ]  # fmt: skip
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(60)))


def test_any_text_comes_back(vocab):
    rng = random.Random(0)
    texts = ["", "\x00", "\ufeff", "\U0010ffff", *TEXTS, *SPECIAL_TOKENS, *(random_text(rng) for _ in range(500))]
    pieces = vocab.token_bytes()
    specials = {vocab.special_id(name) for name in SPECIAL_TOKENS}
    for text, ids in zip(texts, vocab.encode_batch(texts), strict=True):
        normal = unicodedata.normalize("NFC", text)
        assert ids == list(vocab.encode(text)) and not specials & set(ids)
        assert vocab.decode(ids) == normal
        assert b"".join(pieces[i] for i in ids) == normal.encode()


def test_ids(vocab):
    assert vocab.vocab_size == VOCAB_SIZE and len(vocab.token_bytes()) == VOCAB_SIZE
    assert [vocab.special_id(name) for name in SPECIAL_TOKENS] == list(range(VOCAB_SIZE - 7, VOCAB_SIZE))
    assert vocab.eos_id == vocab.pad_id == VOCAB_SIZE - 7
    assert vocab.encode("!") == [0]  # a real token, where seqio's own vocabularies have padding
    assert vocab.decode([0, vocab.eos_id, 0]) == "!<|endoftext|>"
    assert vocab.decode([0, VOCAB_SIZE, 10**6]) == "!\ufffd\ufffd"  # of the model's padded rows
    assert all(len(vocab.encode(digits)) == len(digits) for digits in ("1234", "20"))
    assert all(piece == b"" for piece in vocab.token_bytes()[-7:])


def test_half_a_surrogate_pair_is_no_character(vocab):
    assert vocab.decode(vocab.encode("a\ud800b")) == "a\ufffdb"
    assert vocab.encode_batch(["a\ud800b"]) == [vocab.encode("a\ufffdb")]


def test_in_tf_data(vocab):
    texts = [text.encode() for text in [*TEXTS, "", "<|endoftext|>"]] + [b"\xff broken"]
    dataset = tf.data.Dataset.from_tensor_slices(texts).map(vocab.encode_tf)
    assert dataset.element_spec == tf.TensorSpec([None], tf.int32)
    for text, ids in zip(texts, dataset.as_numpy_iterator(), strict=True):
        assert ids.tolist() == vocab.encode(text.decode("utf-8", "replace"))
        assert vocab.decode_tf(tf.constant(ids)).numpy() == vocab.decode(ids.tolist()).encode()
    batch = tf.constant([[0, 0, vocab.eos_id, 0], [0, 0, 0, 0]])
    assert vocab.decode_tf(batch).numpy().tolist() == [b"!!<|endoftext|>", b"!!!!"]


def test_a_task_with_it(vocab, tmp_path):
    text_task.register_text_task("tokenizer_test", {"train": TEXTS, "validation": [""]}, vocab)
    try:
        stream = open_stream("tokenizer_test", "train", tmp_path)
        assert stream.eos_id == vocab.eos_id and stream.num_bytes == sum(len(text.encode()) for text in TEXTS)
        assert stream.manifest.vocabulary == vocabulary.identity(vocab)
        tokens, ends = stream.window(0, stream.num_tokens)
        documents = [vocab.decode(d[:-1].tolist()) for d in np.split(tokens, ends + 1)[:-1]]
        assert sorted(documents) == sorted(TEXTS)
    finally:
        seqio.TaskRegistry.remove("tokenizer_test")


def test_identity_is_of_the_file(vocab, file, tmp_path):
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    same.write_bytes(file.read_bytes())
    other.write_text(tokenizer_training.train_tokenizer(TEXTS[1:] * 10, VOCAB_SIZE).to_str())
    assert vocabulary.identity(TokenizerVocabulary(same)) == vocabulary.identity(vocab)
    assert TokenizerVocabulary(same) == vocab == pickle.loads(pickle.dumps(vocab)) != TokenizerVocabulary(other)
    assert vocabulary.identity(TokenizerVocabulary(other)) != vocabulary.identity(vocab)
    assert vocab.sha256[:12] in vocabulary.identity(vocab)


# --- files that cannot serve ------------------------------------------------------------------------------------------


def changed(file, tmp_path, change):
    fields = json.loads(file.read_text())
    change(fields)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(fields))
    return path


def rename(fields, old, new):
    next(token for token in fields["added_tokens"] if token["content"] == old)["content"] = new


BAD = {
    "no end": (lambda f: rename(f, "<|endoftext|>", "<|other|>"), r"has no special token '<\|endoftext\|>'"),
    "twice": (lambda f: rename(f, "<|system|>", "<|endoftext|>"), r"no id of its own for .* '<\|endoftext\|>'"),
    "shared id": (lambda f: f["added_tokens"][1].update(id=5), "shares id 5"),
    "not bytes": (lambda f: f["model"]["vocab"].update({"▁the": 9999}), "not a byte-level BPE"),
    "a byte too few": (lambda f: f["model"].update(vocab={"a": 0}, merges=[]), "not a byte-level BPE|no Hugging Face"),
    "no added tokens": (lambda f: f.pop("added_tokens"), "no Hugging Face tokenizer.json"),
    "no id": (lambda f: f["added_tokens"][0].pop("id"), "no Hugging Face tokenizer.json"),
    "no model": (lambda f: f.pop("model"), "no Hugging Face tokenizer.json"),
}


@pytest.mark.parametrize("change", BAD)
def test_a_file_that_cannot_serve(file, tmp_path, change):
    break_it, message = BAD[change]
    with pytest.raises(UserError, match=message) as error:
        TokenizerVocabulary(changed(file, tmp_path, break_it))
    assert "changed.json" in str(error.value) and "\n" not in str(error.value) and "train_tokenizer" in str(error.value)


@pytest.mark.parametrize(
    "content, message", [(None, "no tokenizer file"), ("{", "no Hugging Face"), ("[1]", "no Hugging Face")]
)
def test_a_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        TokenizerVocabulary(path)
    with pytest.raises(UserError, match="cannot be read"):
        TokenizerVocabulary(tmp_path)


def test_chat_tokens_are_asked_for_when_needed(file, tmp_path):
    vocab = TokenizerVocabulary(changed(file, tmp_path, lambda f: rename(f, "<|system|>", "<|im_start|>")))
    with pytest.raises(UserError, match=r"has no special token '<\|system\|>'"):
        vocab.special_id("<|system|>")


def test_special_tokens_that_the_file_forgot_to_mark(file, tmp_path):
    path = changed(file, tmp_path, lambda f: [token.update(special=False) for token in f["added_tokens"]])
    vocab = TokenizerVocabulary(path)
    assert vocab.eos_id not in vocab.encode("a<|endoftext|>b") and vocab.token_bytes()[vocab.eos_id] == b""


def test_the_files_own_ids_count(file, tmp_path, vocab):
    """The library numbers added tokens in its own way when the file's ids have a gap."""
    path = changed(file, tmp_path, lambda f: [token.update(id=token["id"] + 100) for token in f["added_tokens"]])
    gap = TokenizerVocabulary(path)
    assert gap.eos_id == vocab.eos_id + 100 and gap.vocab_size == VOCAB_SIZE + 100 == len(gap.token_bytes())
    assert gap.decode([gap.special_id("<|system|>"), *gap.encode("x"), gap.eos_id]) == "<|system|>x<|endoftext|>"
    assert gap.encode_batch(TEXTS) == vocab.encode_batch(TEXTS)


def test_cutting_and_padding_of_the_file_are_ignored(file, vocab, tmp_path):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "cuts.json"))
    assert TokenizerVocabulary(tmp_path / "cuts.json").encode_batch(TEXTS) == vocab.encode_batch(TEXTS)


@pytest.mark.slow
def test_equals_transformers(file, vocab):
    """The tokens of text are those of transformers; its Qwen2 class, built of the same merges, agrees with our file."""
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
    model = json.loads(file.read_text())["model"]
    qwen = transformers.Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    rng = random.Random(1)
    for text in [*TEXTS, *(random_text(rng) for _ in range(200))]:
        if not any(name in text for name in SPECIAL_TOKENS):
            assert fast(text)["input_ids"] == qwen(text)["input_ids"] == vocab.encode(text)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*flags):
    return main(["tokenizer", *flags])


def test_the_command_makes_the_same_file_twice(tmp_path, capfd):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text * 30)
    for name in ("one", "two"):
        assert run(f"--files={tmp_path}/*.txt", "--vocab_size=300", f"--output={tmp_path}/new/{name}.json") == 0
    assert (tmp_path / "new/one.json").read_bytes() == (tmp_path / "new/two.json").read_bytes()
    assert "300 ids" in capfd.readouterr().out
    assert TokenizerVocabulary(tmp_path / "new/one.json").vocab_size == 300


def test_the_text_of_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\r\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n{"text": "four\\n", "url": "x"}\n')
    files = tokenizer_training.find_files(f"{tmp_path}/*.jsonl,{tmp_path}/*")
    assert list(tokenizer_training.file_texts(files, LeftOut())) == ["one\r\ntwo\n", "three", "four\n"]


def test_plain_text_is_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "_BLOCK", 7)
    text = "\ufeffone two 你好\nthree four five\r\n\nsix"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    for path in tmp_path.iterdir():
        blocks = list(tokenizer_training.file_texts([str(path)], LeftOut()))
        assert "".join(blocks) == text[1:] and all(block.endswith("\n") for block in blocks[:-1])


ODD = {
    "a byte order mark": b'\xef\xbb\xbf{"text": "a"}\r\n\n',
    "half a surrogate pair": b'{"text": "a"}\n{"text": "\\ud83d"}\n' + b'{"text": "a"}\n' * 100,
    "another kind": b'{"text": 7}\n' + b'{"text": "a"}\n' * 100,
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_what_a_token_cache_takes_trains_a_tokenizer(tmp_path, capfd, odd, ending):
    form = {"gz": gzip.compress, "zst": zstandard.compress}.get(ending.split(".")[-1], bytes)
    (tmp_path / f"a.{ending}").write_bytes(form(ODD[odd]))
    assert run(f"--files={tmp_path}/a.*", "--vocab_size=270", f"--output={tmp_path}/t.json") == 0
    assert ("left out    1 malformed records: 1 times" in capfd.readouterr().out) == (odd != "a byte order mark")


def test_columns_of_any_name(tmp_path, capfd):
    pyarrow.parquet.write_table(pyarrow.table({"content": TEXTS}), tmp_path / "a.parquet")
    arguments = (f"--files={tmp_path}/a.parquet", "--vocab_size=270", f"--output={tmp_path}/t.json")
    assert run(*arguments, "--field=content") == 0
    assert run(*arguments) == 2
    assert "no field 'text'" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.txt.gz", "a.txt"])
def test_what_is_no_text_is_named(tmp_path, capfd, name):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    cut = {"zst": zstandard.compress(b"x" * 99)[:-3], "gz": gzip.compress(b"x" * 99)[:-3], "txt": pointer}
    (tmp_path / name).write_bytes(cut[name.split(".")[-1]])
    assert run(f"--files={tmp_path}/a.*", "--vocab_size=270", f"--output={tmp_path}/t.json") == 2
    assert f"{name} cannot be read to its end" in capfd.readouterr().err


def test_the_command_on_a_task(tmp_path):
    text_task.register_text_task("tokenizer_train_test", {"train": TEXTS, "validation": []})
    found = tokenizer_training.task_texts("tokenizer_train_test", "train", str(tmp_path), LeftOut())
    assert list(found) == TEXTS
    assert run("--task=tokenizer_train_test", "--vocab_size=280", f"--output={tmp_path}/t.json") == 0
    expected = tokenizer_training.train_tokenizer(TEXTS, 280).to_str(pretty=True)
    assert (tmp_path / "t.json").read_text() == expected + "\n"


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "Missing --output"),
        (("--output=x.json", "--vocab_size=100"), "too small: 256 bytes and 7 special tokens are 263"),
        (("--output=x.json", "--files=/nowhere/*.txt"), "No file fits --files=/nowhere"),
        (("--output=x.json", "--task=nothing"), "No seqio task is named 'nothing'"),
        (("--output=x.json", "--files={empty}"), "There is no text in"),
        (("--output=x.json", "--files={binary}"), "it is not UTF-8 text"),
        (("--output=x.json", "--files={lines.jsonl}"), "1 times no field 'text' (the first of these is"),
        (("--output={empty}/x.json", "--files={text}"), "cannot be written"),
        (("--out=x.json",), "no flag --out"),
    ],
)
def test_what_the_command_refuses(tmp_path, capfd, flags, message):
    contents = {
        "empty": b"",
        "binary": b"\xff\xfe",
        "text": b"some text",
        "lines.jsonl": b'{"text": "a"}\n{"txt": "b"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        flags = [flag.replace(f"{{{name}}}", str(tmp_path / name)) for flag in flags]
    assert run(*flags) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_records_that_settings_leave_out_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "short"}\n{"text": "long enough"}\n{"text": 7}\n')
    one = Source(name="tokenizer_limits_test", files=(("train", f"{tmp_path}/a.jsonl"),), min_characters=6)
    text_task.add_text_task(one.name, FileSource(one.file_sets()))
    left_out = LeftOut()
    try:
        assert list(tokenizer_training.task_texts(one.name, "train", str(tmp_path), left_out)) == ["long enough"]
    finally:
        seqio.TaskRegistry.remove(one.name)
    assert left_out.by_settings == {"characters >= 6": 1} and left_out.counts.total() == 1
