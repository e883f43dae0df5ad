#!/usr/bin/env python3
"""A cloud in a folder: stands in for gcloud on the PATH of tests, records every call, and fails as it is told to.

FAKE_CLOUD names the folder. `calls` gets a line of JSON a call. `cloud.json` says how things are:
  state: of the request (ABSENT, ACTIVE, ...) or a list, from which each question takes one until the last is left
  nodes: {name: [state, number of workers]}
  lost: ["0.1"], workers that do not answer, by node and worker; hang: ["0.1"], workers that never answer
  fail: {"create": "message"}, commands that fail; hang_on: ["describe"], commands that hang
"""

import json
import os
import pathlib
import sys
import time

folder = pathlib.Path(os.environ["FAKE_CLOUD"])
arguments = sys.argv[1:]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\n")
cloud = json.loads((folder / "cloud.json").read_text())
flags = dict(word[2:].split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
words = [word for word in arguments if not word.startswith("--")]
assert words[:2] == ["compute", "tpus"], words
kind, command, name = words[2:5]


def keep() -> None:
    (folder / "cloud.json").write_text(json.dumps(cloud))


def refuse(message: str):
    print(f"ERROR: (gcloud.compute.tpus.{kind}.{command}) {message}", file=sys.stderr)
    sys.exit(1)


def hang():
    time.sleep(600)


if command in cloud.get("hang_on", []):
    hang()
if command in cloud.get("fail", {}):
    refuse(cloud["fail"][command])
if (kind, command) == ("queued-resources", "describe"):
    state = cloud["state"]
    if isinstance(state, list):
        state = state.pop(0) if len(state) > 1 else state[0]
        keep()
    if state == "ABSENT":
        refuse(f"NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/{name}' was not found")
    print(state)
    print("Updates are available for some components.", file=sys.stderr)
elif (kind, command) == ("tpu-vm", "describe"):
    if name not in cloud["nodes"]:
        refuse(f"NOT_FOUND: {name}")
    state, workers = cloud["nodes"][name]
    print(state if flags["format"] == "value(state)" else f"{state} HEALTHY {workers}")
elif command == "create":
    config = flags["metadata-from-file"].split("dots-pod-env=")[1]
    (folder / "sent.env").write_text(pathlib.Path(config).read_text())
    if not isinstance(cloud["state"], list):
        cloud["state"] = "ACTIVE"
    cloud["nodes"] = {n: ["READY", w] for n, (_, w) in cloud["nodes"].items()}
    keep()
elif command == "delete":
    if not isinstance(cloud["state"], list):
        cloud["state"] = "ABSENT"
    keep()
elif command == "update":
    (folder / "sent.env").write_text(pathlib.Path(flags["metadata-from-file"].split("dots-pod-env=")[1]).read_text())
elif command == "ssh":
    who = f"{flags['node']}.{flags['worker']}"
    if who == "all.all":
        if cloud.get("lost") or cloud.get("hang"):
            refuse("ssh: connect to host 10.0.0.3 port 22: Connection timed out")
    elif who in cloud.get("hang", []):
        hang()
    elif who in cloud.get("lost", []):
        refuse("ssh: connect to host 10.0.0.3 port 22: Connection timed out")
    print(f"2026-01-01T00:00:00Z training | step {who}")
else:
    refuse(f"the fake cloud has no {kind} {command}")
