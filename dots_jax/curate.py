"""`python -m dots_jax.curate` is `dots curate`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["curate", *sys.argv[1:]]))
