"""Residual networks over frames against the public code."""

import jax
import numpy as np
import pytest
from flax import nnx
from peer_goldens import Goldens, check_maps, fill

from squeezetime_jax.peers import registry
from squeezetime_jax.peers.layers import Network

# One for each mechanism; the others take longer, and share all but depth with one of these.
MECHANISMS = ["tsm_r18", "i3d_r18", "tada_r18", "tanet_r18"]
OTHERS = [
    "r2plus1d_r18",
    "c2d_r34",
    "tin_r34",
    "slowonly_r18",
    "tsn_r34",
    "tsm_r34",
    "r2plus1d_r34",
    "i3d_r50",
    "tsm_r50",
    "tsn_r50",
]
OTHERS += ["tin_r50", "tanet_r50", "c2d_r50", "slowonly_r50", "tada2d_r50"]
PUBLISHED_SIZE = ["i3d_r18", "tsm_r18", "tada_r18", "tsn_r34", "r2plus1d_r18", "c2d_r34"]
PUBLISHED_SIZE += ["slowonly_r18", "slowfast_r18", "tin_r34", "tsm_r34", "tanet_r18"]
PUBLISHED_SIZE += ["r2plus1d_r34", "tpn_r18"]


@nnx.jit
def run(model: Network, clips: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    maps = model.stage_maps(clips)
    last = model.neck(*maps[2:]) if hasattr(model, "neck") else maps[-1]
    return model.head(last), [*maps, last]


def slow(names: list[str]) -> list:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", MECHANISMS + slow(OTHERS))
def test_logits_and_maps_are_the_public_codes(name: str, goldens: Goldens) -> None:
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name))
    logits, maps = run(model, goldens.clips(name))
    goldens.check_logits(name, logits)
    stage = "backbone.conv{}" if name.startswith("tada") else "backbone.layer{}"
    first = 2 if name.startswith("tada") else 1
    for i, found in enumerate(maps[:4]):
        check_maps(found, goldens.arrays[f"{name}.small.{stage.format(i + first)}"])


@pytest.mark.parametrize("name", slow(["slowfast_r18", "slowfast_r50_4x16"]))
def test_both_paths_of_slowfast_are_the_public_codes(name: str, goldens: Goldens) -> None:
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name))
    logits, maps = run(model, goldens.clips(name))
    goldens.check_logits(name, logits)
    for i, found in enumerate(maps[:4]):
        fast, slow = (
            goldens.arrays[f"{name}.small.backbone.{path}_path.layer{i + 1}"]
            for path in ("fast", "slow")
        )
        fast = fast.reshape(*fast.shape[:2], -1, model.config.ratio).mean(3)
        check_maps(found, np.concatenate([fast, slow], axis=1))


@pytest.mark.parametrize("name", ["tpn_r18", *slow(["tpn_r50"])])
def test_the_pyramid_of_tpn_is_the_public_codes(name: str, goldens: Goldens) -> None:
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name))
    logits, maps = run(model, goldens.clips(name))
    goldens.check_logits(name, logits)
    check_maps(maps[-1], goldens.arrays[f"{name}.small.neck.pyramid_fusion"])


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_SIZE)
def test_logits_at_the_published_size(name: str, goldens: Goldens) -> None:
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name, "full"))
    logits, _ = run(model, goldens.clips(name, "full"))
    goldens.check_logits(name, logits, "full")
