"""Trains a byte-level BPE of the kind that dots.llm1 has, on any text, and writes it as a tokenizer.json.

Everything but the merges is Qwen2's: NFC, its way of cutting text into words (each digit alone), bytes below. Ids: the 256
bytes, the merges, then the special tokens. The same text gives the same file, byte for byte.
"""

import codecs
import collections
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import tokenizers
import tqdm
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dots_jax import storage
from dots_jax.config import CacheConfig, UserError
from dots_jax.data.cache.token_cache import prepare
from dots_jax.data.registry import check_split, get_task, import_tasks, task_vocabulary
from dots_jax.data.sources.documents import Reading, commonest, documents_of, pieces_of
from dots_jax.data.sources.json_lines import ByteStream, Malformed
from dots_jax.data.sources.record_files import is_record_file, read_texts
from dots_jax.data.sources.split_files import with_parts_joined
from dots_jax.data.tokenizers.tokenizer_file import SPECIAL_TOKENS, TokenizerFile
from dots_jax.data.tokenizers.vocabulary import token_bytes
from dots_jax.storage import in_bucket, write_text

# Of Qwen2's tokenizer.json: contractions, letters with one sign before them, single digits, signs, line ends, spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALLEST = 256 + len(SPECIAL_TOKENS)
MAX_MALFORMED = CacheConfig(tasks=("any",)).max_malformed


def train_tokenizer(texts: Iterable[str], vocab_size: int, show_progress: bool = False) -> tokenizers.Tokenizer:
    """A tokenizer of vocab_size ids, SPECIAL_TOKENS among them; of fewer if the text has no more pairs to merge."""
    if vocab_size < SMALLEST:
        raise UserError(
            f"A vocabulary of {vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special tokens are {SMALLEST}."
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), show_progress=show_progress,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    # Afterwards, so that they come last and id 0 is a byte, as in Qwen2.
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    return tokenizer


class LeftOut:
    """Records that cannot be used, under the rule of token caches: counted, and too many of them are an error."""

    def __init__(self):
        self.taken, self.counts, self._places = 0, collections.Counter(), {}
        self.by_settings = collections.Counter()  # setting of the task's source -> records

    def add(self, record: Malformed, path: str) -> None:
        self.counts[record.reason] += 1
        self._places.setdefault(record.reason, f"{path}:{record.number}")

    def check(self, what: str, max_malformed: float) -> None:
        """Raises UserError for more than that share."""
        bad = self.counts.total()
        if bad <= max_malformed * (self.taken + bad):
            return
        place = self._places[max(self.counts, key=self.counts.get)]
        raise UserError(
            f"{bad} of {self.taken + bad} records of {what} are malformed, more than --max_malformed={max_malformed:.6g} allows: "
            f"{commonest(self.counts)} (the first of these is {place}): fix the files, or raise the limit."
        )


def task_texts(task_name: str, split: str, cache_dir: str, left_out: LeftOut) -> Iterator[str]:
    """The documents that a token cache of the Task holds, back from their tokens: any preprocessing of it is in them."""
    task = get_task(task_name)
    check_split(task, split)
    prepare(task, cache_dir)
    bytes_of = token_bytes(task_vocabulary(task))
    pieces = pieces_of(task, split)
    for index, piece in enumerate(pieces):
        reading = Reading(functools.partial(left_out.add, path=piece.name))
        for document in documents_of(task, split, index, pieces, reading):
            left_out.taken += 1
            yield b"".join(bytes_of[i] for i in document.tokens.tolist()).decode("utf-8", "replace")
        left_out.by_settings.update(reading.left_out)
        if reading.damage:
            raise reading.damage


def find_files(patterns: str) -> list[str]:
    """The files of comma-separated globs, sorted, each once."""
    found = set()
    for pattern in filter(None, patterns.split(",")):
        files = [file.path for file in with_parts_joined(storage.find_files(pattern))]
        if not files:
            raise UserError(f"No file fits --files={pattern}.")
        found.update(files)
    return sorted(found)


def file_texts(paths: Sequence[str], left_out: LeftOut, field: str = "text") -> Iterator[str]:
    """Of files of records (record_files.py) the text of each; of others, which are text in UTF-8, blocks of lines."""
    for path in paths:
        if not is_record_file(path):
            yield from _plain_text(path)
            continue
        for text in read_texts(path, field, conversations=False):
            if isinstance(text, Malformed):
                left_out.add(text, path)
            else:
                left_out.taken += 1
                yield text.decode()


def _plain_text(path: str) -> Iterator[str]:
    """Cut at line ends only, so that no word is."""
    pending, decode = (
        [],
        codecs.getincrementaldecoder("utf-8-sig")().decode,
    )  # without a byte order mark at the beginning
    try:
        with ByteStream(path) as stream:
            for block in stream.blocks():
                head, end, tail = block.rpartition(b"\n")
                if end:
                    yield decode(b"".join([*pending, head, end]))
                    pending = []
                pending.append(tail)
            if stream.broken:
                raise stream.damaged(stream.broken, sum(map(len, pending)))
            if any(pending):
                yield decode(b"".join(pending), final=True)
    except UnicodeDecodeError:
        raise UserError(f"The text file {path} cannot be read: it is not UTF-8 text.") from None


def train_to_file(
    output: str, vocab_size: int, *, files: str | None, task: str, tasks_modules: Sequence[str], cache_dir: str,
    field: str = "text", max_malformed: float = MAX_MALFORMED,
) -> None:  # fmt: skip
    """Trains on `files` (comma-separated globs), or else on the train split of `task`, and writes `output`.

    field: of the records of files. max_malformed: the share of records that may be left out.
    """
    left_out = LeftOut()
    if files:
        texts, source = file_texts(find_files(files), left_out, field), files
    else:
        import_tasks(tasks_modules)
        texts, source = task_texts(task, "train", cache_dir, left_out), f"task {task}"
    sample = []

    def counted() -> Iterator[str]:
        with tqdm.tqdm(desc=f"reading {source}", unit="B", unit_scale=True, disable=None) as progress:
            for text in texts:
                if len(sample) < 100:
                    sample.append(text)
                progress.update(len(text.encode()))
                yield text
        left_out.check(source, max_malformed)

    # The library's own bars for the rest; where no terminal is it would print empty lines.
    tokenizer = train_tokenizer(counted(), vocab_size, show_progress=sys.stderr.isatty())
    if not any(sample):
        raise UserError(f"There is no text in {source}: there is nothing to train on.")
    _write(output, tokenizer)
    vocabulary = TokenizerFile(output)
    print(f"wrote       {output}, sha256 {vocabulary.sha256[:12]}")
    print(f"vocabulary  {vocabulary.size:,} ids: ModelConfig.vocab_size must be no smaller")
    if left_out.counts:
        print(f"left out    {left_out.counts.total():,} malformed records: {commonest(left_out.counts)}")
    for setting, count in sorted(left_out.by_settings.items()):
        print(f"left out    {count:,} records by {setting}")
    print(f"text        {_bytes_per_token(vocabulary, sample):.2f} bytes a token, on the first {len(sample)} documents")


def _bytes_per_token(vocabulary: TokenizerFile, texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / sum(len(ids) for ids in vocabulary.encode_batch(texts))


def _write(path: str, tokenizer: tokenizers.Tokenizer) -> None:
    """Atomic: a run must not find half a tokenizer."""
    try:
        if not in_bucket(path):
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_text(path, tokenizer.to_str(pretty=True) + "\n")
    except OSError as error:
        raise UserError(
            f"The tokenizer cannot be written to {path} ({error.strerror}): choose another --output."
        ) from None
