"""A workdir in a bucket: what this project writes there itself, with a bucket that is a folder behind etils.epath.

Orbax's arrays go to buckets by tensorstore and TensorBoard's files by TensorFlow, past epath: test_bucket_checkpoints.py and
end_to_end/test_bucket_run.py see those.
"""

import json
import os

import pytest
from etils.epath import gpath
from folder_bucket import FolderBucket

from dots_jax.checkpoint.store import check_disk
from dots_jax.config import UserError
from dots_jax.evaluation import checkpoints as evaluation
from dots_jax.storage import folder
from dots_jax.training import metrics
from dots_jax.training.metrics import MetricsLog

BUCKET = "gs://bucket/runs/one"


class _Board:
    def __init__(self, path):
        assert path == f"{BUCKET}/tensorboard"

    def write_scalars(self, step, values):
        pass

    close = flush = lambda self: None


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    fake = FolderBucket(tmp_path)
    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda self: fake))
    monkeypatch.setattr(metrics.metric_writers, "SummaryWriter", _Board)
    here = tmp_path / "runs" / "one"
    here.mkdir(parents=True)
    return here


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(folder(BUCKET) / "checkpoints") == f"{BUCKET}/checkpoints"
    assert str(folder("runs/one")) == os.path.join(tmp_path, "runs/one")


def test_metrics_are_there_after_sync_and_resume(bucket, monkeypatch):
    rows = lambda: [json.loads(line)["step"] for line in (bucket / "metrics.jsonl").read_text().splitlines()]  # noqa: E731
    log = MetricsLog(BUCKET, 0)
    log.write({"step": 1, "loss": 2.0})
    assert not (bucket / "metrics.jsonl").exists()
    log.sync()
    assert rows() == [1]
    log.write({"step": 2, "loss": 2.0})
    assert rows() == [1]
    now = metrics.time.monotonic()
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now + 61)
    log.write({"step": 3, "loss": 2.0})  # a minute later
    assert rows() == [1, 2, 3]
    log.write({"step": 4, "loss": 2.0})
    log.close()
    assert rows() == [1, 2, 3, 4]
    log = MetricsLog(BUCKET, 2)
    log.write({"step": 3, "loss": 1.0})
    log.close()
    assert rows() == [1, 2, 3]
    assert not list(bucket.glob("metrics.jsonl.*"))


def test_only_process_0_writes(bucket):
    log = MetricsLog(BUCKET, 0, write=False)
    log.write({"step": 1})
    log.sync()
    log.close()
    assert not list(bucket.iterdir())


def test_the_bucket_is_tried_before_anything_is_compiled(bucket, monkeypatch):
    check_disk(f"{BUCKET}/new", 2**60)
    assert not list((bucket / "new").iterdir())

    def denied(self, path, mode):
        raise RuntimeError("403: does not have storage.objects.create access")

    monkeypatch.setattr(FolderBucket, "open", denied)
    with pytest.raises(UserError, match=r"gs://bucket/runs/one cannot be written \(403.*may this machine's account"):
        check_disk(BUCKET, 1)


def test_eval_json(bucket, monkeypatch):
    monkeypatch.setattr(evaluation.metric_writers, "SummaryWriter", _Board)
    evaluation._write(BUCKET, {5: {"task": {"loss": 2.0}}})
    evaluation._write(BUCKET, {6: {"task": {"loss": 1.0}}})
    assert list(json.loads((bucket / "eval.json").read_text())) == ["5", "6"]
    assert [path.name for path in bucket.iterdir()] == ["eval.json"]
