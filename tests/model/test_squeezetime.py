import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.model.ctl import WeightComputation
from squeezetime_jax.model.squeezetime import squeeze

TINY = SqueezeTimeConfig.tiny()


@functools.cache
def network(config: SqueezeTimeConfig = TINY) -> SqueezeTime:
    """A network in evaluation mode, always with the same parameters."""
    model = SqueezeTime(config, nnx.Rngs(0))
    model.eval()
    return model


def score(clips: jax.Array, config: SqueezeTimeConfig = TINY) -> np.ndarray:
    return np.asarray(jax.jit(network(config).__call__)(clips))


def draw_clips(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (*shape, 3))


def test_squeezing_puts_colour_before_frame() -> None:
    clips = draw_clips(2, 5, 4, 6)
    squeezed = squeeze(clips)
    assert squeezed.shape == (2, 4, 6, 15)
    for colour, frame in np.ndindex(3, 5):
        np.testing.assert_array_equal(
            squeezed[..., colour * 5 + frame], clips[:, frame, ..., colour]
        )


@pytest.mark.parametrize(
    "depth", [10, 18, 34, 50, *(pytest.param(d, marks=pytest.mark.slow) for d in (101, 152, 200))]
)
def test_every_depth_has_its_blocks(depth: int) -> None:
    config, blocks = SqueezeTimeConfig(depth=depth), []

    def build_and_score(clips: jax.Array) -> jax.Array:
        model = SqueezeTime(config, nnx.Rngs(0))
        model.eval()
        blocks.extend(len(stage) for stage in model.stages)
        return model(clips)

    clips = jax.ShapeDtypeStruct((1, 16, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(build_and_score, clips).shape == (1, 400)
    assert tuple(blocks) == config.blocks


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        (SqueezeTimeConfig.k400(), 400),
        (SqueezeTimeConfig.k600(), 600),
        (SqueezeTimeConfig.hmdb51(), 51),
        (SqueezeTimeConfig.ava21(), 81),
        (SqueezeTimeConfig.tiny(), 8),
    ],
)
def test_constructors_name_the_published_networks(config: SqueezeTimeConfig, classes: int) -> None:
    assert config.num_classes == classes
    assert config.feature_channels == (64 if config == TINY else 2048)


@pytest.mark.parametrize(
    ("height", "width", "maps"),
    [(32, 32, (1, 1)), (33, 47, (1, 1)), (64, 96, (2, 3)), (95, 61, (3, 2)), (112, 112, (3, 3))],
)
def test_any_size_from_32_pixels_on(height: int, width: int, maps: tuple) -> None:
    clips = jax.ShapeDtypeStruct((1, 4, height, width, 3), jnp.float32)
    assert jax.eval_shape(network().features, clips).shape == (1, *maps, 64)


def test_odd_sizes_give_finite_features() -> None:
    features = jax.jit(network().features)(draw_clips(1, 4, 33, 47))
    assert bool(jnp.isfinite(features).all())
    assert float(features.std()) > 0


def test_detection_strides_keep_the_last_resolution() -> None:
    config = dataclasses.replace(TINY, strides=(1, 2, 2, 1))
    clips = draw_clips(1, 4, 64, 64)
    assert jax.eval_shape(network(config).features, clips).shape == (1, 4, 4, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"branches": "conv3x3"},
        {"branches": "tfc"},
        {"branches": "ioi"},
        {"branches": "tfc", "temporal_focus": False},
        {"branches": "ioi", "position_encoding": False},
        {"pooling": "max"},
        {"depth": 50},
    ],
)
def test_every_ablation_computes_something_of_its_own(changes: dict) -> None:
    clips = draw_clips(2, 4, 64, 64)
    ablated = score(clips, dataclasses.replace(TINY, **changes))
    assert np.isfinite(ablated).all()
    assert np.abs(ablated - score(clips)).max() > 1e-4


def test_gates_that_start_at_zero_weigh_every_channel_by_a_half() -> None:
    released, zero = network(), network(dataclasses.replace(TINY, gate_init="zero"))
    weights = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state((released, zero), nnx.Param)))
    differing = [
        path
        for (path, a), (_, b) in zip(
            *(jax.tree.leaves_with_path(weights[i]) for i in (0, 1)), strict=True
        )
        if not np.array_equal(a, b)
    ]
    assert {str(path[-1]) for path in differing} == {"['expand']"}
    modules = [m for _, m in nnx.iter_modules(zero) if isinstance(m, WeightComputation)]
    assert len(modules) == len(differing) == 8
    maps = draw_clips(3, 1, 8, 8)[:, 0, :, :, :1] * np.ones(modules[0].reduce.shape[0])
    np.testing.assert_array_equal(modules[0](maps), 0.5)


def test_the_order_of_the_frames_matters() -> None:
    clips = draw_clips(1, 4, 64, 64)
    assert np.abs(score(clips) - score(clips[:, ::-1])).max() > 1e-4


def test_clips_of_a_batch_do_not_see_each_other_in_evaluation() -> None:
    clips = draw_clips(2, 4, 64, 64)
    np.testing.assert_allclose(score(clips)[1:], score(clips[1:]), atol=1e-5)


def test_dropout_draws_from_the_key_in_training_only() -> None:
    clips, model = draw_clips(2, 4, 64, 64), network()
    training = nnx.view(model, deterministic=False, use_running_average=True)
    predict, train = jax.jit(model.__call__), jax.jit(training.__call__)
    np.testing.assert_array_equal(predict(clips, jax.random.key(0)), score(clips))
    first, again, other = (train(clips, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-6


def test_bfloat16_keeps_parameters_and_logits_in_float32() -> None:
    config, clips = dataclasses.replace(TINY, dtype="bfloat16"), draw_clips(2, 4, 64, 64)
    logits, exact = score(clips, config), score(clips)
    assert jax.eval_shape(network(config).features, clips).dtype == jnp.bfloat16
    assert logits.dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(network(config)))} == {exact.dtype}
    np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.usefixtures("float64")
def test_float64_is_float64_throughout() -> None:
    config = dataclasses.replace(TINY, dtype="float64")
    state = nnx.state(network(config))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype("float64")}
    clips = draw_clips(1, 4, 64, 64).astype(jnp.float64)
    assert jax.eval_shape(network(config), clips).dtype == jnp.float64


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("clips", "error", "message"),
    [
        (np.zeros((1, 5, 64, 64, 3), np.float32), ValueError, r"\(1, 5, 64, 64, 3\).* 4 frames"),
        (np.zeros((1, 3, 4, 64, 64), np.float32), ValueError, r"takes \(clips, 4 frames, height"),
        (np.zeros((4, 64, 64, 3), np.float32), ValueError, r"shape \(4, 64, 64, 3\)"),
        (np.zeros((1, 4, 64, 31, 3), np.float32), ValueError, "64x31 pixels; .* at least 32"),
        (np.zeros((1, 4, 64, 64, 3), np.uint8), TypeError, "uint8; .* normalised"),
    ],
)
def test_wrong_clips_are_refused_with_a_sentence(
    clips: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        jax.eval_shape(network(), clips)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 20}, r"depth must be one of 10, 18.* got 20"),
        ({"width": 0.01}, "width must be .* got 0.01"),
        ({"pooling": "median"}, r"pooling must be one of 'average', 'max', got 'median'"),
        ({"strides": (1, 2, 2)}, r"strides must be four .* got \(1, 2, 2\)"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"bn_group_size": 0}, "bn_group_size must be at least 1, got 0"),
    ],
)
def test_a_wrong_field_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SqueezeTimeConfig(**changes)


@pytest.mark.usefixtures("untyped")
def test_a_configuration_survives_json() -> None:
    config = SqueezeTimeConfig.ava21()
    again = SqueezeTimeConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert hash(again) == hash(config)
