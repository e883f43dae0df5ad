"""`dots rft keep`: verdicts to conversations to learn, and an account of every sample that is left out.

OUTPUT.jsonl            {"messages", "source", "id", "sample"} of each answer that is kept, then phase 1's conversations
OUTPUT.left_out.jsonl   the other samples, each with its reason
OUTPUT.report.json, OUTPUT.png   counts
"""

import importlib.util
import json
import os
from collections.abc import Callable, Sequence

from dots_jax.cli.options import RftKeepOptions
from dots_jax.config import UserError
from dots_jax.posttraining.files import check_flags, file_sha256
from dots_jax.posttraining.keep_report import draw, table
from dots_jax.posttraining.mix import read_mix, take_share
from dots_jax.posttraining.questions import read_questions
from dots_jax.posttraining.samples import Sample, read_samples
from dots_jax.posttraining.selection import Rules, Selection, select
from dots_jax.posttraining.verify import pass_at_1
from dots_jax.storage import atomic_write, write_text


def keep(options: RftKeepOptions) -> None:
    """Writes the files above; options.output last, so that it is never there without the others.

    Raises:
      UserError: a flag or a file that cannot be used, or if no sample is kept.
    """
    check_flags(options, "questions", "verified", "output")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("The picture needs matplotlib: pip install 'dots_jax[evaluation]'.")
    if options.mix_share is not None and not (0 < options.mix_share < 1 and options.mix):
        raise UserError(f"--mix_share must be between 0 and 1 and goes with --mix, but is {options.mix_share}.")
    questions = read_questions(options.questions)
    samples = read_samples(options.verified, questions, verified=True, uneven=options.uneven)
    is_contaminated, short = _decontamination(options)
    mix, bad = read_mix(options.mix)
    rules = Rules(cap=options.cap, always_right=options.always_right, unverified=options.unverified)
    found = select(questions, samples, rules, is_contaminated)
    if not found.kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.counts().items())
        raise UserError(
            f"None of {len(samples):,} samples is kept ({reasons}), so that there is nothing to learn from."
        )
    mixed = take_share(mix, len(found.kept), options.mix_share, options.seed)
    rows = [conversation(sample) for sample in found.kept] + mixed
    counts = {
        "questions": len(questions), "sampled": len(found.shares),
        "always_right": sum(share == 1 for share in found.shares.values()),
        "never_right": sum(share == 0 for share in found.shares.values()),
        "with_a_kept_answer": len({sample.question.id for sample in found.kept}),
        "samples": len(samples), "pass_at_1": round(pass_at_1(samples), 6), "kept": len(found.kept),
        "left_out": found.counts(), "without_finish_reason": sum(sample.finish_reason is None for sample in samples),
        "mix": len(mix), "mix_taken": len(mixed), "mix_malformed": bad, "short_evaluation_texts": short,
        "conversations": len(rows),
    }  # fmt: skip
    _write(options, counts, found, rows)
    print(table(counts))
    print(
        f"{options.output}: {len(rows):,} conversations; the samples left out are named in {_named(options, '.left_out.jsonl')}"
    )


def conversation(sample: Sample) -> dict:
    """The question and the answer; earlier answers in the question are what the model is given, and are not learned."""
    turns = [one | ({"weight": 0} if one["role"] == "assistant" else {}) for one in sample.question.messages]
    answer = {"role": "assistant", "content": sample.text}
    return {"messages": [*turns, answer], "source": "rft", "id": sample.question.id, "sample": sample.number}


def _decontamination(options: RftKeepOptions) -> tuple[Callable[[str], bool], int]:
    """Whether a text shares an n-gram with the evaluation files, and how many of their texts are too short to have one."""
    if not options.decontaminate:
        return lambda text: False, 0
    if importlib.util.find_spec("rjieba") is None:
        raise UserError(
            "--decontaminate needs rjieba, which cuts Chinese words: pip install -r requirements-curation.txt."
        )
    from dots_jax.curation.decontaminate import hits, ngrams_of

    ngrams = ngrams_of(options.decontaminate, options.ngram, "--decontaminate", "--ngram")
    return lambda text: hits(text, ngrams) > 0, ngrams.short


def _named(options: RftKeepOptions, ending: str) -> str:
    return os.path.splitext(options.output)[0] + ending


def _write(options: RftKeepOptions, counts: dict, found: Selection, rows: Sequence[dict]) -> None:
    settings = ("cap", "always_right", "decontaminate", "ngram", "mix", "mix_share", "seed", "uneven", "unverified")
    about = {
        "counts": counts, "settings": {name: getattr(options, name) for name in settings},
        "questions_sha256": file_sha256(options.questions), "verified_sha256": file_sha256(options.verified),
    }  # fmt: skip
    try:
        os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
        with atomic_write(_named(options, ".left_out.jsonl")) as file:
            for sample, reason in found.left_out:
                file.write(
                    _line({"id": sample.question.id, "sample": sample.number, "reason": reason, "text": sample.text})
                )
        with atomic_write(_named(options, ".png"), "wb") as file:
            file.write(draw(counts, list(found.shares.values())))
        write_text(_named(options, ".report.json"), json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        with atomic_write(options.output) as file:
            file.writelines(map(_line, rows))
    except OSError as error:
        raise UserError(f"--output={options.output} cannot be written: {error.strerror or error}.") from error


def _line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
