"""How a parameter is stored in a converted checkpoint, and the pieces in which it is written.

An array is stored in chunks of a few MiB: one layer and one expert each, cut along hidden_size first, which is the axis
that a mesh shards (parallel/mesh.py). So a pod's hosts read what their shards need, a notebook reads one expert, and a
converter holds one piece at a time. A small array, such as all norms of all layers, is one chunk.
"""

import dataclasses
import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from dots_jax.config import ModelConfig
from dots_jax.huggingface.names import ROUTER_BIAS, TABLE, Weight, native_shape, slices, stack_shape

CHUNK_BYTES = 4 * 2**20  # about what a read from a bucket should be
MAX_HIDDEN_PARTS = 16  # of hidden_size: fewer chunks, and chunks that are no thin stripes
PIECE_BYTES = 64 * 2**20  # read, transposed and written at once, by each of a few threads
UNIT_BYTES = 2**30  # written to a database of its own, which is finished or written again


@dataclasses.dataclass(frozen=True)
class Piece:
    """Part of one weight: of the slice at `index` of its stack axes, the rows start to stop of the first axis of each hf
    tensor (in units of the first native output axis). index None: all slices of a small array."""

    index: tuple[int, ...] | None
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """One parameter: its stack axes, the shape of one slice, the chunk over both, and the dtype that is stored."""

    weight: Weight
    stack: tuple[int, ...]
    inner: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype

    @property
    def path(self) -> str:
        """Of the array in the item `model`, as `checkpoint.arrays.StoredArrays` names it."""
        return self.weight.native if self.weight is ROUTER_BIAS else f"params/{self.weight.native}"

    @property
    def name(self) -> str:
        """The same as orbax writes it."""
        return self.path.replace("/", ".")

    @property
    def key(self) -> str:
        """As the record's checksums name it."""
        return "['model']" + "".join(f"['{part}']" for part in self.name.split("."))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stack + self.inner

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def axis(self) -> int:
        """Of a slice, the axis along which pieces are cut: the first axis of the hf tensors."""
        return len(self.weight.inputs)

    def num_chunks(self) -> int:
        return math.prod(size // part for size, part in zip(self.shape, self.chunk))

    def pieces(self) -> Iterator[Piece]:
        size, part = self.inner[self.axis], self.chunk[len(self.stack) + self.axis]
        if self.chunk == self.shape:
            yield Piece(None, 0, size)
            return
        if len(self.weight.hf) > 1:  # two tensors share this axis: all of both
            step = size
        else:
            step = max(1, PIECE_BYTES // (self.num_bytes // math.prod(self.stack) // size * part)) * part
        for index in np.ndindex(self.stack):
            for start in range(0, size, step):
                yield Piece(index, start, min(start + step, size))

    def piece_bytes(self, piece: Piece) -> int:
        if piece.index is None:
            return self.num_bytes
        return self.num_bytes // math.prod(self.stack) // self.inner[self.axis] * (piece.stop - piece.start)


def layouts(config: ModelConfig, dtype: np.dtype) -> list[Layout]:
    """Every parameter in `dtype`, and the router biases in float32."""
    made = []
    for weight in (*TABLE, ROUTER_BIAS):
        kept = np.dtype(np.float32) if weight is ROUTER_BIAS else np.dtype(dtype)
        stack, inner = stack_shape(weight, config), native_shape(weight, config)
        made.append(Layout(weight, stack, inner, chunk_shape(weight, stack, inner, kept.itemsize), kept))
    return made


def chunk_shape(weight: Weight, stack: tuple[int, ...], inner: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    size = lambda parts: math.prod(parts) * itemsize
    if size(stack + inner) <= CHUNK_BYTES:
        return stack + inner
    chunk, fields = list(inner), weight.inputs + weight.outputs
    hidden = fields.index("hidden_size") if "hidden_size" in fields else 0
    while size(chunk) > CHUNK_BYTES and chunk[hidden] % 2 == 0 and inner[hidden] // chunk[hidden] < MAX_HIDDEN_PARTS:
        chunk[hidden] //= 2
    while size(chunk) > CHUNK_BYTES:
        axis = max((axis for axis in range(len(chunk)) if axis != hidden), key=lambda axis: chunk[axis], default=hidden)
        if chunk[axis] == 1:
            break  # as small as it gets
        chunk[axis] //= next(n for n in range(2, chunk[axis] + 1) if chunk[axis] % n == 0)
    return (1,) * len(stack) + tuple(chunk)


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is written at a stretch, by one process. name: letters and digits, as orbax wants it."""

    name: str
    layout: Layout
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        return sum(self.layout.piece_bytes(piece) for piece in self.pieces)


def units(all_layouts: list[Layout]) -> list[Unit]:
    made = []
    for number, layout in enumerate(all_layouts):
        pieces: list[Piece] = []
        taken = 0
        for count, piece in enumerate(layout.pieces()):
            if pieces and taken + layout.piece_bytes(piece) > UNIT_BYTES:
                made.append(Unit(f"p{number:02d}from{count - len(pieces):06d}", layout, tuple(pieces)))
                pieces, taken = [], 0
            pieces.append(piece)
            taken += layout.piece_bytes(piece)
        made.append(Unit(f"p{number:02d}from{count + 1 - len(pieces):06d}", layout, tuple(pieces)))
    return made


def names_of(layout: Layout, config: ModelConfig) -> dict[tuple[int, ...], tuple[str, ...]]:
    """Index into the stack axes -> the names of the hf tensors."""
    return dict(slices(layout.weight, config))


def checksum(array: np.ndarray) -> int:
    """The sum of bit patterns modulo 2**32, as checkpoint/restore.py takes it. Those of parts add up."""
    bits = np.ascontiguousarray(array).view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
    return int(bits.sum(dtype=np.uint64)) % 2**32


DTYPES = {"bfloat16": np.dtype(jnp.bfloat16), "float32": np.dtype(np.float32)}
