"""`dots curate`: checks everything, prints the plan or the funnel."""

import dataclasses
import os
import shutil
from pathlib import Path

import zstandard

from dots_jax.cli.options import CurateOptions
from dots_jax.config import CurateConfig, UserError
from dots_jax.curation import decontaminate, language, models, state, url
from dots_jax.curation.compare import compare
from dots_jax.curation.explain import explain
from dots_jax.curation.inputs import Piece, find_pieces
from dots_jax.curation.plan import Run
from dots_jax.curation.protocol import GlobalStep, WithModel
from dots_jax.curation.report import idle_line, table
from dots_jax.curation.rules import sites
from dots_jax.curation.run import ForEach, in_this_process, is_complete, run_all
from dots_jax.curation.state import read_about
from dots_jax.curation.steps import chosen, without_model
from dots_jax.curation.takedown import take_down
from dots_jax.human import human_bytes, human_time
from dots_jax.locks import owned
from dots_jax.storage import atomic_write, folder, in_bucket

SINGLE = (".jsonl", ".jsonl.zst")
SCRATCH = ".unfinished"  # end of the name of the folder in which a single file is made
PAGE_BYTES, PAGES_PER_SECOND = 20_000, 25  # of a compressed page and a core, for the estimate of --dry_run


def curate(config: CurateConfig, options: CurateOptions) -> int:
    """Returns the exit status. Raises UserError for what the user can fix, before anything is written."""
    if options.compare:
        print(compare(options.compare))
        return 0
    if options.takedown:
        if not options.output:
            raise UserError(
                f"--takedown={options.takedown} needs --output: the folder of the corpus to take documents from."
            )
        read_about(options.output, "--output")
        with owned(folder(options.output), "the corpus"):
            print(take_down(options.output, options.takedown, config))
        return 0
    if not options.input:
        raise UserError("Missing --input: say what to curate, as in --input='crawl/*.warc.gz'.")
    if not options.output and not options.dry_run and not options.explain:
        raise UserError("Missing --output: say where the corpus goes, as in --output=runs/corpus.")
    output = options.output or ""
    if in_bucket(output):
        raise UserError(f"--output={output}: a corpus is made in a folder of this machine or a mounted bucket.")
    single = output.endswith(SINGLE)
    if single and options.only is None:
        raise UserError(f"--output={output} is one file, which goes with --only; name a folder for a corpus.")
    if not single and os.path.exists(output) and not os.path.isdir(output):
        raise UserError(f"--output={output} is a file: name a folder, or with --only a .jsonl or .jsonl.zst.")
    steps = chosen(config, options.only)
    if options.previous:
        if os.path.abspath(options.previous) == os.path.abspath(output):
            raise UserError(f"--previous={options.previous} is --output as well: name a new folder for this crawl.")
        state.check(options.previous, config, [step.name for step in steps if isinstance(step, GlobalStep)])
    url.read_lists(config)
    language.load(config.language.model)
    sites.read_sites(config.rules.sites)
    if any(step.name == "decontamination" for step in steps):
        decontaminate.read_ngrams(config)
    for step in steps:
        if isinstance(step, WithModel):
            models.check(step, config)
    for_each = _runner(config)
    pieces = find_pieces(options.input)
    if options.explain:
        print(explain(options.explain, pieces, config, options.output))
        return 0
    if options.dry_run:
        print(plan_table(config, options, pieces))
        return 0
    if single:
        return _into_one_file(config, options, pieces, for_each)
    _run(config, options, pieces, for_each, output)
    return 0


def _runner(config: CurateConfig) -> ForEach:
    if not config.beam:
        return in_this_process
    from dots_jax.curation.job import on_beam

    return on_beam(config.beam)


def _run(config: CurateConfig, options: CurateOptions, pieces: list[Piece], for_each: ForEach, output: str) -> None:
    previous = os.path.abspath(options.previous) if options.previous else ""
    number = state.crawl_number(previous)
    run = Run(os.path.abspath(output), config, options.only, options.crawl, len(pieces), previous, number)
    os.makedirs(output, exist_ok=True)
    with owned(folder(output), "the corpus"):
        was_complete = is_complete(output)
        report = run_all(run, pieces, for_each)
    print(table(report))
    if was_complete:
        print(f"{output}: already complete, nothing done")
    elif not output.endswith(SCRATCH):
        print(f"{output}: documents/ removed/ places/ report.json report.html")


def _into_one_file(config: CurateConfig, options: CurateOptions, pieces: list[Piece], for_each: ForEach) -> int:
    """For scripts: the documents in one file, and next to it the ledger."""
    config = dataclasses.replace(config, output_format="jsonl")
    target = Path(options.output)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}{SCRATCH}")  # stays after a kill, so that the next start goes on
    _run(config, options, pieces, for_each, str(scratch))
    stem = target.name.removesuffix(".zst").removesuffix(".jsonl")
    for name, path in (("documents", target), ("removed", target.with_name(f"{stem}.removed.jsonl"))):
        _join(sorted((scratch / name).iterdir()), path)
    shutil.rmtree(scratch)
    print(f"{target}, and the ledger {stem}.removed.jsonl")
    return 0


def _join(parts: list[Path], target: Path) -> None:
    with atomic_write(target, "wb") as file:
        packed = target.suffix == ".zst"
        out = zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) if packed else file
        for part in parts:
            with open(part, "rb") as source, zstandard.ZstdDecompressor().stream_reader(source) as reader:
                shutil.copyfileobj(reader, out, 1 << 20)
        if packed:
            out.close()


def plan_table(config: CurateConfig, options: CurateOptions, pieces: list[Piece]) -> str:
    kinds: dict[str, list[int]] = {}
    for piece in pieces:
        for file in piece.files:
            kinds.setdefault(file.kind, []).append(file.size)
    lines = [f"{'input':<12}{'files':>10}{'size':>14}"]
    lines += [f"{kind:<12}{len(sizes):>10,}{human_bytes(sum(sizes)):>14}" for kind, sizes in sorted(kinds.items())]
    lines += ["", f"{'step':<12}what it does"]
    lines += [f"{step.name:<12}{step.does}" for step in chosen(config, options.only)]
    if options.only is None and (idle := without_model(config, config.steps)):
        lines.append(idle_line(idle))
    seconds = sum(map(sum, kinds.values())) / PAGE_BYTES / PAGES_PER_SECOND
    lines += [
        "",
        f"{len(pieces):,} pieces; estimated {human_time(seconds)} of one core, at {PAGES_PER_SECOND} pages a second",
    ]
    return "\n".join(lines)
