"""What `python -m squeezetime_jax.localize` runs: `squeezetime localize`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["localize", *sys.argv[1:]]))
