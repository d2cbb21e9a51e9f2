"""What `python -m squeezetime_jax.prepare` runs: `squeezetime prepare`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
