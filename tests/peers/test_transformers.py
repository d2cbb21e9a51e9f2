"""MViTv2, Video Swin and TimeSformer: against the public code, and what no golden number shows."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gradients import check_gradient
from peer_goldens import Goldens, check_maps, close, fill

from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.peers import registry
from squeezetime_jax.peers.mvit import relative_rows
from squeezetime_jax.peers.released import rows
from squeezetime_jax.peers.transformers import Attention, DropPath, LayerNorm, Transformer, attend
from squeezetime_jax.peers.video_swin import merge_windows, relative_index, separated, windows

NAMES = ["mvitv2_small", "videoswin_tiny", "timesformer_base", "timesformer_divst"]
EPSILON = {"mvitv2_small": 1e-6, "videoswin_tiny": 1e-5, "timesformer_base": 1e-6}
DROP_PATH = {"mvitv2_small": 0.2, "videoswin_tiny": 0.1, "timesformer_base": 0.1}
TINY = {
    "mvitv2_small": {"width": 8, "num_blocks": 3, "stage_starts": (1,), "kv_stride": 2},
    "videoswin_tiny": {"width": 8, "depths": (2, 1), "num_heads": (2, 4), "window": (2, 3, 3)},
    "timesformer_base": {"width": 8, "num_blocks": 4, "num_heads": 2, "side": 32},
    "timesformer_divst": {
        **{"width": 8, "num_blocks": 4, "num_heads": 2, "side": 32, "num_frames": 4}
    },
}


def tiny(name: str, **changes: object) -> Transformer:
    config = registry.configure(name, **{"num_classes": 3, **TINY[name], **changes})
    return registry.build(config, nnx.Rngs(0))


def tiny_clips(count: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((count, 4, 32, 32, 3)))


def check_tokens(found: np.ndarray, golden: np.ndarray) -> None:
    """Compare tokens (n, tokens, c) with golden ones, averaged over the tokens."""
    close(np.asarray(found).mean(1), golden)


@pytest.mark.parametrize(
    ("name", "changes", "blocks"),
    [
        pytest.param("mvitv2_small", {}, "backbone.blocks", marks=pytest.mark.slow),
        ("timesformer_base", {"side": 48}, "backbone.transformer_layers.layers"),
        pytest.param(
            *("timesformer_divst", {"side": 48}, "backbone.transformer_layers.layers"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_logits_and_tokens_are_the_public_codes(
    name: str, changes: dict, blocks: str, goldens: Goldens
) -> None:
    model = fill(registry.abstract(registry.configure(name, **changes)), goldens.state_dict(name))
    run = nnx.jit(lambda model, clips: (model(clips), model.states(clips)))
    logits, states = run(model, goldens.clips(name))
    goldens.check_logits(name, logits)
    checked = 0
    for i, (tokens, _) in enumerate(states[1:]):
        if (key := f"{name}.small.{blocks}.{i}") in goldens.arrays:
            check_tokens(tokens, goldens.arrays[key])
            checked += 1
    assert checked == {"mvitv2_small": 5, "timesformer_base": 3, "timesformer_divst": 1}[name]


def test_logits_and_maps_of_video_swin_are_the_public_codes(goldens: Goldens) -> None:
    name = "videoswin_tiny"
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name))
    run = nnx.jit(lambda model, clips: (model(clips), model.embed(clips), model.stage_maps(clips)))
    logits, embedded, maps = run(model, goldens.clips(name))
    goldens.check_logits(name, logits)
    check_maps(embedded, goldens.arrays[f"{name}.small.backbone.patch_embed"])
    for i, found in enumerate(maps):
        golden = goldens.arrays[f"{name}.small.backbone.layers.{i}"]
        check_maps(found, golden.swapaxes(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:3])
def test_logits_at_the_published_size(name: str, goldens: Goldens) -> None:
    model = fill(registry.abstract(registry.configure(name)), goldens.state_dict(name, "full"))
    logits = nnx.jit(lambda model, clips: model(clips))(model, goldens.clips(name, "full"))
    goldens.check_logits(name, logits, "full")


@pytest.mark.parametrize("name", NAMES)
def test_every_spelling_names_every_leaf_once(name: str) -> None:
    entry = registry.entry_of(name)
    leaves = flat_leaves(registry.abstract(entry.config))
    assert len(entry.released) == {"mvitv2_small": 3}.get(name, 2)
    for released in entry.released:
        table = list(rows(released(entry.config), leaves))
        filled = collections.Counter(row.path for row in table if row.order is not None)
        assert filled == dict.fromkeys(leaves, 1)
        assert len({row.name for row in table}) == len(table)


@pytest.mark.parametrize(
    ("name", "spelling", "shapes"),
    [
        (
            "mvitv2_small",
            1,
            {"cls_token": (1, 1, 96), "blocks.14.attn.pool_q.weight": (96, 1, 3, 3, 3)},
        ),
        (
            "mvitv2_small",
            2,
            {"pos_encoding.class_token": (96,), "blocks.3.attn.pool_k.norm_act.0.bias": (96,)},
        ),
        (
            "videoswin_tiny",
            1,
            {"features.5.reduction.weight": (768, 1536), "features.6.1.mlp.3.bias": (768,)},
        ),
        (
            "timesformer_divst",
            1,
            {"model.time_embed": (1, 8, 768), "model.blocks.0.temporal_attn.qkv.bias": (2304,)},
        ),
    ],
)
def test_names_of_other_public_files(name: str, spelling: int, shapes: dict) -> None:
    entry = registry.entry_of(name)
    leaves = flat_leaves(registry.abstract(entry.config))
    found = {
        row.name: row.released_shape(leaves[row.path].shape)
        for row in rows(entry.released[spelling](entry.config), leaves)
        if row.order is not None
    }
    assert shapes == {key: found.get(key) for key in shapes}


@pytest.mark.parametrize("name", EPSILON)
def test_layer_norms_have_the_published_epsilon(name: str) -> None:
    """No golden number shows it: the tokens' variance is too large for it to count."""
    norms = [m for _, m in nnx.iter_modules(tiny(name)) if isinstance(m, LayerNorm)]
    assert len(norms) > 5
    for norm in norms:
        x = np.random.default_rng(0).standard_normal((4, norm.scale.shape[0]))
        x *= 1e-3  # its variance is near the epsilons
        centred = x - x.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON[name])
        norm.bias[...] = jnp.zeros_like(norm.bias[...])
        np.testing.assert_allclose(
            norm(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", DROP_PATH)
def test_residuals_are_dropped_ever_more_often(name: str) -> None:
    drops = [m.rate for _, m in nnx.iter_modules(tiny(name)) if isinstance(m, DropPath)]
    np.testing.assert_allclose(sorted(drops), np.linspace(0, DROP_PATH[name], len(drops)))
    assert tiny(name).head.dropout.rate == (0 if name == "timesformer_base" else 0.5)


def test_whole_samples_are_dropped_and_the_others_scaled() -> None:
    drop = DropPath(0.25, deterministic=False)
    kept = np.asarray(drop(jnp.ones((400, 3, 5)), jax.random.key(0)))
    np.testing.assert_array_equal(kept.min((1, 2)), kept.max((1, 2)))
    np.testing.assert_allclose(np.unique(kept), [0, 4 / 3], rtol=1e-6)
    assert kept.mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["videoswin_tiny", "timesformer_divst"])
def test_a_key_drops_differently_in_each_block(name: str) -> None:
    model = tiny(name, drop_path=0.9, dropout=0.0)
    clips = jnp.repeat(tiny_clips(1), 16, axis=0)
    run = nnx.jit(lambda model, key: model(clips, key))
    one, same, other = (run(model, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    # Were the same samples dropped in all blocks, there would be as few outcomes as blocks.
    assert len(np.unique(np.round(one, 5), axis=0)) > 4


def test_new_networks_start_as_published() -> None:
    mvit, swin, divided = (tiny(name, width=48) for name in NAMES if name != "timesformer_base")
    assert not mvit.class_token[...].any()
    assert not mvit.patches.bias[...].any()
    linears = [mvit.head.classifier, mvit.blocks[0].attention.qkv, mvit.blocks[1].norm2]
    assert all((module.bias[...] == jnp.float32(0.02)).all() for module in linears)
    assert np.std(mvit.blocks[2].mlp.widen.kernel[...]) == pytest.approx(0.02, rel=0.1)
    assert np.std(swin.stages[0][0].attention.positions[...]) == pytest.approx(0.02, rel=0.1)
    assert np.std(swin.head.classifier.kernel[...]) == pytest.approx(0.01, rel=0.1)
    assert np.abs(swin.patches.kernel[...]).max() == pytest.approx(96**-0.5, rel=0.01)
    block = divided.blocks[0]
    assert not divided.time[...].any()
    assert not block.time_linear.kernel[...].any()
    bound = (6 / (4 * 48)) ** 0.5  # Xavier's, of queries, keys and values together
    assert np.abs(block.time_attention.qkv.kernel[...]).max() == pytest.approx(bound, rel=0.01)
    assert np.abs(block.mlp.widen.bias[...]).max() == pytest.approx(48**-0.5, rel=0.05)


def test_attention_is_a_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    query, key, value = jnp.asarray(rng.standard_normal((3, 2, 5, 3, 4)))
    bias = jnp.asarray(rng.standard_normal((3, 5, 5)))
    scores = np.einsum("nqhd,nkhd->nhqk", query, key) / 2 + bias
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("nhqk,nkhd->nqhd", weights, value)
    np.testing.assert_allclose(attend(query, key, value, bias), expected, rtol=1e-4, atol=1e-6)


def test_windows_are_cut_and_put_together() -> None:
    x = jnp.arange(2 * 4 * 6 * 9 * 2.0).reshape(2, 4, 6, 9, 2)
    cut = windows(x, (2, 3, 3))
    assert cut.shape == (2, 12, 18, 2)
    np.testing.assert_array_equal(cut[1, 7], x[1, 2:4, :3, 3:6].reshape(18, 2))
    np.testing.assert_array_equal(merge_windows(cut, (2, 3, 3), (4, 6, 9)), x)


def test_tokens_that_a_shift_brings_together_are_separated() -> None:
    grid, window, shift = (2, 6, 6), (2, 3, 3), (0, 1, 1)
    rows_, columns = np.meshgrid(range(6), range(6), indexing="ij")
    places = np.stack([rows_, columns], -1)
    # Where the tokens of the rolled map come from; neighbours are at most two apart.
    origin = np.roll(places, (-1, -1), axis=(0, 1))
    origin = np.broadcast_to(origin, (1, 2, 6, 6, 2))
    cut = np.asarray(windows(jnp.asarray(origin, jnp.float32), window))[0]
    far = np.abs(cut[:, :, None] - cut[:, None]).max(-1) > 2
    np.testing.assert_array_equal(separated(grid, window, shift), far)


def test_rows_of_relative_positions_within_a_window() -> None:
    window = (2, 3, 4)
    index = relative_index(window)
    places = list(np.ndindex(*window))
    rows_of: dict[tuple, set] = collections.defaultdict(set)
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            rows_of[tuple(np.subtract(a, b))].add(int(index[i, j]))
    assert all(len(found) == 1 for found in rows_of.values())
    assert sorted(min(found) for found in rows_of.values()) == list(range(3 * 5 * 7))
    # Files hold the index; it is written with the weights.
    entry = registry.entry_of("videoswin_tiny")
    constants = [m.constant for m in entry.released[0](entry.config) if m.kind == "window"]
    assert len(constants) == 12
    np.testing.assert_array_equal(constants[0], relative_index((8, 7, 7)))


def test_rows_of_relative_positions_along_an_axis() -> None:
    table = jnp.arange(7.0)[:, None]  # for grids of four
    found = relative_rows(table, 4, 4)[..., 0]
    np.testing.assert_array_equal(found, np.arange(4)[:, None] - np.arange(4) + 3)
    found = relative_rows(table, 4, 2)[..., 0]  # each key stands for two places
    np.testing.assert_array_equal(found, np.arange(4)[:, None] - 2 * np.arange(2) + 2)
    found = relative_rows(table, 2, 2)[..., 0]  # three rows of seven
    np.testing.assert_allclose(found, [[3, 2 / 3], [16 / 3, 3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 32, 48, 3), "clips must be 32x32 pixels, .* got 32x48"),
        ((1, 5, 32, 32, 3), "clips must have shape .*4, h, w, 3"),
    ],
)
def test_timesformer_refuses_other_clips(shape: tuple, message: str) -> None:
    model = tiny("timesformer_base")
    model.eval()
    with pytest.raises(ValueError, match=message):
        model(jnp.zeros(shape))


@pytest.mark.parametrize("name", ["mvitv2_small", "videoswin_tiny"])
def test_the_others_take_any_frames_and_sides(name: str) -> None:
    model = tiny(name)
    model.eval()
    logits = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((1, 5, 33, 47, 3)))
    assert logits.shape == (1, 3)


@pytest.mark.parametrize("name", ["mvitv2_small", "videoswin_tiny"])
def test_features_are_the_normalised_last_map(name: str) -> None:
    model = tiny(name)
    model.eval()

    @nnx.jit
    def run(model: Transformer, clips: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model.features(clips), model.norm(model.stage_maps(clips)[-1])

    features, expected = run(model, tiny_clips(2))
    assert features.ndim == 5
    np.testing.assert_array_equal(features, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_gradients_are_those_of_finite_differences() -> None:
    model = tiny("mvitv2_small", num_blocks=2, dtype="float64")
    model.eval()
    check_gradient(model, tiny_clips(1)[:, :, :16, :24])


def test_attention_has_one_head_a_slice_of_the_channels() -> None:
    config = registry.configure("timesformer_base", **TINY["timesformer_base"])
    attention = Attention(8, 2, config)
    kernel = np.random.default_rng(0).standard_normal((8, 24)).astype(np.float32)
    attention.qkv.kernel[...] = jnp.asarray(kernel)
    attention.project.kernel[...] = jnp.eye(8)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 5, 8)))
    other = kernel.copy()
    other[:, 8:12] += 1  # the first head's keys
    before = np.asarray(attention(x))
    attention.qkv.kernel[...] = jnp.asarray(other)
    changed = np.abs(np.asarray(attention(x)) - before).max((0, 1)) > 1e-6
    assert changed[:4].all()
    assert not changed[4:].any()
