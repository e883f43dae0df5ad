"""Tokenise data sets ahead of training.

    dots cache --gin_file=gin/cache_tiny.gin --dry_run

    dots cache --dry_run --sizes=listing.txt    # a corpus of which only sizes are known

Started again, it continues where it stopped; complete caches are skipped.
"""

import logging

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.gin_config import load
from dots_jax.cli.options import CacheOptions
from dots_jax.config import CacheConfig, UserError

OPTIONS = CacheOptions


def main(options: CacheOptions) -> int:
    if options.sizes:
        if not options.dry_run or options.gin_file or options.gin_bindings:
            raise UserError("--sizes plans one source by itself: give it with --dry_run, and without --gin_file.")
        load_tensorflow(options.debug)
        from dots_jax.data.cache.job import plan_sizes

        return plan_sizes(options.sizes)
    config, options = load(CacheConfig, options)
    load_tensorflow(options.debug)
    if not options.debug:
        logging.disable(logging.ERROR)  # Beam logs warnings of optional parts, and its workers' errors before raising
    from dots_jax.data.cache.job import cache

    return cache(config, options)
