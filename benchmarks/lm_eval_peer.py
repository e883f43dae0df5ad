"""Our adapter next to lm-evaluation-harness's Hugging Face backend, on the same small Dots1 and the same requests, in float32.

    python benchmarks/lm_eval_peer.py --data=DATA --work=DIR [--parts=scores,texts,mmlu,gsm8k] [--output=FILE.json]

scores  log-likelihoods of letters, endings, Chinese, trailing blanks, boundaries inside a word, empty and left-cut contexts, and
        whole texts: the largest differences, and which greedy flags or choices differ
texts   50 generations with several stop strings, Chinese ones among them: texts that differ
mmlu    500 items of MMLU 5-shot, four choices each; gsm8k: 100 generations of 128 tokens: seconds, start included

DATA is as for `dots evaluate`. Each side is a process of its own, so that its start counts. Needs requirements-lm-eval.txt,
torch and transformers.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
CONTEXT, VOCAB, STD, NEW = 1024, 4096, 0.08, 128


def prepare(work: str, data: str) -> None:
    """WORK/hf: a random Dots1 with a tokenizer trained on the data; WORK/dots: the same, converted."""
    from dots_jax.cli.main import main as dots

    os.makedirs(f"{work}/hf", exist_ok=True)
    texts = [request[0] + request[1] for request in scores_requests(data, None)]
    with open(f"{work}/texts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    tokenizer = f"{work}/hf/tokenizer.json"
    assert dots(["tokenizer", f"--vocab_size={VOCAB}", f"--files={work}/texts.jsonl", f"--output={tokenizer}"]) == 0
    import jax
    import numpy as np
    from safetensors.numpy import save_file

    from dots_jax.config import ComputeConfig, ModelConfig
    from dots_jax.huggingface.config import config_to_hf
    from dots_jax.huggingface.names import to_hf
    from dots_jax.model.model_def import ModelDef

    config = ModelConfig(
        vocab_size=VOCAB, num_layers=4, hidden_size=128, num_heads=4, head_dim=32, dense_ffn_size=352, num_experts=16,
        experts_per_token=4, expert_ffn_size=64, num_shared_experts=2, max_seq_len=CONTEXT,
    )  # fmt: skip
    params, bias = jax.jit(lambda: ModelDef(config, ComputeConfig(), None, STD).init(0))()
    tensors = to_hf(jax.tree.map(np.asarray, params), np.asarray(bias), config)
    save_file(tensors, f"{work}/hf/model.safetensors", metadata={"format": "pt"})
    vocabulary = json.load(open(tokenizer))
    eos = next(token["id"] for token in vocabulary["added_tokens"] if token["content"] == "<|endoftext|>")
    content = config_to_hf(config) | {"eos_token_id": eos, "bos_token_id": None, "torch_dtype": "float32"}
    json.dump(content, open(f"{work}/hf/config.json", "w"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
               "clean_up_tokenization_spaces": False}, open(f"{work}/hf/tokenizer_config.json", "w"))  # fmt: skip
    assert dots(["convert", "from_hf", f"{work}/hf", f"{work}/dots"]) == 0


# --- requests -----------------------------------------------------------------------------------------------------------


def items_of(row: str, data: str):
    """(prompt, choices) of the items of a row that can be ranked."""
    from dots_jax.evaluation.tasks.files import Files
    from dots_jax.evaluation.tasks.table import TASKS

    task = TASKS[row]
    for group in task.load(Files(data, task.folder or row)):
        for item in group.items:
            yield task.prompt(group, item), item.choices


def scores_requests(data: str, limit: int | None) -> list[tuple[str, str, str]]:
    """(context, continuation, question): requests of one question are choices."""
    found = []

    def add(kind: str, pairs) -> None:
        for number, (context, choices) in enumerate(pairs):
            if limit is None or number < limit:
                found.extend((context, choice, f"{kind}/{number}") for choice in choices)

    for row in ("mmlu", "ceval", "cmmlu", "cluewsc"):
        add(row, items_of(row, data))
    from dots_jax.evaluation.tasks.files import read_records

    rows = read_records(f"{data}/hellaswag/hellaswag_small.jsonl", "query", "choices")
    endings = [(row["query"], [f" {end}" for end in row["choices"]]) for row in rows]
    add("endings", endings)
    add("blank", [(f"{context} ", ["A", "B", "C", "D"]) for context, _ in items_of("mmlu", data)][:10])
    add("two blanks", [(f"{context}  \n", ["x", "是"]) for context, _ in endings[:10]])
    add(
        "inside a word",
        [(context[:-2], [context[-2:] + choice for choice in choices]) for context, choices in endings[:8]],
    )
    add("empty", [("", [context]) for context, _ in endings[:10]])
    add("cut", [((context + "\n") * 12, choices) for context, choices in endings[:5]])
    return found


STOPS = (["\n\n", "Question:"], ["。", "，", "的"], ["e", "qq"], [".", "\n"], ["zz", "是", " the"])


def text_requests(data: str) -> list[tuple[str, dict]]:
    prompts = [
        prompt for row in ("ceval", "mmlu", "gsm8k", "cluewsc", "cmmlu") for prompt, _ in list(items_of(row, data))[:10]
    ]
    return [
        (prompt, {"until": STOPS[n % 5], "max_gen_toks": 40 + n % 3 * 8, "do_sample": False})
        for n, prompt in enumerate(prompts)
    ]


def requests_of(part: str, data: str):
    """(method of the LM, its requests)."""
    if part == "scores":
        return "loglikelihood", [(context, continuation) for context, continuation, _ in scores_requests(data, 21)]
    if part == "rolling":
        return "loglikelihood_rolling", [(context * 3,) for context, _ in list(items_of("mmlu", data))[:6]]
    if part == "texts":
        return "generate_until", text_requests(data)
    if part == "mmlu":
        found = [(prompt, choice) for prompt, choices in items_of("mmlu", data) for choice in choices]
        return "loglikelihood", (found * 500)[: 4 * 500]
    prompts = [prompt for prompt, _ in items_of("gsm8k", data)]
    return "generate_until", [
        (each, {"until": ["zzzz"], "max_gen_toks": NEW, "do_sample": False}) for each in (prompts * 100)[:100]
    ]


# --- one side -----------------------------------------------------------------------------------------------------------


def fails(model, context: str, continuation: str) -> bool:
    """Whether the harness ends with an assertion: no token of the continuation is left behind those of the context."""
    return bool(context) and not all(map(len, model._encode_pair(context, continuation)))


def side(name: str, part: str, work: str, data: str, batch_size: int) -> None:
    """Answers the requests of a part into WORK/part.name.json; null for those on which the harness fails."""
    began = time.monotonic()
    from lm_eval.api.instance import Instance

    if name == "ours":
        from dots_jax.evaluation.lm_eval import DotsLM

        model = DotsLM(f"{work}/dots", tokenizer=f"{work}/hf/tokenizer.json", dtype="float32", batch_size=batch_size)
    else:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(f"{work}/hf", device="cpu", dtype="float32", batch_size=batch_size, max_length=CONTEXT)
    method, pairs = requests_of(part, data)
    kind = "loglikelihood" if method == "loglikelihood" else method
    left_out = {
        n for n, pair in enumerate(pairs) if name == "theirs" and kind == "loglikelihood" and fails(model, *pair)
    }
    instances = [Instance(kind, {}, args, number) for number, args in enumerate(pairs) if number not in left_out]
    answers = iter(getattr(model, method)(instances, disable_tqdm=True))
    found = [None if number in left_out else next(answers) for number in range(len(pairs))]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {"seconds": time.monotonic() - began, "cpu": usage.ru_utime + usage.ru_stime, "found": found}
    if name == "ours":
        result["counts"] = vars(model._answerer.counts)
    with open(f"{work}/{part}.{name}.json", "w", encoding="utf-8") as file:
        json.dump(result, file, ensure_ascii=False)


def run_side(name: str, part: str, options, batch_size: int) -> dict:
    command = [sys.executable, __file__, f"--side={name}", f"--parts={part}", f"--data={options.data}", f"--work={options.work}",
               f"--batch_size={batch_size}"]  # fmt: skip
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONPATH": ROOT,
        "TOKENIZERS_PARALLELISM": "false",
    }
    began = time.monotonic()
    subprocess.run(command, check=True, env=environment)
    with open(f"{options.work}/{part}.{name}.json", encoding="utf-8") as file:
        return json.load(file) | {"wall": time.monotonic() - began}


# --- both ---------------------------------------------------------------------------------------------------------------


def compare_scores(options) -> dict:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(f"{options.work}/hf/tokenizer.json")
    asked = scores_requests(options.data, 21)
    ours, theirs = (run_side(name, "scores", options, 8)["found"] for name in ("ours", "theirs"))
    sums, each, greedy = [], [], 0
    both = [(question, *pair) for question, *pair in zip(asked, ours, theirs) if pair[1] is not None]
    for (_, continuation, _), (a, first_a), (b, first_b) in both:
        tokens = max(1, len(tokenizer.encode(continuation, add_special_tokens=False).ids))
        sums.append(abs(a - b))
        each.append(abs(a - b) / tokens)
        greedy += first_a != first_b
    best: dict[str, list[list[float]]] = {}
    for (_, _, question), (a, _), (b, _) in both:
        pair = best.setdefault(question, [[], []])
        pair[0].append(a)
        pair[1].append(b)
    choices = [a.index(max(a)) == b.index(max(b)) for a, b in best.values() if len(a) > 1]
    rolling = [run_side(name, "rolling", options, 4)["found"] for name in ("ours", "theirs")]
    return {"requests": len(both), "harness_fails": len(asked) - len(both),
            "largest_in_sum": max(sums), "largest_a_token": max(each), "greedy_differs": greedy,
            "questions": len(choices), "choices_differ": choices.count(False), "rolling_texts": len(rolling[0]),
            "rolling_largest": max(abs(a - b) / abs(b) for a, b in zip(*rolling))}  # fmt: skip


def compare_texts(options) -> dict:
    found = {size: run_side("ours", "texts", options, size)["found"] for size in (1, 3, 16)}
    theirs = run_side("theirs", "texts", options, 1)["found"]
    differ = {str(size): sum(a != b for a, b in zip(texts, theirs)) for size, texts in found.items()}
    shown = [(n, a, b) for n, (a, b) in enumerate(zip(found[16], theirs)) if a != b][:3]
    lengths = sorted(map(len, theirs))
    return {
        "texts": len(theirs),
        "differ_by_batch": differ,
        "shortest": lengths[0],
        "longest": lengths[-1],
        "first": shown,
    }


def compare_speed(part: str, options) -> dict:
    ours, theirs = (run_side(name, part, options, 16) for name in ("ours", "theirs"))
    return {"requests": len(ours["found"]), "ours_s": round(ours["wall"], 1), "theirs_s": round(theirs["wall"], 1),
            "ours_cpu_s": round(ours["cpu"], 1), "theirs_cpu_s": round(theirs["cpu"], 1), "counts": ours["counts"],
            "ratio": round(theirs["wall"] / ours["wall"], 2), "cpu_ratio": round(theirs["cpu"] / ours["cpu"], 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--parts", default="scores,texts,mmlu,gsm8k")
    parser.add_argument("--output")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int, default=16, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.parts, options.work, options.data, options.batch_size)
        return
    if not os.path.exists(f"{options.work}/dots"):
        prepare(options.work, options.data)
    results = {}
    for part in options.parts.split(","):
        compare = {"scores": compare_scores, "texts": compare_texts}.get(part)
        results[part] = compare(options) if compare else compare_speed(part, options)
        print(f"{part}: {json.dumps(results[part], ensure_ascii=False)}", flush=True)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
