"""What `python -m squeezetime_jax.check` runs: `squeezetime check`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
