"""The counts of `dots rft keep` as a table and as a picture."""

import io
from collections.abc import Sequence


def table(counts: dict) -> str:
    """One count a line."""
    rows = [
        ("questions", counts["questions"]), ("  sampled", counts["sampled"]), ("  always right", counts["always_right"]),
        ("  never right", counts["never_right"]), ("  with a kept answer", counts["with_a_kept_answer"]),
        ("samples", counts["samples"]), ("  kept", counts["kept"]),
        *((f"  left out: {reason}", count) for reason, count in counts["left_out"].items()),
    ]  # fmt: skip
    if counts["without_finish_reason"]:
        rows.append(("  without a finish_reason, taken as not cut", counts["without_finish_reason"]))
    if counts["mix"]:
        rows += [("conversations of --mix", counts["mix"]), ("  taken", counts["mix_taken"])]
        rows += [(f"  left out: {reason}", count) for reason, count in counts["mix_malformed"].items()]
    if counts["short_evaluation_texts"]:
        rows.append(("evaluation texts too short for an n-gram", counts["short_evaluation_texts"]))
    rows.append(("conversations written", counts["conversations"]))
    return "\n".join(
        [f"{name:<62}{count:>10,}" for name, count in rows] + [f"{'pass@1':<62}{counts['pass_at_1']:>10.4f}"]
    )


def draw(counts: dict, shares: Sequence[float]) -> bytes:
    """A PNG: where the samples go, by reason, and how many questions have which share of right samples."""
    from matplotlib.figure import Figure

    names = ["kept", *counts["left_out"]]
    values = [counts["kept"], *counts["left_out"].values()]
    figure = Figure(figsize=(9, 1.6 + 0.35 * max(4, len(names))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    bars = left.barh(range(len(names)), values, color=["#2a7f4f", *["#b8b8b8"] * (len(names) - 1)])
    left.bar_label(bars, labels=[f" {value:,}" for value in values], fontsize=8)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.invert_yaxis()
    left.margins(x=0.15)
    left.set(xlabel="samples", title=f"{counts['samples']:,} samples")
    right.hist(shares, bins=[n / 10 - 0.05 for n in range(12)], color="#1f5fa8", rwidth=0.9)
    right.set(
        xlabel="share of a question's samples that is right",
        ylabel="questions",
        title=f"pass@1 {counts['pass_at_1']:.3f}",
    )
    for axes in (left, right):
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, metadata={"Software": None})
    return data.getvalue()
