"""25 programs that do what model-written code must not. Run as a script, it judges them all at once and prints JSON.

Each is asked for `assert f(2) == 4 and f(3) == 6`. It answers right only if its attack succeeds, or forges its verdict.
"""

import concurrent.futures
import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time

TESTS = "assert f(2) == 4 and f(3) == 6"
SUCCEEDED = "\ndef f(x): return 2 * x if succeeded else None\n"
TRY = "succeeded = False\ntry:\n{}\n    succeeded = True\nexcept BaseException: pass" + SUCCEEDED

FRAMES = """
import sys, gc
def f(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, list): value.append('passed')
            if isinstance(value, dict): value.update(result='passed', passed=True, status='passed')
        frame = frame.f_back
    for each in gc.get_objects():
        if isinstance(each, list) and len(each) < 3: each.append('passed')
"""
FORGED_NONCE = """
import os, re, sys
text = ' '.join(map(str, sys.argv)) + str(os.environ) + open('/proc/self/cmdline').read()
def f(x):
    for number in range(256):
        for line in (*re.findall('[0-9a-f]{64}', text), 'passed', 'ok'):
            try: os.write(number, line.encode())
            except OSError: pass
    os._exit(0)
"""
EVERYTHING_EQUAL = """
class All:
    __eq__ = __ge__ = __le__ = lambda *_: True
    __ne__ = __lt__ = __gt__ = lambda *_: False
    __hash__ = lambda _: 0
    __bool__ = lambda _: True
def f(x): return All()
"""
LYING_INT = """
class Lie(int):
    __eq__ = lambda *_: True
    __ne__ = lambda *_: False
    __hash__ = int.__hash__
def f(x): return Lie(7)
"""
DAEMON = """
import os, time
def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 256)
            time.sleep(1000)
        os._exit(0)
    raise SystemExit(0)
"""
SWALLOWED_ALARM = """
import signal
for number in range(1, 64):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
"""
PTRACE = """
import ctypes, os
libc, succeeded = ctypes.CDLL(None), False
inside = (1, 2, 3, os.getpid())  # the fence's own, without any rights
for pid in {{{parent}, *(int(each) for each in os.listdir('/proc') if each.isdigit())}}.difference(inside):
    try:
        open(f'/proc/{{pid}}/mem', 'r+b').close()
        succeeded = True
    except OSError: pass
    succeeded |= libc.ptrace(16, pid, 0, 0) == 0
"""
RAISED_LIMITS = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
succeeded = len(bytearray(10 << 30)) > 0
"""
REDEFINED = """
import builtins, unittest, os
class AssertionError(BaseException):
    def __new__(cls, *a): os._exit(0)
builtins.AssertionError = AssertionError
builtins.exec = builtins.compile = lambda *a, **k: None
def check(candidate): pass
def abs(x): return 0
__builtins__['all'] = lambda *_: True
def f(x): raise AssertionError('no')
"""
OVERWRITTEN = """
import glob, os
for folder in ('.', '/tmp', {folder!r}):
    for path in glob.glob(folder + '/**', recursive=True):
        try:
            with open(path, 'w') as file: file.write('def check(candidate): pass')
        except OSError: pass
def f(x): return None
"""

MANY_FILES = """
def f(x):
    for n in range(10**9):
        with open(f'/tmp/{n}', 'wb') as file: file.write(b'1' * (8 << 20))
"""
SIGNALS = """
import os
for pid in ({parent}, -1):
    try: os.kill(pid, 19)
    except OSError: pass
"""

HOSTILE = {
    "fork bomb": "import os\ndef f(x):\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "10 GB": "def f(x):\n    held = []\n    while True: held.append(bytearray(b'1') * (100 << 20))",
    "64 GB in children": "import os\ndef f(x):\n    for _ in range(64): os.fork()\n    held = bytearray(b'1') * (1 << 30)",
    "endless output": "import os\ndef f(x):\n    while True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)",
    "1 GB file": "def f(x):\n    with open('/tmp/big', 'wb') as file:\n        for _ in range(1024): file.write(b'1' * (1 << 20))",
    "many files": MANY_FILES,
    "sleep": "import time\ndef f(x): time.sleep(10**6)",
    "exit before the asserts": "import sys\nsys.exit(0)",
    "os._exit in a call": "import os\ndef f(x): os._exit(0)",
    "overwrite the tests": OVERWRITTEN,
    "socket": TRY.format("    import socket; socket.create_connection(('127.0.0.1', {port}), 2)"),
    "unix socket": TRY.format("    import socket; socket.socket(socket.AF_UNIX).connect({folder!r} + '/socket')"),
    "environment": TRY.format("    import os; os.environ['HOSTILE_SECRET']"),
    "files of the parent": TRY.format("    assert open({folder!r} + '/secret').read()"),
    "environment of the parent": TRY.format("    assert open('/proc/{parent}/environ').read()"),
    "files outside": TRY.format("    open({folder!r} + '/written', 'w').write('touched')"),
    "daemon": DAEMON,
    "redefined assert": REDEFINED,
    "printed markers": FORGED_NONCE,
    "frame walk": FRAMES,
    "equal to everything": EVERYTHING_EQUAL,
    "int that lies": LYING_INT,
    "swallowed alarm": SWALLOWED_ALARM,
    "signals and ptrace": SIGNALS + PTRACE + SUCCEEDED,
    "raised limits, segfault": TRY.format("    exec({limits!r})").replace(SUCCEEDED, "") + SUCCEEDED
    + "import ctypes\nif not succeeded: ctypes.string_at(0)\n",
}  # fmt: skip
assert len(HOSTILE) == 25


@contextlib.contextmanager
def host():
    """What must stay as it is: a folder that anyone may write to, a port, an environment. Yields the words of the programs."""
    os.environ["HOSTILE_SECRET"] = "secret"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o777)
        with open(folder + "/secret", "w") as file:
            file.write("secret")
        os.chmod(folder + "/secret", 0o666)
        met = []
        local, server = (
            stack.enter_context(each) for each in (socket.socket(socket.AF_UNIX), socket.create_server(("", 0)))
        )
        local.bind(folder + "/socket")
        os.chmod(folder + "/socket", 0o777)
        local.listen()
        for each in (local, server):
            threading.Thread(target=lambda each=each: met.append(each.accept()), daemon=True).start()
        words = {"folder": folder, "port": server.getsockname()[1], "parent": os.getpid(), "limits": RAISED_LIMITS}
        yield words
        assert not met, "a program reached a socket of the host"
        assert sorted(os.listdir(folder)) == ["secret", "socket"] and open(folder + "/secret").read() == "secret"


def running() -> dict[int, str]:
    """This process and those below it that still run: id -> state and command. A zombie waits for its parent, and runs nothing."""
    from dots_jax.sandbox.processes import usage

    found = {}
    for pid in usage([os.getpid()]).pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            name, _, state = file.read().rpartition(")")
            if state.split()[0] not in "ZX":
                found[pid] = f"{state.split()[0]} {name.partition('(')[2]}"
    return found


def judge_all(means: str, repeat: int = 1) -> dict[str, list]:
    """Verdict and seconds of each, all at the same time; nothing of them is alive after."""
    from dots_jax.sandbox.check import ScriptTests, check
    from dots_jax.sandbox.limits import Limits
    from dots_jax.sandbox.run import Sandbox

    limits = Limits(cpu_seconds=2, wall_seconds=10, memory_bytes=256 << 20, processes=24, file_bytes=32 << 20)
    before = running()
    sandbox = Sandbox(means)
    with host() as words, concurrent.futures.ThreadPoolExecutor(len(HOSTILE)) as pool:

        def one(name):
            text, began = HOSTILE[name], time.monotonic()
            for word, value in words.items():
                text = text.replace("{" + word + "!r}", repr(value)).replace("{" + word + "}", str(value))
            verdict = check(
                sandbox, text.replace("{{", "{").replace("}}", "}"), ScriptTests(code=TESTS, entry_point="f"), limits
            )
            return [verdict.status, round(time.monotonic() - began, 2), verdict.detail[:80]]

        found = dict(zip(HOSTILE, pool.map(one, HOSTILE)))
    deadline = time.monotonic() + 5  # the kernel takes a moment to bury what was killed
    while (
        outlived := {pid: text for pid, text in running().items() if pid not in before}
    ) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not outlived, f"outlived its verdict: {outlived}"
    return found


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    print(json.dumps(judge_all(sys.argv[1])))
