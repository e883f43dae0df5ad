"""For every test: 8 fake CPU devices, quick compilation, quiet libraries, no network; and what the run took from the machine.

Light on purpose: neither jax nor TensorFlow is imported here, so that collecting the tests and running the small ones
stays fast.
"""

import os
import shutil
import signal
import socket
import tempfile

from session import (
    MemoryWatch,
    compiler_flags,
    forget_compiled,
    forget_compiled_above,
    interrupts,
    largest_processes,
)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = compiler_flags(8)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
os.environ.setdefault("NO_GCE_CHECK", "true")  # TensorFlow Datasets otherwise asks the network whether this is a cloud
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")  # TensorFlow: tests use the same names in a bucket again
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# The same HLO, less work in LLVM: half the compile time, for programs that run a few times on little data. And what one
# test, worker or process of a test compiled, none of the others compiles again. The folder is new for each run of the
# tests, so that nothing stale decides one.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ  # it has the environment of the process that started it
if not IS_WORKER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dots_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest

# --- the run ------------------------------------------------------------------------------------------------------------

PEAKS: list[tuple[int, int]] = []  # of this process, or of each worker: its own and its largest child's


def pytest_configure(config):
    if not IS_WORKER:
        config.memory_watch = MemoryWatch()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    result = yield
    forget_compiled_above(700)
    if number := interrupts.came():
        pytest.exit(f"{signal.Signals(number).name} during {item.nodeid}", returncode=128 + number)
    return result


def pytest_sessionfinish(session):
    if IS_WORKER:
        session.config.workeroutput["peaks"] = largest_processes()
    else:
        PEAKS.append(largest_processes())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    PEAKS.append(tuple(getattr(node, "workeroutput", {}).get("peaks", (0, 0))))


def pytest_terminal_summary(terminalreporter, config):
    at_once = config.memory_watch.stop()
    largest, child = (max(values) for values in zip(*PEAKS))
    terminalreporter.line(
        f"memory: at most {at_once:,.0f} MiB at once, in all processes; the largest process of the tests {largest:,} MiB, the "
        f"largest that a test started {child:,} MiB"
    )


def pytest_unconfigure():
    if not IS_WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def memory_of_one_file():
    yield
    forget_compiled()


# --- what a test gets ---------------------------------------------------------------------------------------------------

_connect = socket.socket.connect


def _connect_at_home(self, address):
    """Tests run offline: a connection to anything but this machine is a bug that the author's network would hide."""
    at_home = self.family not in (socket.AF_INET, socket.AF_INET6) or str(address[0]) in (
        "127.0.0.1",
        "::1",
        "localhost",
    )
    if not at_home:
        raise AssertionError(f"A test tried to reach the network: {address}.")
    return _connect(self, address)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", _connect_at_home)


@pytest.fixture
def repo_root(request):
    """The folder that holds `gin/` and `dots_jax/`."""
    return request.config.rootpath


@pytest.fixture(scope="session")
def process_env(pytestconfig):
    """The environment for a test that starts a command as a process: this checkout."""
    return {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)}


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory):
    """Token caches of `small_run`, made once in each process of the tests."""
    return tmp_path_factory.mktemp("small_cache")


@pytest.fixture(scope="module")
def steps_made():
    """Compiled steps that the runs of one file share."""
    return {}


@pytest.fixture
def workdir(tmp_path, small_cache, process_env, steps_made, monkeypatch):
    """A new run of `small_run`."""
    from compiled_once import share_steps
    from small_run import Workdir

    share_steps(monkeypatch, steps_made)

    monkeypatch.setattr(
        "dots_jax.training.preflight.peak_flops", lambda device: (1e10, "assumed")
    )  # measuring takes a second
    return Workdir(tmp_path, small_cache, process_env)


@pytest.fixture(scope="session")
def bucket_server():
    """A server of buckets for the session: some clients keep the address that they were given first."""
    from bucket_server import BucketServer

    with BucketServer() as server:
        yield server


@pytest.fixture
def buckets(bucket_server, monkeypatch):
    """gs:// leads to the server, in which there is nothing yet."""
    for name, value in bucket_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket_server.clear()
    return bucket_server
