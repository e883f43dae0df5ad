"""Generation by ours against transformers' Dots1 with the same weights and prompts, on this machine's CPU, in float32.

    python -m benchmarks.generate_vs_transformers [--json=FILE] [--rounds=N] [--rivals=a,b] [--dtype=bfloat16]

Prefill: 16 prompts of 256 tokens, to the first new token of each. Decoding: greedy, 128 tokens after 64, one prompt and
16 at a time; the time of a call for 128 tokens less that of a call for one. transformers runs `generate` with sdpa
attention and each way it has of computing experts, with its default cache and with a static one.

Every rival is a process of its own, so that its peak memory is its own. They take turns, one measurement each and a
pause, so that other load on the machine affects all alike. Needs requirements-dev.txt for the rivals.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.train_step_vs_transformers import CONFIG

PREFILL_BATCH, PREFILL_LENGTH = 16, 256
PROMPT, NEW_TOKENS = 64, 128
INIT_STD = 0.05

OURS, DEFAULT = "dots_jax", "transformers grouped_mm"
RIVALS = (OURS, DEFAULT, "transformers eager", "transformers grouped_mm static", "transformers eager static")
TASKS = ("prefill", "decode batch 1", "decode batch 16")
PAUSE_S = 0.3


# --- what runs inside a rival's process -------------------------------------------------------------------------------


def write_weights(path: str) -> None:
    """The model as transformers reads it: weights of our initialiser."""
    import jax
    import numpy as np
    from safetensors.numpy import save_file

    from dots_jax.config import ComputeConfig
    from dots_jax.huggingface.config import config_to_hf
    from dots_jax.huggingface.names import to_hf
    from dots_jax.model.model_def import ModelDef

    params, bias = jax.jit(lambda: ModelDef(CONFIG, ComputeConfig(), None, INIT_STD).init(0))()
    tensors = to_hf(jax.tree.map(np.asarray, params), np.asarray(bias), CONFIG)
    save_file(tensors, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump(config_to_hf(CONFIG), file)


def prompts(batch: int, length: int) -> list[list[int]]:
    import numpy as np

    return np.random.default_rng(batch).integers(0, CONFIG.vocab_size, (batch, length)).tolist()


def our_generate(path: str, dtype: str):
    """(prompts, number of new tokens) -> new tokens of each."""
    from safetensors.numpy import load_file

    from dots_jax.huggingface.names import from_hf
    from dots_jax.inference.completion import complete, in_order
    from dots_jax.inference.generation import Generator, Request
    from dots_jax.inference.weights import define, serving_mesh, shard_weights

    mesh = serving_mesh(CONFIG)
    params, bias = from_hf(load_file(os.path.join(path, "model.safetensors")), CONFIG)
    weights = shard_weights(define(CONFIG, dtype), params, bias, mesh)
    del params
    generator = Generator(CONFIG, dtype, mesh, weights)

    def run(rows, number):
        requests = [Request(row, n, number) for n, row in enumerate(rows)]
        found = complete(generator, requests, (), None, batch_size=len(rows))
        return [completion.tokens for _, completion in in_order(found)]

    return run


def transformers_generate(path: str, dtype: str, experts: str, cache: str | None):
    """The same with transformers."""
    import torch
    from transformers import Dots1ForCausalLM

    options = dict(dtype=getattr(torch, dtype), attn_implementation="sdpa", experts_implementation=experts)
    model = Dots1ForCausalLM.from_pretrained(path, **options).eval()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None

    @torch.no_grad()
    def run(rows, number):
        ids = torch.tensor(rows)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=number, min_new_tokens=number,
            cache_implementation=cache,
        )  # fmt: skip
        return out[:, ids.shape[1] :].tolist()

    return run


def serve(rival: str, path: str, dtype: str) -> None:
    """Measures each task that a line on stdin names. Answers are lines of JSON on the original stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    start = time.perf_counter()
    if rival == OURS:
        run = our_generate(path, dtype)
    else:
        run = transformers_generate(path, dtype, rival.split()[1], "static" if rival.endswith("static") else None)
    ready = time.perf_counter() - start

    def timed(rows, number) -> tuple[float, list]:
        start = time.perf_counter()
        new = run(rows, number)
        return time.perf_counter() - start, new

    for line in sys.stdin:
        task = line.strip()
        if task == "prefill":
            seconds, new = timed(prompts(PREFILL_BATCH, PREFILL_LENGTH), 1)
            tokens = PREFILL_BATCH * PREFILL_LENGTH
        else:
            batch = int(task.split()[-1])
            before, _ = timed(prompts(batch, PROMPT), 1)
            seconds, new = timed(prompts(batch, PROMPT), NEW_TOKENS)
            seconds, tokens = seconds - before, batch * (NEW_TOKENS - 1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        answer = {"tokens_per_s": tokens / seconds, "peak_mb": peak, "load_s": ready, "tokens": new}
        print(json.dumps(answer), file=answers, flush=True)


# --- the referee ------------------------------------------------------------------------------------------------------


class Player:
    """A rival's process. `failure` says why it is out of the race, if it is."""

    def __init__(self, rival: str, path: str, dtype: str):
        self.rival, self.failure, self.peak_mb, self.tokens = rival, "", 0.0, {}
        self.rates = {task: [] for task in TASKS}
        self.process = spawn(f"--worker={rival}", f"--path={path}", f"--dtype={dtype}", stdin=subprocess.PIPE)

    def measure(self, task: str) -> None:
        if self.failure:
            return
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.failure = f"ended with status {self.process.wait()}, see its messages above"
            return
        answer = json.loads(line)
        self.rates[task].append(answer["tokens_per_s"])
        self.peak_mb, self.load_s, self.tokens[task] = answer["peak_mb"], answer["load_s"], answer["tokens"]

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def result(self) -> dict:
        if self.failure:
            return {"rival": self.rival, "failure": self.failure}
        rates = {task: statistics.median(rates) for task, rates in self.rates.items()}
        best = {task: max(rates) for task, rates in self.rates.items()}
        return {"rival": self.rival, "tokens_per_s": rates, "best": best, "peak_mb": self.peak_mb}


def spawn(*flags: str, **options) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "benchmarks.generate_vs_transformers", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


def measure(rivals: list[str], rounds: int, dtype: str) -> dict:
    with tempfile.TemporaryDirectory() as path:
        if spawn("--worker=weights", f"--path={path}").wait():
            sys.exit("the weights could not be written")
        players = [Player(rival, path, dtype) for rival in rivals]
        for turn in range(rounds + 1):
            for task in TASKS:
                for player in players:
                    player.measure(task)
                    time.sleep(PAUSE_S)
            if turn == 0:  # compilation, warm-up
                for player in players:
                    player.rates = {task: [] for task in TASKS}
            print(f"round {turn} of {rounds}", file=sys.stderr)
        for player in players:
            player.stop()
    same = {
        task: len({json.dumps(player.tokens[task]) for player in players if not player.failure}) == 1 for task in TASKS
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"dtype": dtype, "cores": cores, "same_tokens": same, "results": [player.result() for player in players]}


def table(report: dict) -> str:
    lines = [f"{'tokens/s (ratio)':32}" + "".join(f"{task:>22}" for task in TASKS) + f"{'peak MB':>10}"]
    reference = next((r for r in report["results"] if r["rival"] == DEFAULT and "failure" not in r), None)
    for r in report["results"]:
        if "failure" in r:
            lines.append(f"{r['rival']:32}{r['failure']}")
            continue
        cells = []
        for task in TASKS:
            ratio = f" ({r['tokens_per_s'][task] / reference['tokens_per_s'][task]:.2f})" if reference else ""
            cells.append(f"{r['tokens_per_s'][task]:,.0f}{ratio}")
        lines.append(f"{r['rival']:32}" + "".join(f"{cell:>22}" for cell in cells) + f"{r['peak_mb']:10,.0f}")
    same = ", ".join(f"{task} {'yes' if same else 'no'}" for task, same in report["same_tokens"].items())
    lines.append(
        f"Medians, {report['dtype']}, {report['cores']} cores. ratio: against {DEFAULT}, which is transformers' default. "
        f"All rivals give the same tokens: {same}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each task by each rival")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="which, separated by commas")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker == "weights":
        return write_weights(flags.path)
    if flags.worker:
        return serve(flags.worker, flags.path, flags.dtype)
    rivals = flags.rivals.split(",")
    if unknown := sorted(set(rivals) - set(RIVALS)):
        parser.error(f"no rival is called {', '.join(unknown)}: there are {', '.join(RIVALS)}")
    report = measure(rivals, flags.rounds, flags.dtype)
    print(table(report))
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
