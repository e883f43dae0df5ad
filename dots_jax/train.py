"""`python -m dots_jax.train` is `dots train`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
