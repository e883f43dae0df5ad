"""Tokenise data sets ahead of training: python -m dots_jax.cache --gin_file=gin/cache_tiny.gin

Started again it goes on where it stopped; a cache that is whole stays as it is. --dry_run shows what there is to do.
"""

import logging

from dots_jax import gin_cli
from dots_jax.config import CacheConfig


def main(config: CacheConfig, options) -> int:
    if not options.debug:
        logging.disable(
            logging.ERROR
        )  # Beam logs the warnings of optional parts, and its workers' errors before raising
    from dots_jax.data.cache.job import cache

    return cache(config, options)


if __name__ == "__main__":
    gin_cli.run(CacheConfig, main, gin_cli.DRY_RUN, workdir=False)
