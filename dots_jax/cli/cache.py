"""Tokenise data sets ahead of training.

    dots cache --gin_file=gin/cache_tiny.gin --dry_run

Started again, it continues where it stopped; complete caches are skipped.
"""

import logging

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.gin_config import load
from dots_jax.cli.options import CacheOptions
from dots_jax.config import CacheConfig

OPTIONS = CacheOptions


def main(options: CacheOptions) -> int:
    config, options = load(CacheConfig, options)
    load_tensorflow(options.debug)
    if not options.debug:
        logging.disable(logging.ERROR)  # Beam logs warnings of optional parts, and its workers' errors before raising
    from dots_jax.data.cache.job import cache

    return cache(config, options)
