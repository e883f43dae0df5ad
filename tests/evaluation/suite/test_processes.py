"""The same answers on any number of devices and processes.

Claim: 50 generations with several stop strings, Chinese ones among them, are the same text in batches of 1, 3 and 16, on one and
  eight devices, in one and two processes; log-probabilities agree to 1e-5.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import free_port, outputs
from session import compiler_flags

SCRIPT, ROOT = Path(__file__).with_name("answer_requests.py"), Path(__file__).parents[3]


def start(devices: int, *arguments) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": compiler_flags(devices), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_batches_devices_and_processes_change_nothing(checkpoint, tmp_path):
    found = {}

    def read(name: str) -> dict:
        return json.loads((tmp_path / name).read_text())

    for batch, devices in ((16, 1), (1, 1), (3, 1), (16, 8)):
        name = f"batch {batch}, {devices} devices"
        outputs([start(devices, checkpoint, batch, tmp_path / name)])
        found[name] = read(name)
    address = f"127.0.0.1:{free_port()}"
    outputs([start(4, checkpoint, 16, tmp_path / "two", f"{address},{process},2") for process in range(2)])
    found["two processes"] = read("two")
    first = found["batch 16, 1 devices"]
    assert {ended for _, ended in first["texts"]} == {"stop", "length"} and len(first["texts"]) == 50
    assert [each["devices"] for each in found.values()] == [1, 1, 1, 8, 8]
    for name, each in found.items():
        assert each["texts"] == first["texts"], name
        assert np.allclose(each["logprobs"], first["logprobs"], rtol=1e-5, atol=1e-5), name


@pytest.mark.slow
def test_two_processes_write_the_same_answers(checkpoint, data, tmp_path):
    def command(name: str, *more) -> list[str]:
        flags = (
            f"--checkpoint={checkpoint}",
            f"--data={data}",
            f"--output={tmp_path / name}",
            "--rows=mmlu,gsm8k",
            "--ranking",
        )
        return [sys.executable, "-m", "dots_jax.evaluate", "--suite=table2", *flags, *more]

    def run(*commands: list[str]) -> list[tuple[str, str]]:
        environment = os.environ | {"XLA_FLAGS": compiler_flags(2), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return outputs([subprocess.Popen(each, env=environment, **pipes) for each in commands])

    run(command("one"))
    address = f"127.0.0.1:{free_port()}"
    together = [command("two", f"--distributed={address},{process},2") for process in range(2)]
    told = run(*together)
    assert "mmlu: " in told[0][0] and "mmlu" not in told[1][0]
    for name in ("items.jsonl", "results.json"):
        one, two = ((tmp_path / run / name).read_text() for run in ("one", "two"))
        if name == "items.jsonl":
            one, two = ([json.loads(line) for line in text.splitlines()] for text in (one, two))
            for a, b in zip(one, two, strict=True):
                assert np.allclose(a.pop("logprobs", 0), b.pop("logprobs", 0), rtol=1e-5, atol=1e-5)
        assert one == two
    # A folder of another run ends both with the same sentence.
    bad = [[*each, "--dtype=bfloat16"] for each in together]
    environment = os.environ | {"XLA_FLAGS": compiler_flags(2), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    started = [subprocess.Popen(each, env=environment, stderr=subprocess.PIPE, text=True) for each in bad]
    for process in started:
        assert "another run (different: dtype)" in process.communicate(timeout=400)[1] and process.returncode == 2
