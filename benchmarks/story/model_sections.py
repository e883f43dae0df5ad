"""The sections of story/report.html about the trained model: expert load, samples, benchmark rows, post-training, weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.story.layout import image, pairs, said, several
from benchmarks.story.reread import read_rows
from benchmarks.story.steps import PROMPTS, read_json
from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.config import ModelConfig, Stage, dots_llm1
from dots_jax.curation.charts import number, section, text
from dots_jax.evaluation.suite.published import BASE
from dots_jax.model.flops import count_parameters


def load(folder: Path, commands: Mapping[str, str]) -> str:
    """The heat maps of `dots expert_load`, and how far the domains are apart."""
    from dots_jax.analysis.expert_load import DomainScore, specialisation

    found = read_json(folder / "load" / "expert_load.json")["domains"]
    scores = {
        name: DomainScore(np.array(one["counts"]) / one["tokens"], one["loss"], one["tokens"])
        for name, one in found.items()
    }
    apart = specialisation(scores)
    model = open_checkpoint(str(folder / "pretrain")).model
    rows = (
        ("experts", _experts(model), _experts(dots_llm1())),
        ("layers with experts", str(model.num_moe_layers), str(dots_llm1().num_moe_layers)),
        (
            "distance of domains, by layer",
            f"{', '.join(f'{value:.2f}' for value in apart)} (0: the same experts, 1: no common one)",
            "not published as a number (figure 5)",
        ),
        *(
            (f"loss on {name}", f"{one.loss:.2f} nats over {one.tokens:,} tokens", "not published")
            for name, one in scores.items()
        ),
    )
    about = (
        "As figure 5 of the report: the share of a domain's tokens that each expert gets. Code is a file of the library that no "
        "run reads, sums are of a seed of their own, prose is a part of the curated pages."
    )
    picture = image((folder / "load" / "expert_load.png").read_bytes(), f"expert load of {', '.join(scores)}")
    return section("Expert load", about, picture + pairs(rows, commands["load"]))


def _experts(model: ModelConfig) -> str:
    return f"{model.num_experts}, of which {model.experts_per_token} a token; {model.num_shared_experts} shared"


def samples(folder: Path, rows: Sequence[dict], commands: Mapping[str, str]) -> str:
    """Continuations of the fixed prompts, a column a milestone."""
    tokens = {row["step"]: row["tokens"] for row in rows if "loss" in row}
    kept = sorted(int(path.stem) for path in (folder / "samples").glob("*.jsonl") if path.stem.isdigit())
    answers = {step: [row["text"] for row in read_rows(folder / "samples" / f"{step}.jsonl")] for step in kept}
    head = "".join(f'<th class="left">{text(number(tokens[step]))} tokens</th>' for step in kept)
    body = "".join(
        f"<tr><td><b>{text(prompt)}</b></td>"
        + "".join(
            f"<td><pre>{text(answers[step][at] if answers[step][at].strip() else '(no visible text)')}</pre></td>"
            for step in kept
        )
        + "</tr>"
        for at, prompt in enumerate(PROMPTS)
    )
    table = f'<div class="card scroll"><table class="samples"><tr><th>prompt</th>{head}</tr>{body}</table></div>'
    about = (
        f"The likeliest continuation of fixed prompts, by {several(len(kept), 'checkpoint')} of this run. The report "
        "released a checkpoint at every 1T tokens."
    )
    return section("Samples", about, table + said(commands["samples"]))


def evaluation(folder: Path, commands: Mapping[str, str]) -> str:
    """The rows of figure 4 over the milestones."""
    found = read_json(folder / "evaluation" / "dynamics.json")
    rows = []
    for name, row in found["steps"][-1]["rows"].items():
        score = row.get("generated") or {}
        here = f"{score['score']:.1f}, of {row['items']} items" if score else "no items"
        rows.append((name, here, f"{BASE[name]} (table 2)" if name in BASE else "figure 4, a curve"))
    about = (
        f"As figure 4 of the report, over {several(len(found['steps']), 'checkpoint')} of this run. The items are a few "
        "of each form, written for this project: so small a model answers at chance."
    )
    picture = image((folder / "evaluation" / "dynamics.png").read_bytes(), "scores and loss over tokens")
    return section("Benchmark rows", about, picture + pairs(rows, commands["evaluate"]))


def rft(folder: Path, commands: Mapping[str, str]) -> str:
    """pass@1 after SFT and RFT, next to the controls."""
    found = read_json(folder / "rft" / "result.json")
    mean, first = found["mean"], next(iter(found["seeds"]))

    def over_seeds(arm: str) -> str:
        each = [one[arm] for one in found["seeds"].values()]
        return f"{mean[arm]:.3f} ({min(each):.3f} to {max(each):.3f})"

    phases = {arm: open_checkpoint(str(folder / "rft" / first / arm)).metadata.stages[-1] for arm in ("sft", "rft")}
    rows = (
        ("after SFT", over_seeds("sft"), "about 400K conversations, 2 epochs (section 5)"),
        ("after RFT", over_seeds("rft"), "rejection sampling with verifiers for mathematics and code (section 5)"),
        ("control: as many steps on SFT's data", over_seeds("sft_more"), "not published"),
        ("control: answers that were not verified", over_seeds("unverified"), "not published"),
        ("SFT on what it learned", over_seeds("sft_on_learned"), "not published"),
        ("learning rate of SFT", _rate(phases["sft"]), "5e-6 to 1e-6, cosine (each phase)"),
        ("learning rate of RFT", _rate(phases["rft"]), "5e-6 to 1e-6, cosine (each phase)"),
    )
    about = (
        f"pass@1 on sums that no run has seen: the mean of {several(len(found['seeds']), 'seed')}, with the least and the "
        "largest. A model of its own learns sums of two numbers as conversations, then its own right answers."
    )
    picture = image((folder / "rft" / "bars.png").read_bytes(), "pass@1 after SFT, RFT and two controls")
    return section("Post-training", about, picture + pairs(rows, commands["rft"]))


def _rate(stage: Stage) -> str:
    return f"{stage.learning_rate_start:g} to {stage.learning_rate_end:g}, {stage.learning_rate_shape}"


def weights(folder: Path, markers: Sequence[dict], commands: Mapping[str, str]) -> str:
    """Parameters and bytes of the export, and who read it again."""
    ours, full = read_json(folder / "reread.json"), count_parameters(dots_llm1())
    theirs = "left out, by name above"
    if not any("skipped" in marker for marker in markers if marker["name"] == "transformers"):
        found = read_json(folder / "transformers.json")
        theirs = f"{found['equal']} of {found['prompts']} prompts answered with equal tokens"
    rows = (
        (
            "parameters",
            f"{ours['parameters']:,}, {count_parameters(open_checkpoint(str(folder / 'pretrain')).model).active:,} active a token",
            f"{full.total / 1e9:.2f}B, {full.active / 1e9:.1f}B active a token",
        ),
        ("bytes of the export", number(ours["bytes"]), f"{number(2 * full.total)}, bfloat16: 2 bytes a parameter"),
        ("bytes a parameter", f"{ours['bytes'] / ours['parameters']:.2f}", "2"),
        (
            "read by our own reader",
            f"{ours['equal']} of {ours['prompts']} prompts answered with equal tokens",
            "not run",
        ),
        ("read by transformers", theirs, "its own implementation is transformers' Dots1ForCausalLM"),
    )
    return section("Weights out", "The layout is dots.llm1's on Hugging Face.", pairs(rows, commands["export"]))
