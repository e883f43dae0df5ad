"""The step `semantic`: documents whose embedding has a cosine of at least .95 to that of an earlier one go.

embed     a partition of documents: their vectors, by a model of the room curation_models, without Beam or through its RunInference
cluster   once: centroids of a sample, by k-means
assign    a partition: the clusters in which each of its documents is compared
compare   a share of the clusters: the documents that meet an earlier one, whichever partition either is in

Earlier is the smaller key, as for near-duplicates; a document that goes still removes others. Vectors stay in files, float32, and
are never sent. One crawl is compared with itself alone.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dots_jax.curation import exchange, models, scoring
from dots_jax.curation.embedding_step import STEP
from dots_jax.curation.exchange import DECISION
from dots_jax.curation.ids import write_ids
from dots_jax.curation.plan import Run, Stage
from dots_jax.storage import atomic_write

ROOM = "dots_jax.curation_models.semantic"
SAMPLE = 1 << 16  # vectors that k-means sees
NAME = np.dtype([("key", "<u8"), ("digest", "<u8")])


# --- embed ------------------------------------------------------------------------------------------------------------


class Embedding(NamedTuple):
    """The stage `embed` as parts of a pipeline: see beam.infer. A block's vectors become a file where they are made."""

    run: Run
    stage: Stage

    def read(self, unit: int) -> Iterator[scoring.Block]:
        return scoring.blocks(self.run, self.stage, unit)

    def condense(self, block: scoring.Block, vectors_ND: np.ndarray) -> tuple[int, tuple[int, tuple, tuple]]:
        _write(self._block(block.unit, block.number), vectors_ND)
        return block.unit, (block.number, block.names, block.ids)

    def finish(self, unit: int, found: Sequence[tuple[int, tuple, tuple]]) -> None:
        found = sorted(found)
        files = [self._block(unit, number) for number, _, _ in found]
        vectors_ND = np.concatenate([np.load(file) for file in files])
        names = np.array([tuple(name) for _, names, _ in found for name in names], NAME)
        stem = self.run.stem(self.stage.name, unit)
        _write(_file(stem, "vectors"), vectors_ND)
        _write(_file(stem, "names"), names)
        write_ids(stem, zip(names["key"].tolist(), (id for _, _, ids in found for id in ids)))
        self.run.finish(self.stage.name, unit, {"documents": len(names)})
        for file in files:
            file.unlink()

    def _block(self, unit: int, number: int):
        return _file(self.run.stem(self.stage.name, unit), f"block-{number:06d}")


def _file(stem, name: str):
    return stem.with_name(f"{stem.name}-{name}.npy")


def _write(path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file:
        np.save(file, array)


def embed(run: Run, stage: Stage, unit: int, tick: Callable) -> None:
    """The unit, in this process."""
    work, model, found = Embedding(run, stage), models.load(STEP, run.config), []
    for block in work.read(unit):
        found.append(work.condense(block, model(block.texts))[1])
        tick(len(block.texts), 0)
    work.finish(unit, found)


# --- cluster, assign, compare -----------------------------------------------------------------------------------------


def _room():
    return importlib.import_module(ROOM)


def _load(run: Run, kind: str, stage: Stage, unit: int, name: str) -> np.ndarray:
    return np.load(_file(run.stem(f"{kind}-{stage.phase}", unit), name), mmap_mode="r")


def cluster(run: Run, stage: Stage, unit: int, tick: Callable) -> None:
    """The sample is the documents of the smallest keys of each partition, which are random ones."""
    parts, settings = run.config.partitions, run.config.semantic
    vectors = [_load(run, "embed", stage, part, "vectors") for part in range(parts)]
    count = sum(map(len, vectors))
    sample_ND = np.concatenate([np.array(some[: -(-SAMPLE // parts)]) for some in vectors])
    room = _room()
    clusters = settings.clusters or room.number_of_clusters(count)
    centroids_KD = room.kmeans(sample_ND, clusters, run.config.seed) if count else sample_ND
    _write(_file(run.stem(stage.name, unit), "centroids"), centroids_KD)
    run.finish(stage.name, unit, {"clusters": len(centroids_KD)})


def assign(run: Run, stage: Stage, unit: int, tick: Callable) -> None:
    vectors_ND = _load(run, "embed", stage, unit, "vectors")
    centroids_KD = np.array(_load(run, "cluster", stage, 0, "centroids"))
    member_NP = _room().nearest(vectors_ND, centroids_KD, run.config.semantic.probes)
    _write(_file(run.stem(stage.name, unit), "clusters"), member_NP)
    run.finish(stage.name, unit, {"documents": len(member_NP)})


def compare(run: Run, stage: Stage, unit: int, tick: Callable) -> None:
    """The clusters unit, unit + partitions, ..."""
    parts, room, found = run.config.partitions, _room(), [np.empty(0, DECISION)]
    vectors = [_load(run, "embed", stage, part, "vectors") for part in range(parts)]
    names = [_load(run, "embed", stage, part, "names") for part in range(parts)]
    for members in _members(run, stage, unit):
        chosen = [members["place"][members["part"] == part] for part in range(parts)]
        vectors_MD = np.concatenate([np.array(vectors[part][chosen[part]]) for part in range(parts)])
        name_M = np.concatenate([np.array(names[part][chosen[part]]) for part in range(parts)])
        pairs = room.duplicates_among(vectors_MD, run.config.semantic.min_cosine)
        rows = np.zeros(len(pairs.later), DECISION)
        rows["key"], rows["digest"] = name_M["key"][pairs.later], name_M["digest"][pairs.later]
        rows["position"], rows["other"], rows["score"] = -1, name_M["key"][pairs.earlier], pairs.cosine
        found.append(rows)
        tick(len(name_M), 0)
    stem = run.stem(stage.name, unit)
    stem.parent.mkdir(parents=True, exist_ok=True)
    slices = exchange.write_rows(_file(stem, "decisions"), np.concatenate(found), parts)
    run.finish(stage.name, unit, {"decisions": slices})


def _members(run: Run, stage: Stage, unit: int) -> Iterator[np.ndarray]:
    """Of each cluster of the unit (part, place) of its documents, in the order of their keys."""
    parts, found = run.config.partitions, []
    kind = np.dtype([("cluster", "<i4"), ("part", "<i4"), ("place", "<i8")])
    for part in range(parts):
        member_NP = np.array(_load(run, "assign", stage, part, "clusters"))
        place, probe = np.nonzero(member_NP % parts == unit)
        rows = np.zeros(len(place), kind)
        rows["cluster"], rows["part"], rows["place"] = member_NP[place, probe], part, place
        found.append(rows)
    rows = np.concatenate(found)
    rows = rows[np.argsort(rows["cluster"], kind="stable")]
    starts = np.flatnonzero(np.diff(rows["cluster"])) + 1
    return iter(np.split(rows, starts) if len(rows) else [])
