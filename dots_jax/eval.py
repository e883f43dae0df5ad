"""`python -m dots_jax.eval` is `dots eval`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
