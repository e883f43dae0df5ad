"""The steps of the story: of each its command, what it reads and what it makes."""

import dataclasses
import json
import modulefinder
from collections.abc import Callable
from pathlib import Path

FOLDER = "story"  # which the gin files name as well
PROMPTS = ("Return a new", "def __init__(self", "12 + 30 =")
UNSEEN = 1  # a seed of sums that no training data have
CODE = modulefinder.__file__  # of the part of the library that the source python_stdlib holds out


@dataclasses.dataclass(frozen=True)
class Step:
    """command: words after `python -m`. reads: files outside the folder, whose content counts. makes: paths in the folder.

    needs: optional packages without which the step is left out by name. left_out: why this form of the story does not run it.
    """

    name: str
    title: str
    command: Callable[[Path], list[str]]
    makes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    left_out: str = ""


def bindings(folder: Path) -> list[str]:
    """The paths of the gin files, for a folder other than theirs."""
    if str(folder) == FOLDER:
        return []
    paths = {
        "DataConfig.tokenizer": f"{folder}/tokenizer.json",
        "DataConfig.cache_dir": f"{folder}/cache",
        "web/Source.files": (("train", f"{folder}/data/corpus/documents/*.jsonl.zst"),),
        "arithmetic/Source.files": (("train", f"{folder}/arithmetic.jsonl"),),
    }
    return [f"--gin_bindings={name} = {value!r}" for name, value in paths.items()]


def steps(short: bool = False, seeds: int = 1) -> list[Step]:
    """All steps in order. short: fewer pages and a few training steps, for a test. seeds: of pre-training.

    More seeds come last, so that they change no other step: each is a run of its own on the same caches. Data, weights out
    and evaluation are of seed 0; post-training has three seeds of its own in any case.
    """
    return _to_a_model(short) + _from_a_model(short) + [_again(seed, short) for seed in range(1, seeds)]


def _again(seed: int, short: bool) -> Step:
    first = next(step for step in _to_a_model(short) if step.name == "pretrain")

    def command(at: Path) -> list[str]:
        words = [
            f"--workdir={at}/seeds/{seed}" if word.startswith("--workdir=") else word for word in first.command(at)
        ]
        return [*words, f"--gin_bindings=TrainConfig.seed = {seed}"]

    return Step(f"pretrain_{seed}", f"Pre-training, seed {seed}", command, (f"seeds/{seed}",), first.reads)


def _to_a_model(short: bool) -> list[Step]:
    web = ["--modules=24", "--texts=36", "--keep=5"] if short else []
    most = ["--max_steps=4"] if short else []
    shared = ("gin/cache_tiny.gin", "gin/story/sources.gin", "gin/tiny.gin", "gin/models/tiny.gin")
    return [
        Step(
            "data", "A small web, curated", lambda at: ["benchmarks.demo_web", f"--output={at}/data", *web],
            ("data",), ("benchmarks/demo_web.py", "gin/curate.gin"),
        ),
        Step(
            "arithmetic", "Sums", lambda at: ["benchmarks.story.arithmetic", f"--output={at}/arithmetic.jsonl"],
            ("arithmetic.jsonl",), ("benchmarks/story/arithmetic.py",),
        ),
        Step(
            "tokenizer", "Tokenizer",
            lambda at: [
                "dots_jax.train_tokenizer", "--vocab_size=2048", f"--output={at}/tokenizer.json",
                f"--files={at}/data/corpus/documents/*.jsonl.zst",
            ],
            ("tokenizer.json",),
        ),
        Step(
            "cache", "Token caches",
            lambda at: ["dots_jax.cache", "--gin_file=gin/story/cache.gin", *bindings(at)],
            ("cache",), ("gin/story/cache.gin", *shared),
        ),
        Step(
            "pretrain", "Pre-training",
            lambda at: [
                "dots_jax.train", "--gin_file=gin/story/pretrain.gin", f"--workdir={at}/pretrain", *most, *bindings(at),
            ],
            ("pretrain",), ("gin/story/pretrain.gin", *shared),
        ),
    ]  # fmt: skip


def _from_a_model(short: bool) -> list[Step]:
    limit = ["--limit=2"] if short else []
    rft = Step(
        "rft", "Fine-tuning, sampling, verification, RFT and two controls",
        lambda at: ["benchmarks.rft_demo", f"--output={at}/rft"],
        ("rft",), ("benchmarks/rft_demo.py", "gin/rft_tiny_sft.gin", "gin/rft_tiny.gin"),
        left_out="the short form has no time for it; make story runs it" if short else "",
    )  # fmt: skip
    return [
        Step(
            "samples", "Fixed prompts at each milestone",
            lambda at: ["benchmarks.story.samples", f"--checkpoint={at}/pretrain", f"--output={at}/samples"],
            ("samples",), ("benchmarks/story/samples.py",),
        ),
        Step(
            "unseen", "Sums held out",
            lambda at: [
                "benchmarks.story.arithmetic", "--documents=60", f"--seed={UNSEEN}", f"--output={at}/unseen.jsonl",
            ],
            ("unseen.jsonl",), ("benchmarks/story/arithmetic.py",),
        ),
        Step(
            "load", "Expert load of three domains",
            lambda at: [
                "dots_jax.expert_load", f"--checkpoint={at}/pretrain", f"--domain=code={CODE}",
                f"--domain=prose={at}/data/corpus/documents/00000-of-00008.jsonl.zst",
                f"--domain=arithmetic={at}/unseen.jsonl", f"--output={at}/load",
            ],
            ("load",),
        ),
        Step(
            "export", "Weights out",
            lambda at: ["dots_jax.convert", "to_hf", f"{at}/pretrain", f"{at}/export", "--dtype=float32"],
            ("export",),
        ),
        Step(
            "import", "Weights in again",
            lambda at: ["dots_jax.convert", "from_hf", f"{at}/export", f"{at}/imported"],
            ("imported",),
        ),
        Step(
            "reread", "The imported weights answer as the run does",
            lambda at: ["benchmarks.story.reread", f"--folder={at}"],
            ("reread.json",), ("benchmarks/story/reread.py",),
        ),
        Step(
            "transformers", "transformers answers as the run does",
            lambda at: ["benchmarks.story.reread", f"--folder={at}", "--transformers"],
            ("transformers.json",), ("benchmarks/story/reread.py",), needs=("transformers", "torch"),
        ),
        Step(
            "evaluate", "Benchmark rows at each milestone",
            lambda at: [
                "dots_jax.evaluate", "--suite=figure4", f"--steps={'all' if short else 'milestones'}",
                f"--checkpoint={at}/pretrain", "--data=benchmarks/evaluation_demo", f"--output={at}/evaluation",
                "--dtype=float32", *limit,
            ],
            ("evaluation",),
        ),
        rft,
    ]  # fmt: skip


def read_json(path: Path):
    return json.loads(path.read_text())
