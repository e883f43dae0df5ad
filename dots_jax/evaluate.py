"""`python -m dots_jax.evaluate` is `dots evaluate`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
