"""Float32 exports of the paper's variants against the live network: the largest difference.

    python experiments/check_exports.py --size 160 --formats onnx litert openvino

For each width and number of frames it prints the largest difference of a logit over the largest
logit, on two clips of noise. The weights are random, and so are the batch norms' statistics, so
that nothing that is folded is trivial.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.export.write import export


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=float, nargs="+", default=[0.5, 0.75, 1.0, 1.25])
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    args = parser.parse_args()
    for width in args.widths:
        for num_frames in args.frames:
            begin = time.monotonic()
            model = network(SqueezeTimeConfig(width=width, num_frames=num_frames))
            found = [f"{name} {difference(model, name, args.size):.1e}" for name in args.formats]
            where = f"width {width:<4} T {num_frames:<2} {args.size} x {args.size}"
            print(f"{where}  {'  '.join(found)}  ({time.monotonic() - begin:.0f} s)", flush=True)


def network(config):
    model = SqueezeTime(config, nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        if path[-1] in ("mean", "var"):
            values = rng.uniform(0.7, 1.3, leaf.shape) - (path[-1] == "mean")
            leaf.set_value(jnp.asarray(values, jnp.float32))
    model.eval()
    return model


def difference(model, format, size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{formats.get(format).suffix}"
        return export(model, path, format=format, height=size, width=size).check.relative


if __name__ == "__main__":
    main()
