"""Two processes with four devices each are one process with eight.

Claim: two processes train what one process trains.
"""

import time

import jax
import numpy as np
import pytest
from processes import MESH, free_port, outputs
from session import compiler_flags
from small_run import restored

from dots_jax.config import MeshConfig
from dots_jax.parallel.batches import put_batch
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import batch_sharding


def start_two(workdir, *bindings, flags=()):
    address = f"127.0.0.1:{free_port()}"
    return [
        workdir.start(
            *MESH, *bindings, flags=(*flags, f"--distributed={address},{process},2"),
            XLA_FLAGS=compiler_flags(4),
        )
        for process in range(2)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.subprocess
def test_two_processes_train_as_one(workdir):
    one = workdir.another("one")
    assert one.train(*MESH, flags=("--max_steps=12",)) == 0

    # One process begins, two go on until both are asked to stop at a step that nobody chose, one ends it alone.
    assert workdir.train(*MESH, flags=("--max_steps=3",)) == 0
    processes = start_two(workdir)
    deadline = time.monotonic() + 400
    while len(workdir.rows()) < 5:
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for process in processes:
        process.terminate()
    (out, err), (quiet_out, quiet_err) = outputs(processes)
    stopped = workdir.steps()[-1]
    assert 5 <= stopped < 40
    assert "8 cpu device(s), 2 process(es)" in out and "resuming    after step 3 " in out
    # Not compared with "": Gloo, which connects the processes, prints there, its lines sometimes mixed up.
    words = ("parameters", "mesh", "stages", "step", "tokens", "finished", "error", "saved")
    assert [word for word in words if word in quiet_out + quiet_err] == []
    assert len(list((workdir.path / "tensorboard").glob("events.out.*"))) == 2  # of the one process and of process 0
    assert f"SIGTERM: saved a checkpoint after step {stopped};" in err

    last = max(stopped + 1, 12)
    assert workdir.train(*MESH, flags=(f"--max_steps={last}",)) == 0
    if last > 12:
        assert one.train(*MESH, flags=(f"--max_steps={last}",)) == 0
    rows, expected = workdir.rows(), one.rows()
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("loss", "grad_norm", "balance_loss", "param_norm"):
        np.testing.assert_allclose([r[name] for r in rows], [r[name] for r in expected], rtol=1e-5, err_msg=name)
    for row, other in zip(rows, expected):
        assert row["mean_load"] == other["mean_load"] and row["tokens"] == other["tokens"]
    arrays = restored(one, last)
    np.testing.assert_array_equal(restored(workdir, last)["model['router_bias']"], arrays["model['router_bias']"])


class _Devices:
    """A sharding as one of two processes sees it: the first or last four of eight devices."""

    def __init__(self, process, mesh):
        self.complete = batch_sharding(make_mesh(mesh))
        self._mine = set(jax.devices()[4 * process : 4 * process + 4])

    def addressable_devices_indices_map(self, shape):
        indices = self.complete.addressable_devices_indices_map(shape)
        return {device: index for device, index in indices.items() if device in self._mine}


# The rows that each of the two processes reads: half of them each, but all where a sequence lies over both of them.
@pytest.mark.parametrize(
    "mesh, rows_of",
    [
        (MeshConfig(data=2, fsdp=2, expert=2), [(0, 8), (8, 16)]),
        (MeshConfig(fsdp=4, context=2), [(0, 8), (8, 16)]),
        (MeshConfig(fsdp=2, context=4), [(0, 8), (8, 16)]),
        (MeshConfig(fsdp=1, context=8), [(0, 16), (0, 16)]),
    ],
    ids=str,
)
def test_each_process_reads_only_its_rows(monkeypatch, mesh, rows_of):
    """Each reads them once, and puts them on its own devices; together the devices hold every token once."""
    placed = {}

    def on_devices(shape, sharding, shard):
        return {device: shard(index) for device, index in sharding.addressable_devices_indices_map(shape).items()}

    monkeypatch.setattr(jax, "make_array_from_callback", on_devices)
    token = lambda rows: 10 * np.array(list(rows), np.int32)[:, None] + np.arange(8, dtype=np.int32)
    for process, (first, last) in enumerate(rows_of):
        read = []

        def rows(indices, read=read):
            read += indices
            return dict.fromkeys(("tokens", "targets"), token(indices))

        arrays = put_batch(rows, 100, 16, 8, _Devices(process, mesh), keys=("tokens", "targets"))
        assert read == list(range(100 + first, 100 + last))
        assert len(arrays["tokens"]) == 4
        placed |= arrays["tokens"]
    everything = token(range(100, 116))
    assert sorted(np.concatenate([a.ravel() for a in placed.values()])) == sorted(everything.ravel())
    for device, index in _Devices(0, mesh).complete.devices_indices_map((16, 8)).items():
        np.testing.assert_array_equal(placed[device], everything[index])


@pytest.mark.parametrize(
    "mesh, size",
    [(MeshConfig(fsdp=1), 8), (MeshConfig(fsdp=4), 8), (MeshConfig(fsdp=8), 16), (MeshConfig(fsdp=2, context=4), 8)],
    ids=str,
)
def test_a_batch_is_the_same_on_any_mesh(mesh, size):
    sharding = batch_sharding(make_mesh(mesh))
    rng = np.random.default_rng(0)
    everything = {"tokens": rng.integers(9, size=(64, 8)), "weights": rng.random((64, 8), np.float32)}
    read = lambda rows: {k: v[list(rows)] for k, v in everything.items()}
    batch = put_batch(read, 24, size, 8, sharding, keys=tuple(everything))
    for name, array in batch.items():
        assert array.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_array_equal(array, everything[name][24 : 24 + size])
