"""Golden numbers of the compared networks: weights by a recipe, inputs by a seed."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.peers import registry
from squeezetime_jax.peers.released import rows

DATA = Path(__file__).parent / "data"


class Goldens:
    """What the public PyTorch code of each network computes."""

    def __init__(self, folder: Path):
        self.facts: dict[str, Any] = json.loads((folder / "peers.json").read_text())
        self.arrays = np.load(folder / "peers.npz")
        with gzip.open(folder / "peers_names.json.gz", "rt") as file:
            self.names: dict[str, list[tuple[str, list[int]]]] = json.load(file)

    def state_dict(self, name: str, size: str = "small") -> dict[str, np.ndarray]:
        """A network's weights by the recipe, in PyTorch's names and layout."""
        seed = self.facts[name][size]["weights_seed"]
        names = self.names.get(f"{name}.{size}", self.names[name])
        return {key: draw([seed, i], key, shape) for i, (key, shape) in enumerate(names)}

    def clips(self, name: str, size: str = "small") -> np.ndarray:
        """Its input, (n, t, h, w, 3)."""
        facts = self.facts[name][size]
        x = np.random.default_rng(facts["seed"]).standard_normal(facts["input_shape"])
        x = x.astype(np.float32)
        if x.ndim == 5:
            return x.transpose(0, 2, 3, 4, 1)
        logits = self.arrays[f"{name}.{size}.logits"]
        return x.reshape(len(logits), -1, *x.shape[1:]).transpose(0, 1, 3, 4, 2)

    def check_logits(self, name: str, found: np.ndarray, size: str = "small") -> None:
        """Compare logits with the golden ones, to 2e-5 of the largest."""
        close(np.asarray(found), self.arrays[f"{name}.{size}.logits"])


def close(found: np.ndarray, golden: np.ndarray) -> None:
    """Compare to 2e-5 of the largest number."""
    np.testing.assert_allclose(found, golden, rtol=0, atol=2e-5 * np.abs(golden).max())


def draw(seed: list[int], key: str, shape: list[int]) -> np.ndarray:
    """One entry of a state dict by the recipe of the goldens."""
    rng = np.random.default_rng(seed)
    last = key.split(".")[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last == "running_var" or not shape or (last == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        scale = 0.1
    elif last in ("pos_embed", "time_embed", "cls_token"):
        scale = 0.5
    elif key.endswith("_rf.b.weight"):
        scale = 0.003 / math.sqrt(math.prod(shape[1:]))
    else:
        scale = 1 / math.sqrt(math.prod(shape[3:] if len(shape) == 6 else shape[1:]))
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def fill(model: nnx.Module, state_dict: dict[str, np.ndarray]) -> nnx.Module:
    """Put a state dict into a network, of arrays or of shapes: every entry into its leaf."""
    leaves = flat_leaves(model)
    entry = registry.entry_of(model)
    unfilled = set(leaves)
    table = list(rows(entry.released[0](model.config), leaves))
    assert [row.name for row in table] == list(state_dict)
    for row in table:
        if row.order is not None:
            ours = row.to_ours(state_dict[row.name])
            assert ours.shape == leaves[row.path].shape
            leaves[row.path].set_value(jnp.asarray(ours))
            unfilled.remove(row.path)
    assert not unfilled
    model.eval()
    return model


def check_maps(found: np.ndarray, golden: np.ndarray) -> None:
    """Compare a map (n, t, h, w, c) with a golden one, averaged over space and channels first."""
    mean = np.asarray(found).mean((2, 3))
    if golden.ndim == 2:  # frames folded into the batch
        mean = mean.reshape(golden.shape)
    else:
        golden = golden.transpose(0, 2, 1)
    close(mean, golden)
