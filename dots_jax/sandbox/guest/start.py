"""First program inside the sandbox: sets the limits of its process for good, gives up root, then becomes the program.

python -c START LIMITS_JSON PROGRAM ARGUMENT...: PROGRAM is the text of a Python program after `-`, else a command.
"""

import json
import os
import resource
import sys


def limit(kind, value):
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def start():
    limits = json.loads(sys.argv[1])
    if limits["uid"] is not None:
        for uid in (limits["uid"], 65534):  # a container may map few users
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(uid, uid, uid)
                break
            except OSError:
                continue
        if os.getuid() == 0 or os.geteuid() == 0:
            sys.exit("cannot give up root")
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, int(limits["cpu_seconds"]) + 2)
    limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    limit(resource.RLIMIT_NOFILE, 256)
    limit(resource.RLIMIT_AS, limits["memory_bytes"])
    limit(resource.RLIMIT_STACK, 64 << 20)
    if limits["count_processes"]:
        limit(resource.RLIMIT_NPROC, limits["processes"])
    if sys.argv[2] != "-":
        os.execvp(sys.argv[2], sys.argv[2:])


start()
if sys.argv[2] == "-":
    _text, sys.argv = sys.argv[3], ["program", *sys.argv[4:]]
    exec(compile(_text, "<sandbox>", "exec"))
