"""Runs of several processes on this machine: where they meet, on which mesh, and what they printed."""

import socket

# Two processes of four devices each.
MESH = ("MeshConfig.data = 2", "MeshConfig.expert = 2", "MeshConfig.context = 2")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def outputs(processes) -> list[tuple[str, str]]:
    """stdout and stderr of processes that must end well."""
    try:
        told = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, stderr) in zip(processes, told):
        assert process.returncode == 0, stderr
    return told
