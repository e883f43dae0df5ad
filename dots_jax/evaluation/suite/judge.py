"""A judge model behind an OpenAI-compatible URL or a command, with its replies kept.

A URL gets POST URL/chat/completions with {"model", "messages", "temperature": 0}; the key, if the service wants one, is the
environment variable DOTS_JUDGE_KEY. A command gets {"messages": [...]} as JSON on its standard input and prints the reply.
"""

import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator

from dots_jax.config import UserError

SECONDS, TRIES, WORKERS = 300, 4, 8
KEY = "DOTS_JUDGE_KEY"
Messages = list[dict[str, str]]


class JudgeSilent(UserError):
    """The judge gives no reply. What it replied before is kept."""

    retryable = True

    def __init__(self, judge: str, why: str):
        super().__init__(
            f"The judge {judge} does not answer ({why}): its replies so far are kept; run the same command again."
        )


def open_judge(spec: str, model: str) -> Callable[[Messages], str]:
    """spec: an http(s) URL, or a command line. model: the name that a URL's service knows.

    Raises UserError for a URL without a model and a command that does not exist.
    """
    if not spec.startswith(("http://", "https://")):
        words = shlex.split(spec)
        if not words or not _found(words[0]):
            raise UserError(f"--judge is a URL or a command, but there is no command {words[0] if words else spec!r}.")
        return lambda messages: _run(spec, words, messages)
    if not model:
        raise UserError("Missing --judge_model: the name of the model at the judge's URL, as in --judge_model=gpt-4o.")
    return lambda messages: _post(spec, model, messages)


def _found(command: str) -> bool:
    import shutil

    return shutil.which(command) is not None


def _run(spec: str, words: list[str], messages: Messages) -> str:
    try:
        done = subprocess.run(
            words, input=json.dumps({"messages": messages}).encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JudgeSilent(spec, str(error)) from None
    if done.returncode:
        raise JudgeSilent(spec, f"exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return done.stdout.decode("utf-8", "replace")


def _post(url: str, model: str, messages: Messages) -> str:
    body = json.dumps({"model": model, "messages": messages, "temperature": 0}).encode()
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    address = url.rstrip("/") + ("" if url.rstrip("/").endswith("/chat/completions") else "/chat/completions")
    why = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(2**attempt)
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=SECONDS) as reply:
                return str(json.load(reply)["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            why = f"HTTP {error.code}"
            if error.code not in (408, 409, 429) and error.code < 500:
                break  # asking again would not help
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
    raise JudgeSilent(url, why)


class KeptJudge:
    """A judge whose replies are kept in a file of JSON lines, by everything that a reply depends on."""

    def __init__(self, path: str, spec: str, model: str):
        self._ask, self._names, self._path = open_judge(spec, model), [spec, model], path
        self._replies: dict[str, str] = {}
        self.asked = 0
        if os.path.exists(path):
            with open(path, "rb") as file:
                data = file.read()
            if not data.endswith(b"\n") and data:  # a line that was being written when the process was killed
                data = data[: data.rfind(b"\n") + 1]
                with open(path, "r+b") as file:
                    file.truncate(len(data))
            for line in data.splitlines():
                kept = json.loads(line)
                self._replies[kept["key"]] = kept["reply"]

    def replies(self, asked: Iterable[tuple[Messages, int]]) -> Iterator[str]:
        """In order; `WORKERS` at a time. asked: messages, and 1 where the same was asked before and its reply not understood.

        Raises JudgeSilent, after all replies before it are kept.
        """
        with open(self._path, "ab") as file, concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            for new, (key, reply) in pool.map(self._reply, asked):
                if new:
                    self.asked += 1
                    file.write(
                        json.dumps({"key": key, "reply": reply}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
                    )
                    file.flush()
                    os.fsync(file.fileno())
                    self._replies[key] = reply
                yield reply

    def _reply(self, asked: tuple[Messages, int]) -> tuple[bool, tuple[str, str]]:
        key = hashlib.sha256(json.dumps([*self._names, *asked]).encode()).hexdigest()
        if key in self._replies:
            return False, (key, self._replies[key])
        return True, (key, self._ask(asked[0]))
