"""Trains a byte-level BPE of the kind that dots.llm1 has, on any text, and writes it as a tokenizer.json.

Everything but the merges is Qwen2's: NFC, its way of cutting text into words (each digit alone), bytes below. Ids: the 256
bytes, the merges, then the special tokens. The same text gives the same file, byte for byte.
"""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

import tokenizers
import tqdm
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dots_jax import storage
from dots_jax.config import UserError
from dots_jax.data.registry import check_split, get_task, import_tasks, task_vocabulary
from dots_jax.data.tokenizers.tokenizer import SPECIAL_TOKENS, TokenizerVocabulary
from dots_jax.data.tokenizers.vocabulary import token_bytes
from dots_jax.storage import write_text

# Of Qwen2's tokenizer.json: contractions, letters with one sign before them, single digits, signs, line ends, spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALLEST = 256 + len(SPECIAL_TOKENS)
_BLOCK_BYTES = 1 << 20  # of a file read at once, and up to the line's end, so that no word is cut


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


def task_texts(task_name: str, split: str, cache_dir: str) -> Iterator[str]:
    """The documents of a seqio Task, back from its tokens: any preprocessing of the Task is in them."""
    task = get_task(task_name)
    check_split(task, split)
    if hasattr(task.source, "prepare_under"):
        task.source.prepare_under(cache_dir)
    pieces = token_bytes(task_vocabulary(task))
    for example in task.get_dataset(None, split, shuffle=False, num_epochs=1).as_numpy_iterator():
        yield b"".join(pieces[i] for i in example["targets"].tolist()).decode("utf-8", "replace")


def find_files(patterns: str) -> list[str]:
    """The files of comma-separated globs, sorted, each once."""
    found = set()
    for pattern in filter(None, patterns.split(",")):
        files = [file.path for file in storage.find_files(pattern)]
        if not files:
            raise UserError(f"No file fits --files={pattern}.")
        found.update(files)
    return sorted(found)


def file_texts(paths: Sequence[str]) -> Iterator[str]:
    """Blocks of whole lines of text files in UTF-8; of *.jsonl, the field `text` of each line."""
    for path in paths:
        try:
            with io.TextIOWrapper(storage.open_file(path), encoding="utf-8", newline="") as file:
                if path.endswith(".jsonl"):
                    yield from (_text_of(line, f"{path}:{number}") for number, line in enumerate(file, start=1))
                else:
                    while lines := file.readlines(_BLOCK_BYTES):
                        yield "".join(lines)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UserError(f"The text file {path} cannot be read: {reason}.") from None


def _text_of(line: str, at: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise UserError(
            f"{at} is no JSON object with a field `text`: mend the line, or give the text as it is, not as *.jsonl."
        )
    return record["text"]


def train_to_file(
    output: str, vocab_size: int, *, files: str | None, task: str, tasks_modules: Sequence[str], cache_dir: str
) -> None:
    """Trains on `files` (comma-separated globs), or else on the train split of `task`, and writes `output`."""
    if files:
        texts, source = file_texts(find_files(files)), files
    else:
        import_tasks(tasks_modules)
        texts, source = task_texts(task, "train", cache_dir), f"task {task}"
    sample = []

    def counted() -> Iterator[str]:
        with tqdm.tqdm(desc=f"reading {source}", unit="B", unit_scale=True, disable=None) as progress:
            for text in texts:
                if len(sample) < 100:
                    sample.append(text)
                progress.update(len(text.encode()))
                yield text

    # The library's own bars for the rest; where nobody is watching it would print empty lines.
    tokenizer = train_tokenizer(counted(), vocab_size, show_progress=sys.stderr.isatty())
    if not any(sample):
        raise UserError(f"There is no text in {source}: there is nothing to train on.")
    _write(output, tokenizer)
    vocabulary = TokenizerVocabulary(output)
    print(f"wrote       {output}, sha256 {vocabulary.sha256[:12]}")
    print(f"vocabulary  {vocabulary.vocab_size:,} ids: ModelConfig.vocab_size must be no smaller")
    print(f"text        {_bytes_per_token(vocabulary, sample):.2f} bytes a token, on the first {len(sample)} documents")


def _bytes_per_token(vocabulary: TokenizerVocabulary, texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / sum(len(ids) for ids in vocabulary.encode_batch(texts))


def _write(path: str, tokenizer: tokenizers.Tokenizer) -> None:
    """Atomic: a run must not find half a tokenizer."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_text(path, tokenizer.to_str(pretty=True) + "\n")
    except OSError as error:
        raise UserError(
            f"The tokenizer cannot be written to {path} ({error.strerror}): choose another --output."
        ) from None
