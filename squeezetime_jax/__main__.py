"""What `python -m squeezetime_jax` runs: the `squeezetime` command."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
