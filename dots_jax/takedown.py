"""`python -m dots_jax.takedown` is `dots takedown`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["takedown", *sys.argv[1:]]))
