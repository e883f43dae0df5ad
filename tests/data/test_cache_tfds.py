"""Token caches of TensorFlow Datasets: every file of a data set is a piece, also of a slice of a split."""

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from dots_jax.data.cache import token_cache
from dots_jax.data.sources.documents import pieces_of
from dots_jax.data.sources.text_task import add_text_task

TASK, TEXTS = "cache_tfds", [f"document {i} " * (i % 7) for i in range(100)]


class SomeTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    url_infos = None

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": ((i, {"text": text}) for i, text in enumerate(TEXTS))}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    config = tfds.download.DownloadConfig(num_shards=4, try_download_gcs=False, verify_ssl=False)
    SomeTexts(data_dir=str(folder)).download_and_prepare(download_config=config)
    return folder


@pytest.mark.parametrize("split, pieces, documents", [("train", 4, 100), ("train[30%:]", 3, 70)])
def test_files_are_pieces(data_dir, tmp_path, split, pieces, documents):
    source = seqio.TfdsDataSource("some_texts:1.2.0", str(data_dir), splits={"train": split}, read_only=True)
    add_text_task(TASK, source)
    try:
        task = seqio.TaskRegistry.get(TASK)
        assert len(pieces_of(task, "train")) == pieces
        stream = token_cache.open_stream(TASK, "train", tmp_path)
        tokens, ends = stream.window(0, stream.num_tokens)
        found = [bytes((d[:-1] - 3).tolist()).decode() for d in np.split(tokens, ends + 1)[:-1]]
        complete = [example["text"].decode() for example in tfds.as_numpy(source.get_dataset("train", shuffle=False))]
        assert len(found) == documents and sorted(found) == sorted(complete)
        assert stream.manifest.source.startswith("some_texts:1.2.0")
        other = seqio.TfdsDataSource("some_texts:1.2.0", str(data_dir), splits={"train": "train[:30%]"}, read_only=True)
        seqio.TaskRegistry.remove(TASK)
        add_text_task(TASK, other)
        assert token_cache.open_stream(TASK, "train", tmp_path).num_documents == 30  # not taken for the slice above
    finally:
        seqio.TaskRegistry.remove(TASK)
