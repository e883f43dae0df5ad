"""Checkpoints in a bucket, through the real clients of gs://: what is kept, what is deleted, what is set aside."""

import re

import pytest
from etils import epath
from test_checkpoint import abstract, assert_is_step, metadata_of, saved, small_state

from dots_jax.checkpoint.commit import COMMIT_FILE, finished_steps
from dots_jax.checkpoint.store import Checkpoints, check_disk
from dots_jax.config import UserError
from dots_jax.storage import folder

RUN = "gs://bucket/runs/one"


def names(buckets, under):
    return {name.removeprefix(f"{under}/").split("/")[0] for name in buckets.objects() if name.startswith(f"{under}/")}


def upload(buckets, here, there):
    for path in here.rglob("*"):
        if path.is_file():
            buckets.put(f"{there}/{path.relative_to(here)}", path.read_bytes())


def test_saves_restores_and_keeps_the_last(buckets):
    checkpoints = saved(RUN, 1, 2, 3, 4, keep_last=2, is_milestone=lambda step: step == 1)
    checkpoints.close()
    assert names(buckets, "runs/one/checkpoints") - {""} == {"1", "3", "4"}
    again = saved(RUN)
    assert_is_step(again.restore_newest(abstract(small_state(0))), 4)
    again.close()


def test_the_beginning_of_a_checkpoint_is_none_and_goes(buckets):
    saved(RUN, 1, 2).close()
    complete = buckets.objects()
    buckets.clear()
    for name, data in complete.items():  # as a killed run leaves it: no commit file, no time of commit
        if name == "runs/one/checkpoints/2/_CHECKPOINT_METADATA":
            data = re.sub(rb'"commit_timestamp_nsecs": \d+', b'"commit_timestamp_nsecs": null', data)
        if name != f"runs/one/checkpoints/2/{COMMIT_FILE}":
            buckets.put(name, data)
    buckets.put("runs/one/checkpoints/notes/mine.txt", b"text")
    assert finished_steps(folder(RUN) / "checkpoints") == [1]
    reader = Checkpoints(RUN)
    assert reader.steps() == [1]
    reader.close()
    assert names(buckets, "runs/one/checkpoints") - {""} == {"1", "2", "notes"}  # a reader deletes nothing
    writer = saved(RUN)
    assert_is_step(writer.restore_newest(abstract(small_state(0))), 1)
    writer.save(2, small_state(2), metadata_of(2))
    writer.close()
    assert names(buckets, "runs/one/checkpoints") - {""} == {"1", "2", "notes"} and writer.steps() == [1, 2]


def test_checkpoints_that_were_copied_from_a_disk(buckets, tmp_path):
    """They have no commit file. Orbax alone takes them for beginnings, and a writer deletes those."""
    saved(tmp_path, 1, 2).close()
    upload(buckets, tmp_path, "runs/one")
    for is_milestone in (None, lambda step: False):
        checkpoints = Checkpoints(RUN, is_milestone=is_milestone)
        assert checkpoints.steps() == [1, 2]
        assert_is_step(checkpoints.restore_newest(abstract(small_state(0))), 2)
        checkpoints.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the reader's threads
def test_a_damaged_one_is_set_aside(buckets, capsys):
    saved(RUN, 1, 2).close()
    for name, data in buckets.objects().items():
        if name.startswith("runs/one/checkpoints/2/model/") and "/d/" in name:
            buckets.put(name, data[: len(data) // 2])
    checkpoints = saved(RUN)
    assert_is_step(checkpoints.restore_newest(abstract(small_state(0))), 1)
    checkpoints.close()
    assert "checkpoints/2 is damaged" in capsys.readouterr().err
    assert names(buckets, "runs/one/damaged") - {""} == {"2"} and "2" not in names(buckets, "runs/one/checkpoints")


def test_a_bucket_that_may_not_be_read_says_nothing_about_its_checkpoints(buckets, capsys):
    saved(RUN, 1, 2).close()
    before = buckets.objects()
    checkpoints = saved(RUN)
    with buckets.denying("", "checkpoints/2/model/manifest"), pytest.raises(Exception, match="403|PERMISSION_DENIED"):
        checkpoints.restore_newest(abstract(small_state(0)))
    checkpoints.close()
    assert "damaged" not in capsys.readouterr().err
    assert buckets.objects().keys() >= before.keys()


def test_a_bucket_of_others_is_one_sentence(buckets):
    with (
        buckets.denying("runs/one", ""),
        pytest.raises(UserError, match=rf"{RUN} cannot be written .*may this machine"),
    ):
        check_disk(RUN, 1)
    with pytest.raises(UserError, match=r"s3://bucket/run: .*only buckets of Google Cloud Storage \(gs://\)"):
        folder("s3://bucket/run")
    with pytest.raises(UserError, match="is there such a bucket, and does this machine's"):
        Checkpoints("gs://closed/runs/one", is_milestone=lambda step: False).steps()


def test_listings_are_never_old(buckets, monkeypatch):
    """Without TensorFlow too, where gcsfs keeps them unless it is told not to."""
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)
    buckets.put("runs/one/a", b"1")
    path = folder("gs://bucket/runs/one")
    assert path._backend is epath.backend.fsspec_backend
    assert [entry.name for entry in path.iterdir()] == ["a"]
    buckets.put("runs/one/b", b"1")
    assert [entry.name for entry in path.iterdir()] == ["a", "b"]
