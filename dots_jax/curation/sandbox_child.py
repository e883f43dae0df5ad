"""The child of sandbox.py: reads a page, sets its limits, extracts, answers; one after the other until its input ends."""

import json
import logging
import os
import resource
import struct
import sys

from dots_jax.config import ExtractConfig
from dots_jax.curation.extract import extract

_LENGTH = struct.Struct("<Q")


def main() -> None:
    config = ExtractConfig(**json.loads(sys.argv[1]))
    logging.disable(logging.CRITICAL)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # what a library prints is no answer
    extract("<html><body><p>Loads the libraries.</p></body></html>", "trafilatura", config)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = config.memory << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _answer(answers, {})
    while header := requests.read(_LENGTH.size):
        engine, _, html = requests.read(_LENGTH.unpack(header)[0]).decode().partition("\n")
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + config.seconds
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        try:
            text, engine, wrong = extract(html, engine, config)
            answer = {"text": text, "engine": engine, "wrong": wrong}
        except MemoryError:
            answer = {"reason": "memory limit", "detail": f"{engine} needed more than {config.memory} MiB"}
        except Exception as error:  # noqa: BLE001  a library's own errors have no common class
            # Some libraries answer a failed allocation with an error of another name.
            reason = "memory limit" if _peak_kib() > 0.9 * (limit >> 10) else "extractor failed"
            answer = {"reason": reason, "detail": f"{engine}: {type(error).__name__}: {error}"[:200]}
        _answer(answers, answer)


def _peak_kib() -> int:
    """The largest address space that this process ever had."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmPeak"))


def _answer(answers, answer: dict) -> None:
    data = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
    answers.write(_LENGTH.pack(len(data)) + data)
    answers.flush()


if __name__ == "__main__":
    main()
