"""`python -m dots_jax` is `dots`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
