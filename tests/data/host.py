"""One host of a run on several; `test_batches` starts them. Prints what it sees, as JSON.

python tests/data/host.py PORT HOSTS HOST FOLDER
"""

import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import jax
import numpy as np
from labelled import train_batches

from squeezetime_jax.data import batches, sources, transforms


def main(port: str, hosts: str, host: str, folder: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", int(hosts), int(host))
    # The last host's device comes first: rows of the batch are not in the order of the hosts.
    devices = sorted(jax.devices(), key=lambda device: -device.process_index)
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    split, everywhere = (jax.NamedSharding(mesh, spec) for spec in (jax.P("data"), jax.P()))
    local = train_batches(
        sources.annotation_list(f"{folder}/train.txt", folder),
        transforms.TrainingClip(num_frames=4, frame_interval=1, short_side=32, size=24),
        batch_size=4,
        seed=5,
        rows=batches.local_rows(split, 4),
    )
    gather = jax.jit(lambda clips: clips.sum((1, 2, 3, 4)), out_shardings=everywhere)
    with contextlib.closing(local), batches.to_devices(local, split) as on_devices:
        sums = [np.asarray(gather(next(on_devices)["clips"])).tolist() for _ in range(4)]
    print(json.dumps({"sums": sums}))


if __name__ == "__main__":
    main(*sys.argv[1:])
