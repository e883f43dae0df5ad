"""A corpus that `dots curate` wrote trains: tokens cached, and a step taken, through gin/tiny.gin."""

import json

from web_pages import http, page, record, rows, write_warc

from dots_jax.cli.main import main
from dots_jax.curation.corpus_files import read_documents, write_documents
from dots_jax.data.sources.record_files import read_texts

# gin/tiny.gin with its smallest shapes: what is tested is the way of the texts.
TINY = (
    "ModelConfig.num_layers = 2", "ModelConfig.hidden_size = 32", "ModelConfig.head_dim = 8", "ModelConfig.num_experts = 4",
    "ModelConfig.experts_per_token = 2", "ModelConfig.dense_ffn_size = 32", "ModelConfig.expert_ffn_size = 16",
    "TrainConfig.stages = (@stable/Stage(),)", "stable/Stage.mixture = 'curated'", "stable/Stage.seq_len = 64",
    "stable/Stage.tokens = 2_560", "stable/Stage.batch_tokens = ((0, 512),)", "stable/Stage.warmup_steps = 1",
    "TrainConfig.validation = ('curated',)", "TrainConfig.validation_sequences = 4",
)  # fmt: skip


def test_a_curated_corpus_trains(tmp_path):
    """Claim: the output of `dots curate` is a source: its tokens are cached and a step is trained on them."""
    records = [record(str(n), http(page(n).encode()), url=f"http://site{n % 3}.example/{n}") for n in range(12)]
    archive, corpus = write_warc(tmp_path / "a.warc.gz", records), tmp_path / "corpus"
    steps = "('decoding', 'extraction', 'language', 'identity')"
    settings = (f"CurateConfig.steps = {steps}", "CurateConfig.partitions = 2")
    bindings = [f"--gin_bindings={one}" for one in settings]
    assert main(["curate", "--gin_file=gin/curate.gin", f"--input={archive}", f"--output={corpus}", *bindings]) == 0

    files = f"(('train', '{corpus}/documents/*.jsonl.zst'), ('validation', '{corpus}/documents/00000-*'))"
    source = (
        "DataConfig.sources = (@Source(),)", "Source.name = 'curated'", f"Source.files = {files}",
        f"DataConfig.cache_dir = '{tmp_path / 'cache'}'",
    )  # fmt: skip
    bindings = [f"--gin_bindings={one}" for one in (*TINY, *source)]
    assert main(["train", "--gin_file=gin/tiny.gin", f"--workdir={tmp_path / 'run'}", "--max_steps=1", *bindings]) == 0
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["step"] == 1 and 4 < row["loss"] < 7 and row["source_tokens"]["curated"] > 400
    # Every byte of the corpus is in the cache, with the id that ends a document.
    manifest = json.loads(next((tmp_path / "cache").rglob("train/manifest.json")).read_text())
    texts = [line["text"].encode() for line in rows(corpus, "documents")]
    assert manifest["documents"] == len(texts) == 12 and manifest["malformed"] == manifest["left_out"] == {}
    assert manifest["bytes"] == sum(map(len, texts)) and manifest["tokens"] == manifest["bytes"] + 12
    # Parquet gives training the same texts.
    with write_documents(tmp_path / "a.parquet") as write:
        for document in read_documents(str(corpus)):
            write(document)
    assert list(read_texts(tmp_path / "a.parquet", "text", conversations=False)) == texts
