"""`dots expert_load`: figure 5 of the report from a checkpoint, over text files of any size.

    OUTPUT/expert_load.json  of each domain: tokens, the exact number of tokens that each expert of each layer got, loss
    OUTPUT/expert_load.png   a panel a domain, layer x expert, all on one colour scale

Texts are read in pieces and packed into rows; every token is an input exactly once. A domain that is finished is kept, and is not
counted again for the same weights, tokenizer, file and settings.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from dots_jax.analysis.figures import expert_load_panels
from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.cli.options import ExpertLoadOptions
from dots_jax.config import ComputeConfig, MeshConfig, ModelConfig, UserError, check_experts
from dots_jax.data.sources import json_lines
from dots_jax.evaluation.score_step import jit_score_step
from dots_jax.inference.session import open_vocabulary, serving_dtype
from dots_jax.locks import owned
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.batches import BATCH_KEYS, put_batch
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import batch_sharding
from dots_jax.storage import atomic_write, open_file, write_text

PIECE = 1 << 20  # characters of a plain text that are tokenised at a time; the cut is at the end of a line
VERSION = 1


class DomainFile(NamedTuple):
    """A domain by its name and the file that holds its text: JSON lines with `text`, or plain text."""

    name: str
    path: str


class DomainLoad(NamedTuple):
    """counts_LE: tokens that each expert of each layer got, int64. loss: nats per token that has one before it."""

    counts_LE: np.ndarray
    tokens: int
    loss: float

    @property
    def load_LE(self) -> np.ndarray:
        """Share of the domain's tokens; a layer's sum to the experts of a token."""
        return self.counts_LE / self.tokens


def run(options: ExpertLoadOptions) -> None:
    """Counts the domains that are not counted yet, and writes the table and the picture.

    Raises:
      UserError: for flags, a checkpoint without a tokenizer, a file without text.
    """
    domains = parse_domains(options.domain)
    opened = open_checkpoint(options.checkpoint, options.step)
    vocabulary = open_vocabulary(options.tokenizer, opened)
    if vocabulary is None:
        raise UserError("This checkpoint has no tokenizer: give one, as --tokenizer=FILE.")
    seq_len = min(options.seq_len, opened.model.max_seq_len)
    dtype = serving_dtype(options.dtype, opened)
    facts = [VERSION, sorted(opened.metadata.checksums.items()), vocabulary.name, dtype, seq_len]
    first = jax.process_index() == 0
    with owned(options.output, "the expert load") if first else contextlib.nullcontext():
        path = os.path.join(options.output, "expert_load.json")
        stored = _read(path)
        counter: Counter | None = None
        found = {}
        for domain in domains:
            key = hashlib.sha256(json.dumps([*facts, _digest(domain.path)]).encode()).hexdigest()
            known = stored.get(domain.name)
            if known is None or known["key"] != key:
                counter = counter or Counter(opened, dtype, seq_len, options.batch_size)
                load = counter.count(texts_of(domain.path), vocabulary.encode, domain.name)
                known = {"key": key, "file": domain.path, "tokens": load.tokens, "loss": load.loss,
                         "counts": load.counts_LE.tolist()}  # fmt: skip
                stored[domain.name] = known
                if first:
                    _write(path, opened, stored)
            load = DomainLoad(np.array(known["counts"], np.int64), known["tokens"], known["loss"])
            found[domain.name] = load
            if first:
                print(f"{domain.name}: {load.tokens:,} tokens, loss {load.loss:.4f}, {told(load)}", flush=True)
        if first:
            with atomic_write(os.path.join(options.output, "expert_load.png"), "wb") as file:
                expert_load_panels({name: (load.load_LE, load.tokens) for name, load in found.items()}).savefig(
                    file, dpi=130
                )
            print(os.path.join(options.output, "expert_load.png"))


def told(load: DomainLoad) -> str:
    """What figure 5 is looked at for, in words."""
    load_LE = load.load_LE
    layer, expert = np.unravel_index(np.argmax(load_LE), load_LE.shape)
    return (
        f"loads of a layer sum to {load_LE.sum(axis=1).min():g}, even {load_LE.sum() / load_LE.size:.3f}, highest "
        f"{load_LE.max():.3f} (layer {layer + 1}, expert {expert}), above 0.9: {int((load_LE > 0.9).sum())}"
    )


def parse_domains(words: tuple[str, ...]) -> list[DomainFile]:
    """Raises UserError for a word that is not name=file, a name that comes twice, and a file that is not there."""
    domains = []
    for word in words:
        name, _, path = word.partition("=")
        if not name or not path:
            raise UserError(f"--domain is name=file, as in --domain=code=code.jsonl, but is {word}.")
        if name in [each.name for each in domains]:
            raise UserError(f"The domain {name} comes twice: give every --domain a name of its own.")
        with open_file(path):
            pass
        domains.append(DomainFile(name, path))
    if not domains:
        raise UserError("Missing --domain: as in --domain=code=code.jsonl; it may be repeated.")
    return domains


def texts_of(path: str) -> Iterator[str]:
    """The field `text` of each line of JSON, or pieces of a plain text. Raises UserError for a line without one."""
    if ".json" in os.path.basename(path):
        for number, fields in json_lines.read_rows(path):
            if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
                raise UserError(f"{path} line {number} has no text: a domain's file holds it in the field text.")
            yield fields["text"]
        return
    with open_file(path) as file:
        left = b""
        while data := file.read(PIECE):
            data = left + data
            end = data.rfind(b"\n") + 1 or len(data) - _unfinished(data)
            yield data[:end].decode("utf-8", "replace")
            left = data[end:]
        if left:
            yield left.decode("utf-8", "replace")


def _unfinished(data: bytes) -> int:
    """Bytes at the end that begin a character of which the rest is not there yet."""
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] & 0xC0 != 0x80:
            return back if data[-back] >= (0xC0, 0xC0, 0xE0, 0xF0)[back - 1] and data[-back] >= 0xC0 else 0
    return 0


class Counter:
    """Counts with the weights of one checkpoint, on all devices of all processes."""

    def __init__(self, opened: Opened, dtype: str, seq_len: int, batch_size: int):
        model: ModelConfig = opened.model
        mesh_config = MeshConfig().resolve(jax.device_count())
        check_experts(model, mesh_config)
        mesh = make_mesh(mesh_config)
        compute = ComputeConfig(dtype=dtype, remat="none")
        definition = ModelDef(model, compute, mesh)
        self._params, self._bias = opened.restore(definition.abstract(), definition.shardings())
        self._step, self._sharding = jit_score_step(definition, compute), batch_sharding(mesh)
        self._model, self._seq_len = model, seq_len
        parts = mesh.shape["data"] * mesh.shape["fsdp"] * mesh.shape.get("expert", 1)
        self._rows = -(-batch_size // parts) * parts

    def count(self, texts: Iterator[str], encode, name: str) -> DomainLoad:
        """Raises UserError for a text of fewer than two tokens, or a tokenizer of another model."""
        from tqdm import tqdm

        counts, nats, targets, tokens = 0, 0.0, 0, 0
        rows = packed_rows(self._checked(name, map(encode, texts)), self._seq_len)
        with tqdm(desc=name, unit="tok", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
            for batch in batches(rows, self._rows, self._seq_len):
                placed = put_batch(
                    lambda places, batch=batch: {key: batch[key][list(places)] for key in batch},
                    0, self._rows, self._seq_len, self._sharding,
                )  # fmt: skip
                nll_BT, load_LE = self._step(self._params, self._bias, placed)
                counts = counts + np.asarray(load_LE, np.int64)
                nats += float(np.asarray(nll_BT, np.float64).sum())
                real = int((batch["segments"] > 0).sum())
                targets, tokens = targets + int(batch["weights"].sum()), tokens + real
                bar.update(real)
        if tokens < 2:
            raise UserError(f"The domain {name} has {tokens} token(s): two are the least that can be counted.")
        return DomainLoad(counts, tokens, nats / max(1, targets))

    def _checked(self, name: str, documents: Iterator[list[int]]) -> Iterator[list[int]]:
        for ids in documents:
            if ids and max(ids) >= self._model.vocab_size:
                raise UserError(
                    f"The domain {name!r} has the id {max(ids)}, and the model's vocabulary is {self._model.vocab_size}: is "
                    "this the tokenizer that it was trained with?"
                )
            yield ids


def packed_rows(documents: Iterator[list[int]], seq_len: int) -> Iterator[list[list[int]]]:
    """Rows of at most seq_len tokens as lists of segments: documents one behind the other, cut where a row ends."""
    row: list[list[int]] = []
    room = seq_len
    for ids in documents:
        while ids:
            row.append(ids[:room])
            room -= len(row[-1])
            ids = ids[len(row[-1]) :]
            if not room:
                yield row
                row, room = [], seq_len
    if row:
        yield row


def batches(rows: Iterator[list[list[int]]], size: int, seq_len: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of one shape. Segment 0 is padding, which counts neither as load nor as loss; the last token of a segment has no
    target."""
    ended = False
    while not ended:
        arrays = {key: np.zeros((size, seq_len), np.float32 if key == "weights" else np.int32) for key in BATCH_KEYS}
        filled = 0
        for place in range(size):
            row = next(rows, None)
            if row is None:
                ended = True
                break
            filled, begin = filled + 1, 0
            for number, ids in enumerate(row, 1):
                here = slice(begin, begin + len(ids))
                arrays["tokens"][place, here] = ids
                arrays["targets"][place, begin : begin + len(ids) - 1] = ids[1:]
                arrays["weights"][place, begin : begin + len(ids) - 1] = 1
                arrays["positions"][place, here] = np.arange(len(ids))
                arrays["segments"][place, here] = number
                begin += len(ids)
        if filled:
            yield arrays


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while data := file.read(1 << 24):
            digest.update(data)
    return digest.hexdigest()


def _read(path: str) -> dict:
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)["domains"]
    except (ValueError, KeyError):
        raise UserError(f"{path} is not an expert load of this command: give another --output.") from None


def _write(path: str, opened: Opened, stored: dict) -> None:
    facts = {"checkpoint": str(opened.path), "step": opened.step, "experts_per_token": opened.model.experts_per_token}
    write_text(path, json.dumps(facts | {"domains": stored}) + "\n")
