"""Rejection sampling shown on sums: a tiny model, the real commands, and two controls that say what the gain comes from.

    python -m benchmarks.rft_demo [--output=runs/rft] [--seeds=0,1,2]

For each seed: `dots train` learns 520 sums as conversations; `dots rft sample` draws four answers to each of 3,000 other sums;
`dots rft verify` and `dots rft keep` choose the right ones; `dots train` goes on with them (RFT). Two controls go on for as many
steps: with the first data alone, and with answers that nobody verified. pass@1 is that of greedy answers to 800 sums that no run
has seen. OUTPUT holds data, runs, result.json and bars.png. Started again, it goes on where it stopped.
"""

import argparse
import concurrent.futures
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from dots_jax.locks import owned
from dots_jax.storage import atomic_write, write_text

LARGEST = 100  # numbers are below it
# Of the sums into parts. 480 sums and 600 steps failed on this draw; steps and rate were then chosen on draw 2, by the
# scores after SFT.
DRAW = 1
SIZES = {"sft": 520, "questions": 3000, "held_out": 800}
SAMPLES = 4
AT_ONCE = 2  # commands: one for each core
ARMS = {
    "sft": "after SFT",
    "rft": "RFT: right answers",
    "sft_more": "control: SFT data alone",
    "unverified": "control: no verifier",
}


class Demo:
    """The steps of one folder. sizes: of the parts of the data. steps: (first run, later runs)."""

    def __init__(self, output: Path, sizes: dict[str, int] | None = None, tokens: tuple[int, int] | None = None):
        self.output, self.sizes, self.tokens = output, sizes or SIZES, tokens
        self._at_once = threading.Semaphore(AT_ONCE)
        self._environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
            + " --xla_cpu_multi_thread_eigen=false",  # a core for each command
            "JAX_COMPILATION_CACHE_DIR": str(output / "compiled"),  # seeds share their programs
        }

    # --- data -------------------------------------------------------------------------------------------------------------

    def write_data(self) -> None:
        """Sums of all pairs below LARGEST, shuffled once and cut into parts that share none."""
        pairs = [(a, b) for a in range(LARGEST) for b in range(LARGEST)]
        random.Random(DRAW).shuffle(pairs)
        self.output.mkdir(parents=True, exist_ok=True)
        begin = 0
        for name, size in self.sizes.items():
            part, begin = pairs[begin : begin + size], begin + size
            with atomic_write(str(self.output / f"{name}.jsonl")) as file:
                for a, b in part:
                    file.write(json.dumps(conversation(a, b) if name == "sft" else question(a, b)) + "\n")
            if name == "sft":
                for other, row in (("learned", question), ("texts", text)):
                    with atomic_write(str(self.output / f"{other}.jsonl")) as file:
                        file.writelines(json.dumps(row(a, b)) + "\n" for a, b in part)
        made = self.output / "tokenizer.json"
        self._once(made, "tokenizer", f"--files={self.output}/texts.jsonl", "--vocab_size=300", f"--output={made}")

    # --- one seed -----------------------------------------------------------------------------------------------------------

    def run(self, seed: int) -> dict[str, float]:
        """pass@1 of each arm on the sums held out, and of the first run on those that it learned."""
        folder = self.output / str(seed)
        folder.mkdir(exist_ok=True)
        self._train("rft_tiny_sft", folder / "sft", self.output / "sft.jsonl", seed)
        questions = self.output / "questions.jsonl"
        verified = self._answers(folder, "sft", questions, "samples", f"--samples={SAMPLES}", f"--seed={seed}")
        for name, flags in (("kept", ()), ("unverified", ("--unverified", "--always_right", "--cap=1"))):
            self._once(
                folder / f"{name}.jsonl", "rft", "keep", f"--questions={questions}", f"--verified={verified}",
                f"--mix={self.output}/sft.jsonl", f"--output={folder}/{name}.jsonl", *flags,
            )  # fmt: skip
        data = {
            "rft": folder / "kept.jsonl",
            "sft_more": self.output / "sft.jsonl",
            "unverified": folder / "unverified.jsonl",
        }
        with concurrent.futures.ThreadPoolExecutor() as pool:
            found = pool.map(lambda arm: self._arm(folder, arm, data.get(arm), seed), ARMS)
            on_learned = pool.submit(self._pass_at_1, folder, "sft", "learned")
            return dict(zip(ARMS, found)) | {"sft_on_learned": on_learned.result()}

    def _arm(self, folder: Path, arm: str, data: Path | None, seed: int) -> float:
        """pass@1 on the sums held out after the arm's training. data: None where it is trained already."""
        if data:
            self._train("rft_tiny", folder / arm, data, seed, initial=folder / "sft")
        return self._pass_at_1(folder, arm, "held_out")

    def _train(self, name: str, workdir: Path, data: Path, seed: int, initial: Path | None = None) -> None:
        bindings = [
            f"DataConfig.tokenizer = '{self.output}/tokenizer.json'", f"sums/Source.files = (('train', '{data}'),)",
            f"DataConfig.cache_dir = '{self.output}/tokens'", f"TrainConfig.seed = {seed}",
        ]  # fmt: skip
        bindings += [f"TrainConfig.initial_checkpoint = '{initial}'"] if initial else []
        bindings += [f"sums/Stage.tokens = {self.tokens[initial is not None]}"] if self.tokens else []
        flags = (f"--gin_file={name}.gin", f"--workdir={workdir}", *(f"--gin_bindings={one}" for one in bindings))
        self._once(workdir.with_suffix(".done"), "train", *flags)

    def _answers(self, folder: Path, arm: str, questions: Path, name: str, *flags: str) -> Path:
        samples, verified = folder / f"{name}.jsonl", folder / f"{name}.verified.jsonl"
        self._once(
            samples, "rft", "sample", f"--checkpoint={folder / arm}", f"--questions={questions}", f"--output={samples}",
            "--max_new_tokens=12", "--batch_size=256", *flags,
        )  # fmt: skip
        self._once(
            verified, "rft", "verify", f"--questions={questions}", f"--samples={samples}", f"--output={verified}"
        )
        return verified

    def _pass_at_1(self, folder: Path, arm: str, part: str) -> float:
        greedy = ("--samples=1", "--temperature=0")
        verified = self._answers(folder, arm, self.output / f"{part}.jsonl", f"{arm}_{part}", *greedy)
        rows = [json.loads(line) for line in verified.read_text().splitlines()]
        return sum(row["verdict"] == "correct" for row in rows) / len(rows)

    def _once(self, made: Path, *arguments: str) -> None:
        """A command that an earlier start has not finished. made: the file that is there afterwards."""
        if not made.exists():
            self._dots(*arguments)
            made.touch()

    def _dots(self, *arguments: str) -> None:
        with self._at_once:
            print(
                "$ dots " + re.sub(r" --gin_bindings=\S+ = \S+", "", " ".join(arguments)), file=sys.stderr, flush=True
            )
            done = subprocess.run(
                [sys.executable, "-m", "dots_jax", *arguments],
                env=self._environment,
                check=False,
                stdout=subprocess.DEVNULL,
            )
        if done.returncode:
            raise SystemExit(
                f"dots {arguments[0]} ended with status {done.returncode}; the same command goes on from here."
            )


def conversation(a: int, b: int) -> dict:
    return {"messages": [*_asked(a, b), {"role": "assistant", "content": f"#### {a + b}"}]}


def question(a: int, b: int) -> dict:
    return {"id": f"{a}+{b}", "messages": _asked(a, b), "answer": str(a + b)}


def text(a: int, b: int) -> dict:
    return {"text": f"{a}+{b} #### {a + b}"}


def _asked(a: int, b: int) -> list[dict]:
    return [{"role": "user", "content": f"{a}+{b}"}]


# --- the figures ----------------------------------------------------------------------------------------------------------------


def summary(seeds: dict[int, dict[str, float]]) -> dict:
    """The mean over seeds of each arm, and the gains of RFT, in points."""
    mean = {arm: statistics.mean(found[arm] for found in seeds.values()) for arm in (*ARMS, "sft_on_learned")}
    return {
        "seeds": seeds,
        "mean": mean,
        "gain_over_sft": 100 * (mean["rft"] - mean["sft"]),
        "gain_over_controls": 100 * (mean["rft"] - max(mean["sft_more"], mean["unverified"])),
    }


def draw(found: dict, held_out: int) -> bytes:
    """A PNG with a bar for each arm, and a dot for each seed."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (arm, name) in enumerate(ARMS.items()):
        colour = "#2a7f4f" if arm == "rft" else "#9aa5b1"
        axes.bar([name], [found["mean"][arm]], color=colour, width=0.6)
        axes.annotate(f"{found['mean'][arm]:.3f}", (place, 0.04), ha="center", color="white", weight="bold")
        values = [one[arm] for one in found["seeds"].values()]
        axes.plot([place] * len(values), values, "o", color="#222222", markersize=4)
    axes.set(ylim=(0, 1), ylabel=f"pass@1, {held_out} sums held out")
    axes.set_title("Rejection-sampling fine-tuning and two controls; dots are seeds", fontsize=11)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=140, metadata={"Software": None})
    return data.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/rft"))
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    began, output = time.monotonic(), arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    with owned(str(output), "the demonstration of rejection sampling", name=".rft_demo.lock"):
        demo = Demo(output)
        demo.write_data()
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        with concurrent.futures.ThreadPoolExecutor(len(seeds)) as pool:
            found = summary(dict(zip(seeds, pool.map(demo.run, seeds))))
        used = os.times()
        found["seconds"] = round(time.monotonic() - began, 1)
        found["core_seconds"] = round(used.children_user + used.children_system, 1)
        write_text(str(output / "result.json"), json.dumps(found, indent=1) + "\n")
        with atomic_write(str(output / "bars.png"), "wb") as file:
            file.write(draw(found, demo.sizes["held_out"]))
    for arm, name in ARMS.items():
        each = ", ".join(f"{one[arm]:.3f}" for one in found["seeds"].values())
        print(f"{name:<26}{found['mean'][arm]:.3f}   ({each})")
    print(f"{'SFT on what it learned':<26}{found['mean']['sft_on_learned']:.3f}")
    print(
        f"RFT gains {found['gain_over_sft']:.1f} points over SFT, {found['gain_over_controls']:.1f} over the better control"
    )
    print(f"{output}/bars.png, result.json; {found['seconds']:.0f} s, {found['core_seconds']:.0f} core-seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
