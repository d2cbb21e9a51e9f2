"""X3D, MoViNet and E3D: against the public code, and what no golden number shows."""

import collections
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gradients import check_gradient
from peer_goldens import Goldens, check_maps, fill

from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.peers import registry
from squeezetime_jax.peers.layers import Network
from squeezetime_jax.peers.mobile import SqueezeExcitation, alike, divisible, halved
from squeezetime_jax.peers.released import rows

# The modules whose outputs are golden, in the order of `stage_maps`.
MAPS = {
    "x3d_xs": ["backbone.conv1_t", *(f"backbone.layer{i}" for i in range(1, 5)), "backbone.conv5"],
    "x3d_xs_hub": [f"blocks.{i}" for i in range(5)],
    "movinet_a0": [
        "conv1",
        *(f"blocks.b{stage}_l{block}" for stage, block in enumerate((0, 2, 2, 3, 3))),
        "conv7",
    ],
    "e3d_xs": [f"backbone.block_list.{i}" for i in range(7)],
}
TINY = {
    "x3d_xs": {"blocks": (2, 1), "widths": (8, 16), "hidden": 12},
    "movinet_a0": {
        "stages": (((12, 8, (1, 5, 5), 2),), ((16, 12, (3, 3, 3), 2), (24, 12, (5, 3, 3), 1))),
        "last": 12,
        "hidden": 10,
    },
    "e3d_xs": {
        "stem": 8,
        "stages": (alike(2, 12, 8, (1, 5, 5), 2), alike(1, 12, 10, (3, 3, 3), 1)),
    },
}


def tiny(name: str, **changes: object) -> Network:
    config = registry.configure(name, **{"num_classes": 3, **TINY[name], **changes})
    return registry.build(config, nnx.Rngs(0))


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape))


@nnx.jit
def run(model: Network, clips: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    return model(clips), model.stage_maps(clips)


@pytest.mark.parametrize(
    "name",
    ["x3d_xs", "movinet_a0", "e3d_xs", pytest.param("x3d_xs_hub", marks=pytest.mark.slow)],
)
def test_logits_and_maps_are_the_public_codes(name: str, goldens: Goldens) -> None:
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name))
    logits, maps = run(model, goldens.clips(name))
    goldens.check_logits(name, logits)
    for found, module in zip(maps, MAPS[name], strict=name != "x3d_xs_hub"):
        check_maps(found, goldens.arrays[f"{name}.small.{module}"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x3d_xs", "movinet_a0", "e3d_xs"])
def test_logits_at_the_published_size(name: str, goldens: Goldens) -> None:
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name, "full"))
    logits, _ = run(model, goldens.clips(name, "full"))
    goldens.check_logits(name, logits, "full")


@pytest.mark.parametrize("name", ["x3d_xs", "x3d_xs_hub", "movinet_a0", "e3d_xs"])
def test_every_spelling_names_every_leaf_once(name: str) -> None:
    entry = registry.entry_of(name)
    leaves = flat_leaves(registry.abstract(entry.config))
    for released in entry.released:
        table = list(rows(released(entry.config), leaves))
        filled = collections.Counter(row.path for row in table if row.order is not None)
        assert filled == dict.fromkeys(leaves, 1)
        assert len({row.name for row in table}) == len(table)


def test_slowfasts_names_of_x3d() -> None:
    entry = registry.entry_of("x3d_xs")
    leaves = flat_leaves(registry.abstract(entry.config))
    _, slowfast = entry.released
    shapes = {
        row.name: row.released_shape(leaves[row.path].shape)
        for row in rows(slowfast(entry.config), leaves)
        if row.order is not None
    }
    assert shapes["s1.pathway0_stem.conv_xy.weight"] == (24, 3, 1, 3, 3)
    assert shapes["s1.pathway0_stem.conv.weight"] == (24, 1, 5, 1, 1)
    assert shapes["s2.pathway0_res0.branch1_bn.running_var"] == (24,)
    assert shapes["s5.pathway0_res6.branch2.se.fc1.weight"] == (32, 432, 1, 1, 1)
    assert shapes["s3.pathway0_res1.branch2.b.weight"] == (108, 1, 3, 3, 3)
    assert shapes["head.lin_5.weight"] == (2048, 432, 1, 1, 1)
    assert shapes["head.projection.weight"] == (400, 2048)


@pytest.mark.slow
def test_x3d_of_pytorchvideo_is_x3d_on_its_training_clips() -> None:
    """Up to 160 pixels a side its head pools all, and a batch norm may stand for none."""
    ours, hub = (tiny("x3d_xs", norm_first_shortcut=norm) for norm in (True, False))
    hub.head.window = (4, 5, 5)
    for model in (ours, hub):
        model.eval()
    scale = ours.stages[0][0].shortcut.norm.scale
    scale[...] = jnp.full_like(scale[...], math.sqrt(1 + 1e-5))
    leaves = flat_leaves(hub)
    for path, leaf in flat_leaves(ours).items():
        path = path.replace("stages.0.0.shortcut.conv", "stages.0.0.shortcut")
        if path in leaves:
            leaves[path][...] = leaf[...]
    for clips, is_same in (normal(2, 4, 40, 32, 3), True), (normal(2, 4, 50, 42, 3), False):
        theirs, expected = (run(model, clips)[0] for model in (hub, ours))
        assert np.allclose(theirs, expected, rtol=1e-5, atol=1e-8) == is_same


def test_e3d_refuses_sides_that_the_public_code_fails_on() -> None:
    with pytest.raises(ValueError, match="even height and width only, got 16x25; sides of clips"):
        nnx.eval_shape(lambda model, x: model(x), tiny("e3d_xs"), jnp.zeros((1, 2, 32, 50, 3)))


def test_averages_of_squares_leave_padding_out() -> None:
    x = jnp.arange(25.0).reshape(1, 1, 5, 5, 1)
    pads = [(1, 1), (1, 1)]
    corner = (0 + 1 + 5 + 6) / 4
    middle = 12.0  # the mean of nine
    found = halved(x, 3, pads)[0, 0, ..., 0]
    np.testing.assert_allclose([found[0, 0], found[1, 1], found[2, 2]], [corner, middle, 21])
    found = halved(x[:, :, :4, :4], 3, [(0, 1), (0, 1)])[0, 0, ..., 0]
    np.testing.assert_allclose(found, [[6, 7.5], [13.5, 15]])
    found = halved(x, 2, [(0, 0), (0, 0)])[0, 0, ..., 0]
    np.testing.assert_allclose(found, [[3, 5], [13, 15]])


@pytest.mark.parametrize(
    ("name", "clip"),
    [("x3d_xs", (5, 33, 47)), ("movinet_a0", (3, 30, 44)), ("e3d_xs", (2, 32, 52))],
)
def test_a_network_takes_any_frames_and_sides(name: str, clip: tuple) -> None:
    model = tiny(name)
    model.eval()
    logits = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((1, *clip, 3)))
    assert logits.shape == (1, 3)


@pytest.mark.parametrize("name", TINY)
def test_dropout_and_batch_statistics_in_training(name: str) -> None:
    model = tiny(name)
    assert model.head.dropout.rate == {"movinet_a0": 0.2}.get(name, 0.5)
    step = nnx.jit(lambda model, clips, key: model(clips, key))
    clips = normal(4, 4, 32, 32, 3)
    one, other = (step(model, clips, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other)

    norm = tiny(name).last.norm
    x = normal(2, 3, 4, 5, norm.mean.shape[0])
    norm(x)
    np.testing.assert_allclose(norm.mean[...], 0.1 * x.mean((0, 1, 2, 3)), rtol=1e-5, atol=1e-7)


def test_new_networks_start_as_published() -> None:
    x3d, movinet = tiny("x3d_xs"), tiny("movinet_a0")
    for model in (x3d, movinet):
        for _, module in nnx.iter_modules(model):
            if isinstance(module, SqueezeExcitation):
                assert not module.reduce.bias[...].any()
                assert not module.expand.bias[...].any()
    assert not any(block.residual.narrow.norm.scale[...].any() for block in x3d.stages[0])
    assert not any(block.alpha[...] for stage in movinet.stages for block in stage)
    kernel = registry.create("e3d_xs").stages[4][2].residual.depthwise.conv.kernel[...]
    # He-normal; PyTorch counts a depthwise convolution's fan-out over all channels.
    assert np.std(kernel) == pytest.approx(math.sqrt(2 / (384 * 27)), rel=0.05)


def test_channels_between_the_layers_of_a_squeeze_and_excitation() -> None:
    assert [divisible(inner / 16) for inner in (54, 108, 216, 432)] == [8, 8, 16, 32]
    assert [divisible(inner // 4) for inner in (24, 80, 112, 184, 280, 344, 384)] == [
        *(8, 24, 32, 48, 72, 88, 96)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_gradients_are_those_of_finite_differences() -> None:
    model = tiny("movinet_a0", dtype="float64")
    model.set_attributes(deterministic=True)
    check_gradient(model, normal(2, 3, 24, 20, 3))


def test_configurations_are_hashable_and_survive_lists() -> None:
    config = registry.configure("movinet_a0", **TINY["movinet_a0"])
    fields = json.loads(json.dumps(registry.to_json(config)))
    assert hash(registry.from_json(fields)) == hash(config)
