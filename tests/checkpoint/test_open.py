"""One way to open a checkpoint: old records, later ones, damaged ones, and folders that are none."""

import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import gpath
from folder_bucket import FolderBucket
from synthetic_checkpoint import small_state, write_small

from dots_jax.checkpoint.metadata import (
    FORMAT_VERSION,
    CheckpointMetadata,
    DamagedCheckpoint,
    NewerFormat,
    StageData,
    read_metadata,
)
from dots_jax.checkpoint.open import finished_steps, open_checkpoint
from dots_jax.checkpoint.store import Checkpoints
from dots_jax.config import CheckpointConfig, ComputeConfig, UserError, tiny
from dots_jax.model.model_def import ModelDef

# Checkpoints of a run and of a conversion, from before the record had a version. They must stay readable for ever: when the
# record changes, add a file of the version before, and leave this one. The run's optimizer state is left out.
UNVERSIONED = Path(__file__).parent / "unversioned.tar.xz"


@pytest.fixture(scope="module")
def unversioned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unversioned")
    with tarfile.open(UNVERSIONED) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small")
    write_small(workdir, tiny(), 3, 5)
    return workdir


def restored(opened, **options):
    definition = ModelDef(opened.model, ComputeConfig(dtype="float32", remat="none"), None)
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = definition.abstract()
    return opened.restore(shapes, jax.tree.map(lambda _: one_device, shapes), **options)


# --- the record -------------------------------------------------------------------------------------------------------


def test_a_run_from_before_versions(unversioned):
    assert "format_version" not in json.loads((unversioned / "run/checkpoints/4/record/metadata").read_text())
    opened = open_checkpoint(str(unversioned / "run"))
    metadata = opened.metadata
    assert (opened.step, opened.steps, metadata.position, metadata.tokens) == (4, [4], 16, 512)
    assert metadata.is_training_run and metadata.compute_dtype == "float32" and opened.tokenizer == ""
    assert (opened.model.num_layers, opened.model.hidden_size, opened.model.vocab_size) == (2, 4, 259)
    (stage,) = metadata.data
    assert (stage.name, stage.rates, stage.untie) == ("stable", {"small_numbers": "3/10", "small_prose": "7/10"}, None)
    assert [stage.name for stage in metadata.stages] == ["stable", "anneal"]
    assert metadata.schedule_of_saves == CheckpointConfig(every_steps=2, keep_last=1, milestone_tokens=256)
    assert metadata.exposure["stable"]["small_prose"]["tokens"] > 0 and metadata.gin.startswith("# --- run.gin")
    params, router_bias = restored(opened)  # compares the checksums
    assert params["embed"]["w_VD"].shape == (259, 4) and router_bias.shape == (1, 2)


def test_a_conversion_from_before_versions(unversioned):
    opened = open_checkpoint(str(unversioned / "converted"))
    assert not opened.metadata.is_training_run and opened.tokenizer is None and opened.metadata.compute_dtype is None
    assert opened.metadata.hf_config["model_type"] == "dots1" and opened.metadata.source_fingerprint
    assert opened.metadata.stages == () and opened.metadata.schedule_of_saves is None
    params, router_bias = restored(opened, stored_dtypes=True)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"} and router_bias.dtype == "float32"
    wide, _ = restored(opened)
    assert wide["head"]["w_DV"].dtype == "float32"
    np.testing.assert_array_equal(wide["head"]["w_DV"], params["head"]["w_DV"].astype("float32"))


FULL = CheckpointMetadata(
    step=7, model=tiny(), position=56, tokens=1792,
    data=(
        StageData("a", "m", {"t": "1/3"}, 32, 0, "c0"),
        StageData("b", "m", {"t": "1"}, 64, 0, "c1", untie={"first_id": 300}),
    ),
    exposure={"a": {"t": {"tokens": 5, "epochs": 0.5}}},
    config={"data": {"tokenizer": "t.json"}, "compute": {"dtype": "bfloat16"}}, gin="x = 1\n", dtypes={"['model']": "bfloat16"},
    checksums={"['model']": 3}, tokenizer_files=("tokenizer.json",),
)  # fmt: skip


def write_record(folder, record: dict) -> epath.Path:
    (folder / "record").mkdir(parents=True, exist_ok=True)
    (folder / "record" / "metadata").write_text(json.dumps(record))
    return epath.Path(folder)


def test_what_is_written_is_what_is_read(tmp_path):
    record = FULL.to_json()
    assert record["format_version"] == FORMAT_VERSION and "untie" not in record["data"][0] and "kind" not in record
    metadata = read_metadata(write_record(tmp_path, record))
    assert metadata == dataclasses.replace(FULL, checksum=record["checksum"])
    assert metadata.run_tokenizer == "t.json"
    # What code from before versions reads.
    small = CheckpointMetadata(step=0, model=tiny()).to_json()
    assert {"step", "position", "tokens", "data", "model", "checksums", "checksum"} <= small.keys()


def test_the_field_that_differs():
    stage = FULL.data[0]
    assert stage.first_difference(stage) is None
    assert stage.first_difference(dataclasses.replace(stage, seed=1, content="c2")) == "seed"


def resealed(record: dict, **changes) -> dict:
    """The record with changes and a checksum that fits."""
    from dots_jax.checkpoint import metadata

    record = record | changes
    return record | {"checksum": metadata._checksum(record)}


def test_a_later_version_is_refused_and_left_alone(small, tmp_path):
    shutil.copytree(small, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "5"
    record = json.loads((newest / "record" / "metadata").read_text())
    write_record(newest, resealed(record, format_version=FORMAT_VERSION + 1, soul=[1]))
    sentence = (
        rf"checkpoints/5 has the record format {FORMAT_VERSION + 1}, but this version .* up to {FORMAT_VERSION}: update"
    )
    with pytest.raises(NewerFormat, match=sentence):
        open_checkpoint(str(tmp_path / "run"))
    checkpoints = Checkpoints(str(tmp_path / "run"), CheckpointConfig(), lambda step: False)
    with pytest.raises(NewerFormat):
        checkpoints.newest_metadata()
    with pytest.raises(NewerFormat):  # a run must not take it for damaged and go on from an older one
        checkpoints.restore_newest({})
    assert checkpoints.steps() == [3, 5] and not (tmp_path / "run" / "damaged").exists()
    checkpoints.close()
    assert open_checkpoint(str(tmp_path / "run"), step=3).step == 3


@pytest.mark.parametrize(
    "text, reason",
    [
        (None, "its record cannot be read: .*No such file"),
        ("", "its record is not JSON"),
        ('{"step": 1', "its record is not JSON"),
        ("[]", "its record is not the one that was saved"),
        ("{}", "its record is not the one that was saved"),
        (json.dumps(FULL.to_json()).replace('"step": 7', '"step": 8'), "its record is not the one that was saved"),
        (json.dumps(resealed(FULL.to_json(), soul=1)), "its record has unknown contents: .*soul"),
        (json.dumps(resealed(FULL.to_json(), model={"num_eyes": 2})), "its record has unknown contents: .*num_eyes"),
    ],
)
def test_a_damaged_record(tmp_path, text, reason):
    folder = write_record(tmp_path / "9", {})
    metadata = folder / "record" / "metadata"
    metadata.unlink() if text is None else metadata.write_text(text)
    with pytest.raises(DamagedCheckpoint, match=f"The checkpoint .*9 cannot be read: {reason}.*Use the checkpoint of"):
        read_metadata(folder)


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/3", "checkpoints/5/"])
def test_any_folder_of_a_run(small, part):
    opened = open_checkpoint(f"{small}/{part}")
    assert opened.step == (3 if "3" in part else 5) and opened.steps == [3, 5] and opened.workdir == epath.Path(small)
    assert opened.at(3).step == 3


def test_steps(small, tmp_path):
    assert open_checkpoint(str(small), step=3).step == 3
    with pytest.raises(UserError, match=r"There is no checkpoint of step 4 in .*checkpoints: it has 3, 5\."):
        open_checkpoint(str(small), step=4)
    with pytest.raises(UserError, match=r"There is no checkpoint of step 4 in .*checkpoints: it has 3, 5\."):
        open_checkpoint(str(small)).at(4)
    with pytest.raises(UserError, match=r"is the checkpoint of step 3, not of step 5: give one of the two\."):
        open_checkpoint(f"{small}/checkpoints/3", step=5)
    shutil.copytree(small / "checkpoints" / "3", tmp_path / "mine")
    alone = open_checkpoint(str(tmp_path / "mine"))
    assert alone.steps == [3] and alone.workdir is None and alone.tokenizer is None


def test_the_tokenizer_in_the_workdir_comes_first(small, tmp_path):
    shutil.copytree(small, tmp_path / "run")
    assert open_checkpoint(str(tmp_path / "run")).tokenizer is None
    (tmp_path / "run" / "tokenizer.json").write_text("{}")
    assert open_checkpoint(str(tmp_path / "run")).tokenizer == str(tmp_path / "run" / "tokenizer.json")


def test_an_unfinished_checkpoint_in_a_bucket_does_not_count(small, tmp_path, monkeypatch):
    """Orbax writes it under its own name there, and its commit file last."""
    shutil.copytree(small, tmp_path / "run")
    fake = FolderBucket(tmp_path)
    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda self: fake))
    assert finished_steps(epath.Path("gs://bucket/run/checkpoints")) == [3, 5]
    (tmp_path / "run" / "checkpoints" / "5" / "commit_success.txt").unlink(missing_ok=True)
    (tmp_path / "run" / "checkpoints" / "5" / "_CHECKPOINT_METADATA").unlink()
    assert open_checkpoint("gs://bucket/run").step == 3


@pytest.mark.subprocess
def test_opening_loads_neither_jax_nor_orbax(small):
    code = (
        "import sys\n"
        "from dots_jax.checkpoint.open import open_checkpoint\n"
        f"opened = open_checkpoint({str(small)!r})\n"
        "opened.arrays.read('params/embed/w_VD', (3,), 'float32')\n"
        "assert opened.step == 5 and not set(sys.modules) & {'jax', 'orbax', 'flax', 'tensorflow'}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_restore(small):
    params, router_bias = restored(open_checkpoint(str(small)))
    saved = small_state(tiny(), 5)
    for a, b in zip(
        jax.tree.leaves((params, router_bias)), jax.tree.leaves((saved.params, saved.router_bias)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_damaged_arrays(small, tmp_path):
    shutil.copytree(small / "checkpoints" / "3", tmp_path / "mine")
    for file in (tmp_path / "mine" / "model").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(UserError, match="mine.* cannot be read: "):
        restored(open_checkpoint(str(tmp_path / "mine")))


@pytest.mark.subprocess
def test_the_old_name_of_the_store():
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from dots_jax.config import CheckpointConfig\n"
        "from dots_jax.training.checkpoint import Checkpoints\n"
        "import sys, tempfile\n"
        "for writes in (None, lambda step: False):\n"
        "    checkpoints = Checkpoints(tempfile.mkdtemp(), CheckpointConfig(), writes)\n"
        "    assert checkpoints.steps() == []\n"
        "    checkpoints.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
