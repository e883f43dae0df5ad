"""`python -m dots_jax.plan` is `dots plan`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
