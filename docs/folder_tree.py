"""The folders of the repository with a caption each: the table `tree` of docs/tables.py. Standard library only."""

from pathlib import Path

ROOT = Path(__file__).parents[1]

# Rooms of dots_jax/ from the ground up, then the folders around it. What does not exist (yet) is left out.
ROOMS = {
    "config": "frozen, typed dataclasses that check themselves",
    "storage": "local and gs:// paths, atomic writes",
    "locks": "one writer at a time in a folder, also in a bucket",
    "parallel": "mesh, sharding rules, collectives, batches, processes",
    "curriculum": "stages, learning rates, which source is read how often",
    "hlo": "a reader of compiled TPU modules: cost, links, timeline, memory",
    "data": "sources, tokenizers, token caches, order, packing; never jax",
    "curation": "from crawled pages to a corpus",
    "curation_models": "classifiers and an embedder for curation, in jax",
    "kernels": "attention and grouped matmul for TPU, GPU and CPU, and their references",
    "model": "transformer, attention, router, mixture of experts, head",
    "checkpoint": "save, verify, restore; parts of arrays",
    "huggingface": "the released weights: a table of names, conversion both ways",
    "inference": "decoder with a cache, sampling, generation, scoring",
    "sandbox": "runs code that a model wrote, fenced off, and judges it",
    "evaluation": "perplexity of checkpoints; the report's benchmarks, asked and judged",
    "training": "the loop on one screen, its periodic work, resuming; step, state, optimizer",
    "posttraining": "rejection sampling: answers of a model, verdicts, what is kept",
    "serving": "an HTTP server for generation",
    "analysis": "opens checkpoints; expert load, learning dynamics, attention, figures",
    "planning": "memory and time of a run on a pod, compiled and searched",
    "cli": "the `dots` command: options, gin files, one file a subcommand; the only room with gin",
}
FOLDERS = {
    "gin": "one readable file a run; models/ schedules/ data/ meshes/ are its parts",
    "tpu_scripts": "a TPU pod from a terminal: pod, startup.sh, pod.env.example",
    "notebooks": "Colab: look into a checkpoint",
    "docs": "these pages, and the scripts that make their tables and drawings",
    "benchmarks": "measurements, and results/*.json with every published figure",
    "tests": "a folder for each room; structure/ holds the floors",
}


def folder_tree() -> str:
    rooms = [f"  {label(name):<17}{caption}" for name, caption in ROOMS.items() if exists(f"dots_jax/{name}")]
    folders = [f"{name + '/':<19}{caption}" for name, caption in FOLDERS.items() if exists(name)]
    return "\n".join(["```text", "dots_jax/", *rooms, *folders, "```"])


def label(room: str) -> str:
    return f"{room}/" if (ROOT / "dots_jax" / room).is_dir() else f"{room}.py"


def exists(name: str) -> bool:
    return (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()
