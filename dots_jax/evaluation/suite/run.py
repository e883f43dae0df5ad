"""`dots evaluate --suite`: answers the items of the rows with a checkpoint, judges them as they come, and writes the report."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator

import jax

from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.cli.options import EvaluateOptions
from dots_jax.config import UserError
from dots_jax.data.tokenizers import chat
from dots_jax.evaluation.rows.row import Row, Tools, score_items
from dots_jax.evaluation.rows.table import ROWS
from dots_jax.evaluation.scoring.score import Score
from dots_jax.evaluation.suite.answering import Answer, Answerer
from dots_jax.evaluation.suite.judge import KeptJudge
from dots_jax.evaluation.suite.judging import judge_answers
from dots_jax.evaluation.suite.milestones import chosen_steps, evaluate_steps, read_texts
from dots_jax.evaluation.suite.plan import Planned, groups_of, making_of, plan_row, row_names
from dots_jax.evaluation.suite.report import write_report
from dots_jax.evaluation.suite.requests import GENERATION, RANKING, Request, RequestMaker, Setting
from dots_jax.evaluation.suite.results import OtherProcess, Results, open_shared
from dots_jax.evaluation.suite.summary import RowSummary, summarise
from dots_jax.evaluation.tasks.task import Making
from dots_jax.evaluation.verdicts import as_json
from dots_jax.inference.prompts import PromptEncoder
from dots_jax.inference.session import open_vocabulary, serving_dtype
from dots_jax.parallel.exchange import from_all
from dots_jax.storage import open_file, write_text

WINDOW = 256  # items whose prompts are compared, to find what they begin with
SHOWN = 20_000  # characters of a text that are kept


def evaluate(options: EvaluateOptions) -> None:
    """Runs the rows, or what a run before has not answered yet.

    Raises:
      UserError: for flags, a checkpoint without a tokenizer, a folder of another run, a file of a row in another format, a row
        whose libraries are missing. All but answers that are asked again is found before the weights are read.
    """
    names = row_names(options)
    if options.validation and not options.steps:
        raise UserError("--validation belongs to --steps: it is measured for every step of a run.")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("The report's picture needs matplotlib: pip install 'dots_jax[evaluation]'.")
    opened = open_checkpoint(options.checkpoint, options.step)
    vocabulary = open_vocabulary(options.tokenizer, opened)
    if vocabulary is None:
        raise UserError("This checkpoint has no tokenizer: give one, as --tokenizer=FILE.")
    answerer = Answerer(opened, options.dtype, options.batch_size, vocabulary)
    if options.steps:
        steps = chosen_steps(options, opened)
        texts = read_texts(options.validation, vocabulary, opened.model.max_seq_len) if options.validation else None
        run = lambda one, output: run_rows(options, names, one, vocabulary, answerer, output)
        evaluate_steps(options, [opened.at(step) for step in steps], answerer, run, texts)
        return
    run_rows(options, names, opened, vocabulary, answerer, options.output)


def run_rows(
    options: EvaluateOptions, names, opened: Opened, vocabulary, answerer: Answerer, output: str
) -> list[RowSummary]:
    """The rows with the weights of one checkpoint, into the folder `output`."""
    setting = Setting(
        _weights_digest(opened), _tokenizer_digest(vocabulary), serving_dtype(options.dtype, opened),
        opened.model.max_seq_len, options.suite == "table5",
    )  # fmt: skip
    as_chat = PromptEncoder(vocabulary, as_chat=True, default_system=opened.metadata.default_system).text
    if setting.chat:
        vocabulary.special_id(chat.GENERATION_PROMPT)
    maker = RequestMaker(setting, vocabulary.encode, as_chat, vocabulary.eos_id)
    making = making_of(options, vocabulary.encode, setting.context)
    with Tools(options.unsafe_code) as tools, open_shared(output, setting) as results:
        rows = [plan_row(name, options.data, making, options.judge) for name in names]
        for row in rows:
            if row.task:
                tools.open(ROWS[row.name].needs)
        answerer.use(opened)
        first = jax.process_index() == 0
        judge = (
            KeptJudge(f"{output}/judge.jsonl", options.judge, options.judge_model) if options.judge and first else None
        )
        wanted = _answer(rows, maker, making, results, tools, answerer, options)
        if not first:
            return []
        verdicts = _judge(rows, maker, making, results, tools, judge, options) if judge else {}
        lines = (line | verdicts.get(line["key"], {}) for line in results.lines(set(wanted)))
        summaries = summarise([(row.name, row.missing) for row in rows], lines)
        _write(options, opened, setting, making, summaries, output)
    return summaries


def _answer(
    rows, maker, making: Making, results: Results | OtherProcess, tools: Tools, answerer: Answerer, options
) -> dict[str, str]:
    """Answers what is not answered yet. Returns the keys of all requests -> their row."""
    wanted: dict[str, str] = {}
    modes = (GENERATION, RANKING) if options.ranking else (GENERATION,)
    for row, mode in itertools.product((row for row in rows if row.task), modes):
        with _progress(f"{row.name} {mode}") as bar:
            for window in windows(requests_of(row, maker, making, options.limit, mode)):
                wanted |= dict.fromkeys((request.key for request in window), row.name)
                new = [request for request in window if request.key not in results.keys]
                bar.update(len(window) - len(new))
                for pairs in answerer.answers(new):
                    results.add(_lines(row.name, pairs, tools))
                    bar.update(len(pairs))
    counts = answerer.counts
    if counts.asked and jax.process_index() == 0:
        print(
            f"{counts.fed:,} tokens fed for prompts of {counts.asked:,}, {counts.generated:,} generated",
            file=sys.stderr,
        )
    return wanted


def _judge(rows, maker, making: Making, results: Results, tools: Tools, judge: KeptJudge, options) -> dict[str, dict]:
    """Key -> what the judge found, for the answers of the judged rows."""
    verdicts: dict[str, dict] = {}
    for row in rows:
        if not row.task or not ROWS[row.name].judged:
            continue
        requests = list(requests_of(row, maker, making, options.limit, GENERATION))
        texts = {line["key"]: line["text"] for line in results.lines({request.key for request in requests})}
        with _progress(f"{row.name} judge") as bar:
            pairs = ((request.item, texts[request.key]) for request in requests)
            for request, score in zip(requests, judge_answers(row.name, pairs, judge, tools)):
                verdicts[request.key] = as_json(score)
                bar.update(1)
    print(f"{judge.asked:,} questions to the judge", file=sys.stderr)
    return verdicts


def requests_of(row: Planned, maker: RequestMaker, making: Making, limit: int | None, mode: str) -> Iterator[Request]:
    """A task that makes its items has made no more than `limit` for each length."""
    return maker.requests(row.task, groups_of(row, making), None if row.task.make else limit, mode)


def windows(requests: Iterator[Request]) -> Iterator[list[Request]]:
    """At most WINDOW requests of one group each."""
    for _, group in itertools.groupby(requests, lambda request: request.group):
        while window := list(itertools.islice(group, WINDOW)):
            yield window


def _lines(row: str, pairs: list[tuple[Request, Answer]], tools: Tools) -> Iterator[dict]:
    """The answers of a batch as lines, judged."""
    common = lambda request: {
        "row": row, "group": request.group, "id": request.item.id, "mode": request.mode, "key": request.key,
        "prompt_tokens": len(request.tokens) or len(request.rows[0][0]), "shots": request.shots,
        "dropped_shots": request.dropped_shots, "cut": request.cut,
    }  # fmt: skip
    if pairs[0][0].mode == RANKING:
        for request, answer in pairs:
            best = max(range(len(answer.logprobs)), key=answer.logprobs.__getitem__)
            yield common(request) | {
                "logprobs": [round(x, 5) for x in answer.logprobs], "choice": best, "right": request.item.right,
                "extracted": request.item.choices[best].strip(), "score": float(best == request.item.right),
            }  # fmt: skip
        return
    if ROWS[row].judged:
        scores = [as_json(Score(None, None, {"left_out": "not judged yet"}))] * len(pairs)
    else:
        scores = _scores(ROWS[row], [(answer.text, request.item.gold) for request, answer in pairs], tools)
    for (request, answer), score in zip(pairs, scores):
        yield common(request) | {
            "new_tokens": answer.new_tokens, "ended": answer.ended, "text": answer.text[:SHOWN],
            **score, "context": request.item.context[-SHOWN:], "expected": request.item.answer.strip()[:SHOWN],
        }  # fmt: skip


def _scores(row: Row, pairs: list[tuple], tools: Tools) -> list[dict]:
    """Programs and derivations are shared out over the processes; every process has all scores."""
    processes, place = jax.process_count(), jax.process_index()
    if processes == 1 or not row.parallel:
        return [as_json(score) for score in score_items(row, pairs, tools)]
    found = from_all([as_json(score) for score in score_items(row, pairs[place::processes], tools)])
    return [found[number % processes][number // processes] for number in range(len(pairs))]


def _write(options, opened: Opened, setting: Setting, making: Making, summaries: list[RowSummary], output: str) -> None:
    for row in summaries:
        print(row.line())
    content = {
        "suite": options.suite,
        "checkpoint": str(opened.path),
        "step": opened.step,
        "setting": dataclasses.asdict(setting),
        "rows": {row.name: row.as_json() for row in summaries},
    }
    write_text(f"{output}/results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    facts = {
        "checkpoint": str(opened.path), "step": f"{opened.step:,}", "weights": setting.weights[:16],
        "computed in": setting.dtype, "context": f"{setting.context:,} tokens",
        "prompts": "chat template, zero-shot" if setting.chat else "few-shot, as each row's page says",
        "items of each row": f"the first {options.limit:,}" if options.limit else "all",
    }  # fmt: skip
    if options.suite == "table3":
        facts |= {"lengths": ", ".join(f"{length:,}" for length in making.lengths), "seed of the prompts": str(making.seed),
                  "items of each row": f"{making.items:,} of each length"}  # fmt: skip
    write_report(output, options.suite, f"dots.llm1 evaluation: {options.suite}", facts, summaries)
    print(f"{output}/report.html")


def _weights_digest(opened: Opened) -> str:
    metadata = opened.metadata
    fields = [sorted(metadata.checksums.items()), dataclasses.astuple(metadata.model)]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _tokenizer_digest(vocabulary) -> str:
    if vocabulary.name == "bytes":
        return "bytes"
    with open_file(vocabulary.name) as file:
        return hashlib.sha256(file.read()).hexdigest()


@contextlib.contextmanager
def _progress(name: str):
    from tqdm import tqdm

    quiet = jax.process_index() > 0 or not sys.stderr.isatty()
    with tqdm(desc=name, unit="item", disable=quiet) as bar:
        yield bar
