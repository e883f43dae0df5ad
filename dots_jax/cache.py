"""`python -m dots_jax.cache` is `dots cache`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["cache", *sys.argv[1:]]))
