"""What `python -m squeezetime_jax.train` runs: `squeezetime train`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
