"""The authors' network against ours, weights through the real importer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import squeezetime_jax as st
from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.checkpoint.torch_names import full_name, rows
from squeezetime_jax.model.abstract import abstract_model, flat_leaves

ENTRIES = (
    "tiny_224",
    "tiny_160x192",
    "tiny_286",
    "recipe_r50_w1_f16",
    "recipe_r18_w0.5_f8",
    "recipe_r50_w0.5_f4",
    "recipe_r101_w0.25_f32",
    "recipe_ava_w0.25",
)


def draw_entry(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """One entry of the goldens' seeded weights."""
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith(".weight")):
        entry = random.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        entry = 0.1 * random.standard_normal(shape)
    elif name.endswith("pos_embed"):
        entry = 0.5 * random.standard_normal(shape)
    else:
        entry = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return entry.astype(np.float32)


def draw_state_dict(config: SqueezeTimeConfig, seed: int) -> dict[str, np.ndarray]:
    leaves = flat_leaves(abstract_model(config))
    state_dict = {}
    for i, row in enumerate(rows(config, leaves)):
        name = full_name(row.name)
        if row.order is None:
            state_dict[name] = np.zeros((), np.int64)
        else:
            shape = row.released_shape(leaves[row.path].shape)
            state_dict[name] = draw_entry(name, shape, np.random.default_rng([seed, i]))
    return state_dict


def load_golden(
    reference: Callable[[str], Path], entry: dict[str, Any], **changes: Any
) -> SqueezeTime:
    if "checkpoint" in entry:
        return st.load(reference(f"golden/{entry['checkpoint']}"), **changes)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["model"].items()}
    config = SqueezeTimeConfig(position_grids=fields.pop("pos_dims"), **fields)
    return st.from_state_dict(draw_state_dict(config, entry["weights_seed"]), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_logits_and_features_are_the_authors(
    golden: Path, reference: Callable[[str], Path], name: str, dtype: str, tolerance: float
) -> None:
    entry = json.loads((golden / "index.json").read_text())["forward"][name]
    model = load_golden(reference, entry, dtype=dtype)
    clips = np.random.default_rng(entry["seed"]).standard_normal(entry["input_shape"])
    clips = clips.astype(np.float32).transpose(0, 2, 3, 4, 1)

    @jax.jit
    def forward(clips: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = model.features(clips)
        return features, model.head(features)

    features, logits = forward(clips)
    n, c, h, w = entry["feature_shape"]
    assert features.shape == (n, h, w, c)
    pooled = features.astype(np.float32).mean((1, 2))
    expected = np.load(golden / "forward.npz")
    for found, key in ((pooled, "pooled"), (logits, "logits")):
        reference = expected[f"{name}.{key}"]
        error = np.abs(np.asarray(found) - reference).max() / np.abs(reference).max()
        assert error <= tolerance, f"{key}: {error:.1e} of the largest"
    top1 = expected[f"{name}.logits"].argmax(1)
    np.testing.assert_array_equal(logits.argmax(1), top1)


def test_all_goldens_are_tested(golden: Path) -> None:
    assert set(json.loads((golden / "index.json").read_text())["forward"]) == set(ENTRIES)


def test_table_gives_the_released_names_in_order(golden: Path) -> None:
    released = json.loads((golden / "state_dict_r50_w1_f16.json").read_text())
    config = SqueezeTimeConfig()
    leaves = flat_leaves(abstract_model(config))
    ours = []
    for row in rows(config, leaves):
        shape = row.released_shape(leaves[row.path].shape) if row.order is not None else ()
        ours.append([full_name(row.name), list(shape)])
    assert ours == released
