"""Residual networks over frames against the public code."""

import jax
import numpy as np
import pytest
from flax import nnx
from peer_goldens import Goldens, check_maps, fill

from squeezetime_jax.peers import registry
from squeezetime_jax.peers.resnet import ResNet

SMALL = ["tsm_r18", "i3d_r18"]


@pytest.mark.parametrize("name", SMALL)
def test_logits_and_maps_are_the_public_codes(name: str, goldens: Goldens) -> None:
    model = fill(registry.create(name), goldens.state_dict(name))
    assert isinstance(model, ResNet)

    @nnx.jit
    def run(model: ResNet, clips: jax.Array) -> tuple:
        return model(clips), model.stage_maps(clips)

    logits, maps = run(model, goldens.clips(name))
    golden = goldens.arrays[f"{name}.small.logits"]
    np.testing.assert_allclose(logits, golden, rtol=0, atol=2e-5 * np.abs(golden).max())
    for stage, found in enumerate(maps):
        check_maps(found, goldens.arrays[f"{name}.small.backbone.layer{stage + 1}"])
