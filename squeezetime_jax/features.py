"""What `python -m squeezetime_jax.features` runs: `squeezetime features`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["features", *sys.argv[1:]]))
