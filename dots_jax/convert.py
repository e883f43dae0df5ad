"""`python -m dots_jax.convert` is `dots convert`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
