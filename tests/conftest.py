"""For every test: 8 fake CPU devices, quiet libraries, no network.

Light on purpose: neither jax nor TensorFlow is imported here, so that collecting the tests and running the small ones
stays fast.
"""

import os
import socket

os.environ["JAX_PLATFORMS"] = "cpu"
_DEVICES = "--xla_force_host_platform_device_count="
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}8".strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
os.environ.setdefault("NO_GCE_CHECK", "true")  # TensorFlow Datasets otherwise asks the network whether this is a cloud
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest

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
def process_env(pytestconfig, tmp_path_factory):
    """The environment for a test that starts a command as a process: this checkout, and what one process compiled the
    next one need not. The cache is new for each session, so that nothing stale decides a test."""
    return {
        **os.environ,
        "PYTHONPATH": str(pytestconfig.rootpath),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory):
    """Token caches of `small_run`, made once."""
    return tmp_path_factory.mktemp("small_cache")


@pytest.fixture
def workdir(tmp_path, small_cache, process_env, monkeypatch):
    """A new run of `small_run`. Most of the time of such a run is compilation: with few optimisations it takes half as
    long, and what is compiled here or in a process of `process_env` is compiled once a session."""
    from numerics import quick_compilation
    from small_run import Workdir

    monkeypatch.setattr(
        "dots_jax.training.preflight.peak_flops", lambda device: (1e10, "assumed")
    )  # measuring takes a second
    with quick_compilation(process_env["JAX_COMPILATION_CACHE_DIR"]):
        yield Workdir(tmp_path, small_cache, {**process_env, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"})
