"""`python -m dots_jax.planning` is `dots plan hlo`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["plan", "hlo", *sys.argv[1:]]))
