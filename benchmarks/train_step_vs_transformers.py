"""One training step of ours against the same step of transformers' Dots1, on this machine's CPU, in float32.

    python -m benchmarks.train_step_vs_transformers [--json=FILE] [--rounds=N] [--rivals=a,b]

A step is forward, backward, clipping to norm 1 and AdamW, on 4 sequences of 512 tokens. transformers runs with sdpa
attention, torch's fused AdamW (the fastest there is), and each way it has of computing experts.

Every rival is a process of its own, so that its peak memory and its seconds from start to first step are its own. After
their first steps they take turns, one step each and a pause, so that other load on the machine affects all alike.
Needs torch and transformers (requirements-dev.txt) for the rivals; ours alone runs without.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from dots_jax.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=8192, num_layers=8, hidden_size=256, num_heads=4, head_dim=64, dense_ffn_size=704, num_experts=64,
    experts_per_token=6, expert_ffn_size=96, num_shared_experts=2, max_seq_len=512,
)  # fmt: skip
SEQUENCES, SEQ_LEN = 4, 512
TOKENS = SEQUENCES * SEQ_LEN
LEARNING_RATE, INIT_STD = 3e-4, 0.006

OURS, DEFAULT = "dots_jax", "transformers grouped_mm"
RIVALS = (OURS, DEFAULT, "transformers eager", "transformers batched_mm")
PAUSE_S = 0.3  # between turns: the threads of the last one keep spinning for 0.2 s


def step_flops() -> float:
    """Matmuls of one step, forward and backward, attention counted causally."""
    c = CONFIG
    attention = 4 * c.hidden_size * c.num_heads * c.head_dim
    swiglu = 3 * c.hidden_size
    moe = swiglu * c.expert_ffn_size * (c.experts_per_token + c.num_shared_experts) + c.hidden_size * c.num_experts
    weights = (
        c.num_layers * attention + swiglu * c.dense_ffn_size + c.num_moe_layers * moe + c.hidden_size * c.vocab_size
    )
    scores = c.num_layers * 2 * c.num_heads * c.head_dim * (SEQ_LEN + 1) / 2
    return TOKENS * 6 * (weights + scores)


# --- what runs inside a rival's process -------------------------------------------------------------------------------


def make_tokens():
    """[SEQUENCES, SEQ_LEN + 1] int64, the same for every rival."""
    import numpy as np

    return np.random.default_rng(0).integers(0, CONFIG.vocab_size, (SEQUENCES, SEQ_LEN + 1))


def our_step():
    """A function that trains one step and returns its loss: exactly what the training loop runs."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dots_jax.config import BalanceConfig, ComputeConfig, GuardConfig, MeshConfig, OptimizerConfig
    from dots_jax.model.model_def import ModelDef
    from dots_jax.parallel.mesh import make_mesh
    from dots_jax.training.optimizer import make_optimizer
    from dots_jax.training.state import init_state, state_shardings
    from dots_jax.training.step import jit_train_step

    compute = ComputeConfig(dtype="float32", remat="matmuls")
    definition = ModelDef(CONFIG, compute, make_mesh(MeshConfig(fsdp=1)), INIT_STD)
    optimizer = make_optimizer(OptimizerConfig(), definition.weight_decays())
    start = jax.jit(lambda: init_state(definition, optimizer, 0), out_shardings=state_shardings(definition, optimizer))
    step = jit_train_step(
        definition, optimizer, compute=compute, balance=BalanceConfig(), guard=GuardConfig(), microbatches=1
    )
    tokens = make_tokens().astype(np.int32)
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "positions": np.tile(np.arange(SEQ_LEN, dtype=np.int32), (SEQUENCES, 1)),
        "segments": np.ones((SEQUENCES, SEQ_LEN), np.int32),
        "weights": np.ones((SEQUENCES, SEQ_LEN), np.float32),
    }
    state = start()

    def run() -> float:
        nonlocal state
        state, metrics = step(state, batch, jnp.float32(LEARNING_RATE))
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return run


def transformers_step(experts: str):
    """The same with transformers' Dots1 and torch."""
    import torch
    from transformers import Dots1Config, Dots1ForCausalLM

    from dots_jax.huggingface.config import config_to_hf

    config = Dots1Config.from_dict(config_to_hf(CONFIG) | {"initializer_range": INIT_STD, "use_cache": False})
    torch.manual_seed(0)
    options = dict(dtype=torch.float32, attn_implementation="sdpa", experts_implementation=experts)
    model = Dots1ForCausalLM._from_config(config, **options).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    tokens = torch.from_numpy(make_tokens())
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)

    def run() -> float:
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.view(TOKENS, -1), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return run


def serve(rival: str) -> None:
    """First step at once; then one step for each line on stdin. Answers are lines of JSON on the original stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    run = our_step() if rival == OURS else transformers_step(rival.split()[1])

    def answer(**values) -> None:
        values["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1000 if sys.platform != "darwin" else 1e6
        )
        print(json.dumps(values), file=answers, flush=True)

    answer(loss=run())
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = run()
        answer(loss=loss, ms=1e3 * (time.perf_counter() - start))


def serve_peak() -> None:
    """This machine's best float32 rate, in dense matmuls of jax, and of torch where it is installed."""
    import jax
    import jax.numpy as jnp

    def rate(multiply, n: int) -> float:
        times = []
        for _ in range(12):
            start = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - start)
        return 2 * n**3 / min(times) / 1e9

    best = 0.0
    for n in (1024, 2048):
        a, f = jnp.ones((n, n)), jax.jit(jnp.matmul)
        best = max(best, rate(lambda: f(a, a).block_until_ready(), n))  # noqa: B023
        try:
            import torch
        except ImportError:
            continue
        a = torch.ones(n, n)
        best = max(best, rate(lambda: torch.mm(a, a), n))  # noqa: B023
    print(json.dumps({"gflops": best}))


# --- the referee ------------------------------------------------------------------------------------------------------


class Player:
    """A rival's process. `failure` says why it is out of the race, if it is."""

    def __init__(self, rival: str):
        self.rival, self.ms, self.losses, self.peak_mb, self.failure = rival, [], [], 0.0, needs_too_much(rival)
        self.first_step_s = float("nan")
        if self.failure:
            return
        start = time.perf_counter()
        self.process = spawn(f"--worker={rival}", stdin=subprocess.PIPE)
        self._listen()
        self.first_step_s = time.perf_counter() - start

    def step(self) -> None:
        if not self.failure:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            self._listen()

    def stop(self) -> None:
        if not self.failure:
            self.process.stdin.close()
            self.process.wait()

    def _listen(self) -> None:
        line = self.process.stdout.readline()
        if not line:
            self.failure = f"ended with status {self.process.wait()}, see its messages above"
            return
        answer = json.loads(line)
        self.losses.append(answer["loss"])
        self.peak_mb = answer["peak_mb"]
        if "ms" in answer:
            self.ms.append(answer["ms"])

    def result(self) -> dict:
        if self.failure:
            return {"rival": self.rival, "failure": self.failure}
        median = statistics.median(self.ms)
        return {
            "rival": self.rival,
            "ms_median": median,
            "ms_min": min(self.ms),
            "tokens_per_s": TOKENS / median * 1e3,
            "first_step_s": self.first_step_s,
            "peak_mb": self.peak_mb,
            "loss_first": self.losses[0],
            "loss_last": self.losses[-1],
        }


def spawn(*flags: str, **options) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "benchmarks.train_step_vs_transformers", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


def needs_too_much(rival: str) -> str:
    """batched_mm copies an expert's weights for every routed token and keeps the copies for the backward pass."""
    if not rival.endswith("batched_mm"):
        return ""
    c = CONFIG
    copies = TOKENS * c.experts_per_token * 3 * c.hidden_size * c.expert_ffn_size * 4 * c.num_moe_layers
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    need = f"needs {copies / 1e9:.0f} GB for copies of weights alone, this machine has {memory / 1e9:.0f} GB"
    return need if 1.2 * copies > memory else ""


def measure(rivals: list[str], rounds: int) -> dict:
    """Results of all rivals, and the floor that this machine's arithmetic sets."""
    gflops = json.loads(spawn("--worker=peak").communicate()[0])["gflops"]
    players = []
    for rival in rivals:
        print(f"starting {rival}", file=sys.stderr)
        players.append(Player(rival))
    for turn in range(rounds + 1):
        for player in players:
            player.step()
            time.sleep(PAUSE_S)
        if turn == 0:  # warm-up
            for player in players:
                player.ms.clear()
        print(f"round {turn} of {rounds}", file=sys.stderr)
    for player in players:
        player.stop()
    return {
        "tokens_per_step": TOKENS,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "step_gflop": step_flops() / 1e9,
        "machine_gflops": gflops,
        "floor_ms": step_flops() / gflops / 1e6,
        "results": [player.result() for player in players],
    }


def table(report: dict) -> str:
    lines = [f"{'':26}{'tokens/s':>10}{'ratio':>8}{'ms/step':>10}{'best ms':>10}{'first step s':>14}{'peak MB':>10}"]
    reference = next((r for r in report["results"] if r["rival"] == DEFAULT and "failure" not in r), None)
    for r in report["results"]:
        if "failure" in r:
            lines.append(f"{r['rival']:26}{r['failure']}")
            continue
        ratio = f"{r['tokens_per_s'] / reference['tokens_per_s']:.2f}" if reference else "-"
        lines.append(
            f"{r['rival']:26}{r['tokens_per_s']:10,.0f}{ratio:>8}{r['ms_median']:10,.0f}{r['ms_min']:10,.0f}"
            f"{r['first_step_s']:14.1f}{r['peak_mb']:10,.0f}"
        )
    lines.append(
        f"The matmuls of one step are {report['step_gflop']:.0f} GFLOP; at the {report['machine_gflops']:.0f} GFLOP/s that a "
        f"dense matmul reaches here they alone take {report['floor_ms']:.0f} ms.\n"
        f"ratio: tokens/s against {DEFAULT}, which is transformers' default. ms/step: median over the rounds."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each rival")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="which, separated by commas")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker == "peak":
        return serve_peak()
    if flags.worker:
        return serve(flags.worker)
    rivals = flags.rivals.split(",")
    if unknown := sorted(set(rivals) - set(RIVALS)):
        parser.error(f"no rival is called {', '.join(unknown)}: there are {', '.join(RIVALS)}")
    report = measure(rivals, flags.rounds)
    print(table(report))
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
