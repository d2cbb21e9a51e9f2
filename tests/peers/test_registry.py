"""The register of networks."""

import dataclasses
import functools
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import squeezetime_jax as st
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.model.counts import multiply_adds
from squeezetime_jax.peers import registry
from squeezetime_jax.training.network import Network

NAMES = registry.names()
# Tracing takes a second or two a network: some of the families here, the others in the slow lane.
_FAMILIES = ("squeezetime", "tsm_r18", "i3d_r18", "slowfast_r18", "tpn_r18", "tada_r18", "x3d_xs")
_FAMILIES += ("movinet_a0", "timesformer_base")
TRACED = [pytest.param(name, marks=() if name in _FAMILIES else pytest.mark.slow) for name in NAMES]


def test_squeezetime_comes_first() -> None:
    assert NAMES[0] == "squeezetime"


@functools.cache
def published(name: str) -> nnx.Module:
    """A network of its published size, of shapes."""
    network = registry.abstract(registry.entry_of(name).config)
    network.eval()
    return network


@pytest.mark.parametrize("name", TRACED)
def test_an_entry_describes_its_network(name: str) -> None:
    entry = registry.entry_of(name)
    assert entry.config.name == entry.name == name
    assert entry.config.num_classes == 400
    assert entry.input.short_side >= entry.input.crop_side
    leaves = flat_leaves(published(name))
    parameters = [leaf for leaf in leaves.values() if isinstance(leaf, nnx.Param)]
    assert sum(leaf.size for leaf in parameters) == entry.published.parameters
    assert {leaf.dtype for leaf in leaves.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", TRACED)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    entry = registry.entry_of(name)
    assert multiply_adds(published(name), entry.published.clip) == entry.published.multiply_adds


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_survives_json(name: str) -> None:
    config = registry.configure(name, num_classes=7, bn_group_size=None)
    fields: dict = json.loads(json.dumps(registry.to_json(config)))
    assert registry.from_json(fields) == config
    assert hash(config) == hash(registry.from_json(fields))


def test_a_configuration_without_a_name_is_squeezetimes() -> None:
    config = registry.from_json({"num_classes": 5})
    assert (config.name, config.num_classes) == ("squeezetime", 5)


def test_a_network_is_found_by_name_configuration_and_module() -> None:
    entry = registry.entry_of("tsm_r18")
    assert registry.entry_of(entry.config) is entry
    assert registry.entry_of(registry.abstract(entry.config)) is entry


@pytest.mark.parametrize("name", TRACED)
def test_every_network_scores_clips(name: str) -> None:
    clip = jax.ShapeDtypeStruct((2, *registry.entry_of(name).published.clip, 3), jnp.float32)

    def run(model: nnx.Module, clips: jax.Array) -> tuple:
        return model(clips), model.features(clips), model.stage_maps(clips)

    logits, features, maps = nnx.eval_shape(run, published(name), clip)
    assert (logits.shape, logits.dtype) == ((2, 400), jnp.float32)
    assert features.shape[0] == 2
    assert len(maps) >= 4


@pytest.mark.parametrize("name", ["tsm_r18", "timesformer_base"])
def test_networks_with_and_without_batch_norm_can_be_trained(name: str) -> None:
    params, stats = Network(registry.abstract(registry.configure(name))).abstract()
    assert params
    assert bool(stats) == (name == "tsm_r18")


_NARROW = {"depth": 10, "width": 16}
# A small network of each kind, and what is said of a clip of one pixel; "": it is scored.
SMALL = {
    "tsn_r34": (_NARROW, ""),
    "c2d_r34": (_NARROW, "a map of 1x1x1 (time, height, width) is smaller than a window of 1x3x3"),
    "i3d_r18": (_NARROW, "a map of 1x1x1 (time, height, width) is smaller than a window of 2x1x1"),
    "slowfast_r18": (_NARROW, "the number of frames must be a multiple of 8, got 1"),
    "tin_r34": (_NARROW, "clips must have shape (n, 8, h, w, 3), got (1, 1, 1, 1, 3)"),
    "r2plus1d_r18": (_NARROW, ""),
    "tpn_r18": (_NARROW, ""),
    "tada_r18": (_NARROW, ""),
    "x3d_xs": ({"blocks": (1, 1), "widths": (8, 16)}, ""),
    "movinet_a0": ({"stages": (((12, 8, (3, 3, 3), 2),),), "last": 12, "hidden": 10}, ""),
    "e3d_xs": ({"stages": (((12, 8, (3, 3, 3), 2),),)}, ""),
    "mvitv2_small": ({"width": 8, "num_blocks": 2, "stage_starts": (1,)}, ""),
    "videoswin_tiny": ({"width": 8, "depths": (1, 1), "num_heads": (2, 4)}, ""),
    "timesformer_base": ({"width": 8, "num_blocks": 1, "num_heads": 2}, "clips must have shape"),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_clip_of_one_pixel_is_scored_or_refused_in_one_line(name: str) -> None:
    changes, message = SMALL[name]
    model = registry.abstract(registry.configure(name, num_classes=3, **changes))
    model.eval()
    shapes = partial(nnx.eval_shape, lambda model, clips: model(clips), model)
    if message:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            shapes(jnp.zeros((1, 1, 1, 1, 3)))
        assert "\n" not in str(caught.value)
    else:
        assert shapes(jnp.zeros((1, 1, 1, 1, 3))).shape == (1, 3)


@pytest.mark.parametrize("shape", [(1, 0, 32, 32, 3), (1, 8, 0, 32, 3)])
def test_empty_clips_are_refused(shape: tuple) -> None:
    model = registry.abstract(registry.configure("tsm_r18", **_NARROW))
    with pytest.raises(ValueError, match=r"tsm_r18: clips must have shape \(n, t, h, w, 3\), got"):
        model(jnp.zeros(shape))


def test_tpn_has_an_auxiliary_head() -> None:
    model = registry.abstract(registry.configure("tpn_r18", depth=10, width=8, num_classes=3))
    clips = jax.ShapeDtypeStruct((2, 8, 32, 32, 3), jnp.float32)

    def run(model: nnx.Module, clips: jax.Array) -> tuple:
        logits, ((_, auxiliary),) = model.with_auxiliary(clips, jax.random.key(0))
        return logits, auxiliary

    logits, auxiliary = nnx.eval_shape(run, model, clips)
    assert logits.shape == auxiliary.shape == (2, 3)


def test_create_draws_from_a_seed_and_evaluates() -> None:
    small = {"depth": 10, "width": 8, "num_classes": 3}
    model, other = (st.create("tsm_r18", seed=seed, **small) for seed in (0, 1))
    clips = jnp.ones((1, 8, 32, 32, 3))
    assert model(clips).shape == (1, 3)
    assert (model(clips) == model(clips)).all()  # no dropout
    assert not (model(clips) == other(clips)).any()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tsm_r81", {}, "network 'tsm_r81' not found; .*did you mean 'tsm_r18'"),
        ("tsm_r18", {"frames": 3}, "'tsm_r18' has no field 'frames'; it has .*num_frames"),
        ("tsm_r18", {"name": "x"}, "'tsm_r18' has no field 'name'; it has num_frames"),
        ("tsm_r18", {"depth": 19}, "depth must be one of 10, 18, 34, 50, got 19"),
    ],
)
def test_a_wrong_request_is_one_line(name: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        registry.configure(name, **changes)
    assert "\n" not in str(caught.value)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry.entry_of("tsm_r18").config.depth = 34
