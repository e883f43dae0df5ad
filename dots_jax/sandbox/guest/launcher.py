"""Where bubblewrap is missing: the same fences by system calls. Namespaces, a root of chosen folders, and Landlock.

python -c LAUNCHER JSON COMMAND...: JSON has `folders` (read only), `links`, `scratch_bytes`. Exit status 125: refused.
"""

import ctypes
import json
import os
import signal
import struct
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, NOATIME, NODIRATIME, RELATIME = 1, 2, 4, 8, 1024, 2048, 1 << 21
REMOUNT, BIND, REC, PRIVATE = 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
LIBC = ctypes.CDLL(None, use_errno=True)
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
SETUID, SETGID = 7, 6  # capabilities that start.py needs to leave root


def call(what, result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def mount(source, target, kind, flags, data=""):
    call(f"mount {target}", LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()))


def new_namespaces():
    uid, gid, root = os.getuid(), os.getgid(), os.getuid() == 0
    kinds = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    call("unshare", LIBC.unshare(kinds if root else kinds | NEWUSER))
    if not root:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def new_root(settings):
    """A folder in memory that holds the given folders, read only, and a scratch folder /tmp; it becomes /."""
    mount("none", "/", "", REC | PRIVATE)
    root = "/tmp"  # any folder that is there
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "mode=755")
    for folder in settings["folders"]:
        target = root + folder
        os.makedirs(target if os.path.isdir(folder) else os.path.dirname(target), mode=0o755, exist_ok=True)
        if not os.path.isdir(folder):
            open(target, "w").close()
        mount(folder, target, "", BIND | REC)
        flags = os.statvfs(target).f_flag  # a user namespace may not take away what is set
        flags = flags & (NOSUID | NODEV | NOEXEC | NOATIME | NODIRATIME) | (RELATIME if flags & 4096 else 0)
        mount("none", target, "", REMOUNT | BIND | RDONLY | NOSUID | flags)
    for link, text in settings["links"].items():
        os.symlink(text, root + link)
    for name in ("proc", "dev", "tmp", "old"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    mount("proc", root + "/proc", "proc", NOSUID | NODEV)
    for name in ("null", "zero", "urandom", "random"):
        open(f"{root}/dev/{name}", "w").close()
        mount(f"/dev/{name}", f"{root}/dev/{name}", "", BIND)
    mount("tmpfs", root + "/tmp", "tmpfs", NOSUID | NODEV, f"mode=1777,size={settings['scratch_bytes']}")
    call("pivot_root", LIBC.syscall(PIVOT_ROOT, root.encode(), f"{root}/old".encode()))
    os.chdir("/")
    call("umount", LIBC.umount2(b"/old", 2))
    os.rmdir("/old")
    mount("none", "/", "", REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    os.chdir("/tmp")


def landlock():
    """Read and execute everywhere in the new root, write in /tmp and to the devices. Nothing on a kernel before 5.13."""
    abi = LIBC.syscall(CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    ruleset = ctypes.create_string_buffer(struct.pack("=Q", every))
    rules = call("landlock", LIBC.syscall(CREATE_RULESET, ruleset, 8, 0))
    allowed = {"/": EXECUTE | READ_FILE | READ_DIR, "/tmp": every, "/dev": READ_FILE | WRITE_FILE | READ_DIR}
    for folder, rights in allowed.items():
        descriptor = os.open(folder, os.O_PATH)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights & every, descriptor))
        call("landlock rule", LIBC.syscall(ADD_RULE, rules, 1, rule, 0))
        os.close(descriptor)
    call("landlock", LIBC.syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)


def drop_capabilities(keep):
    for capability in range(64):
        if capability not in keep:
            LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    bits = sum(1 << capability for capability in keep)
    data = ctypes.create_string_buffer(struct.pack("=6I", bits, bits, 0, 0, 0, 0))
    call("capset", LIBC.capset(header, data))


def init(child):
    """Process 1 reaps what the program leaves; the kernel kills the others when it ends."""
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(status >> 8 if not status & 127 else 128 + (status & 127))


def main():
    settings, command = json.loads(sys.argv[1]), sys.argv[2:]
    root = os.getuid() == 0
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        new_namespaces()
        first = os.fork()
        if first:
            _, status = os.waitpid(first, 0)
            os._exit(status >> 8 if not status & 127 else 128 + (status & 127))
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        new_root(settings)
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        landlock()
        os.setsid()
        drop_capabilities({SETUID, SETGID} if root else set())
        child = os.fork()
        if child:
            init(child)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"refused: {error}", file=sys.stderr, flush=True)
        os._exit(125)


main()
