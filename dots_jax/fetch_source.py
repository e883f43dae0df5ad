"""`python -m dots_jax.fetch_source` is `dots fetch_source`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["fetch_source", *sys.argv[1:]]))
