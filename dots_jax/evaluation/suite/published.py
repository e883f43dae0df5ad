"""The report's figures and the groups of its means (dots.llm1 report, tables 2, 3 and 5)."""

BASE = {
    "ceval": 92.8, "cmmlu": 90.4, "cluewsc": 92.7, "c3": 97.6, "xiezhi": 82.9,
    "triviaqa": 88.2, "bbh": 80.8, "mmlu": 83.2, "mmlu_pro": 61.9, "supergpqa": 33.3, "drop": 83.4, "arc_challenge": 93.8,
    "agieval": 79.9, "hellaswag": 88.2, "piqa": 91.0, "nq": 48.7,
    "gsm8k": 86.7, "math": 68.7, "cmath": 79.5,
    "humaneval": 64.0, "mbpp": 76.7, "mceval": 46.6, "bigcodebench": 50.9,
}  # fmt: skip
INSTRUCT = {
    "mmlu": 82.1, "mmlu_redux": 85.1, "mmlu_pro_inst": 70.4, "drop": 87.0, "gpqa_diamond": 52.6, "simpleqa": 9.3,
    "humaneval": 88.4, "mbpp_plus": 74.5, "livecodebench": 32.0,
    "math": 85.0, "aime24": 33.1, "math500": 84.8, "cnmo24": 40.6,
    "cluewsc": 92.6, "ceval": 92.2, "c_simpleqa": 56.7,
    "ifeval": 82.1, "alpacaeval2": 64.4, "arena_hard": 87.1,
}  # fmt: skip
FIGURES = {"table2": BASE, "figure4": BASE, "table3": {}, "table5": INSTRUCT}
RULER = {4096: 94.7, 8192: 94.9, 16_384: 92.6, 32_768: 87.7}  # table 3: the mean of the 13 tasks at each length
GROUPS = {
    "table3": {},
    "figure4": {},
    "table2": {
        "Chinese": ("ceval", "cmmlu", "cluewsc", "c3", "xiezhi"),
        "English": ("triviaqa", "bbh", "mmlu", "mmlu_pro", "supergpqa", "drop", "arc_challenge", "agieval", "hellaswag",
                    "piqa", "nq"),
        "Mathematics": ("gsm8k", "math", "cmath"),
        "Code": ("humaneval", "mbpp", "mceval", "bigcodebench"),
    },
    "table5": {
        "English": ("mmlu", "mmlu_redux", "mmlu_pro_inst", "drop", "gpqa_diamond", "simpleqa"),
        "Code": ("humaneval", "mbpp_plus", "livecodebench"),
        "Mathematics": ("math", "aime24", "cnmo24", "math500"),
        "Chinese": ("cluewsc", "ceval", "c_simpleqa"),
        "Alignment": ("ifeval", "alpacaeval2", "arena_hard"),
    },
}  # fmt: skip


def group_means(suite: str, scores: dict[str, float]) -> dict[str, tuple[float | None, float, int, int]]:
    """Group -> (mean of its rows, None unless all are there; the report's mean; rows that are there; rows).

    The report's means are plain means of rows: a part of them would be another figure.
    """
    found: dict[str, tuple[float | None, float, int, int]] = {}
    for group, names in GROUPS[suite].items():
        ours = [scores[name] for name in names if name in scores]
        report = sum(FIGURES[suite][name] for name in names) / len(names)
        found[group] = (sum(ours) / len(ours) if len(ours) == len(names) else None, report, len(ours), len(names))
    return found


def length_means(
    rows: dict[str, dict[str, float]], expected: int
) -> dict[str, tuple[float | None, float | None, int, int]]:
    """Length of a prompt -> as in `group_means`, over the 13 tasks. rows: task -> length -> score."""
    found: dict[str, tuple[float | None, float | None, int, int]] = {}
    for length in sorted({length for scores in rows.values() for length in scores}, key=int):
        ours = [scores[length] for scores in rows.values() if length in scores]
        mean = sum(ours) / len(ours) if len(ours) == expected else None
        found[f"{int(length):,} tokens"] = (mean, RULER.get(int(length)), len(ours), expected)
    return found
