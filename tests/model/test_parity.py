"""Ours beside a PyTorch twin: stage by stage, in training, and gradients, in double precision.

Tolerances are three to ten times the largest error that was measured.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import squeezetime_jax as st
from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.checkpoint.convert import to_state_dict
from squeezetime_jax.model.squeezetime import squeeze

torch = pytest.importorskip("torch", reason="the parity tests need PyTorch: install torch")

from torch_twin import Twin, randomise  # noqa: E402  (it imports torch)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]

# Both kinds of block, every kind of stage, odd sizes and resized position encodings.
VARIANTS = {
    "basic": (SqueezeTimeConfig.tiny(dtype="float64", bn_group_size=None), (96, 72)),
    "bottleneck": (
        SqueezeTimeConfig.tiny(
            depth=50, width=1 / 16, strides=(1, 2, 2, 1), dtype="float64", bn_group_size=None
        ),
        (64, 90),
    ),
}


@pytest.fixture(params=VARIANTS)
def pair(request: pytest.FixtureRequest) -> tuple[SqueezeTime, "Twin", np.ndarray]:
    """Our network and its twin with the same weights, and clips `(N, T, H, W, 3)`."""
    config, (height, width) = VARIANTS[request.param]
    twin = Twin(config)
    randomise(twin, seed=0)
    twin.double().eval()
    state = {name: entry.numpy() for name, entry in twin.state_dict().items()}
    model = st.from_state_dict(state, dtype="float64", bn_group_size=None)
    clips = np.random.default_rng(1).standard_normal((3, config.num_frames, height, width, 3))
    return model, twin, clips


def as_torch(clips: np.ndarray) -> "torch.Tensor":
    return torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).copy())


def as_ours(features: "torch.Tensor") -> np.ndarray:
    return features.detach().numpy().transpose(0, 2, 3, 1)


def error(found: object, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def test_every_stage_and_the_logits(pair: tuple) -> None:
    model, twin, clips = pair

    @jax.jit
    def forward(clips: jax.Array) -> list[jax.Array]:
        x = model.stem(squeeze(clips))
        maps = [x]
        for stage in model.stages:
            for block in stage:
                x = block(x)
            maps.append(x)
        return [*maps, model.head(x)]

    *maps, logits = forward(jnp.asarray(clips))
    x = twin.backbone.net.stem(as_torch(clips))
    assert error(maps[0], as_ours(x)) < 2e-14
    for i in range(1, 5):
        x = getattr(twin.backbone.net, f"layer{i}")(x)
        assert error(maps[i], as_ours(x)) < 2e-14, f"stage {i}"
    assert error(logits, twin(as_torch(clips)).detach().numpy()) < 2e-14


def test_gradients_and_statistics_in_training(pair: tuple) -> None:
    model, twin, clips = pair
    model.train()
    model.set_attributes(deterministic=True)  # the twin has no dropout
    twin.train()
    directions = np.random.default_rng(2).standard_normal((3, model.config.num_classes))

    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def gradient(params: nnx.State, rest: nnx.State) -> tuple[nnx.State, nnx.State]:
        def loss(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            model = nnx.merge(graph, params, rest, copy=True)
            value = jnp.sum(model(jnp.asarray(clips)) * directions)
            return value, nnx.state(model, nnx.BatchStat)

        return jax.grad(loss, has_aux=True)(params)

    gradients, statistics = gradient(params, rest)
    torch.sum(twin(as_torch(clips)) * torch.from_numpy(directions)).backward()

    ours = to_state_dict(nnx.merge(graph, gradients, rest))
    largest = max(float(p.grad.abs().max()) for p in twin.parameters())
    for name, parameter in twin.named_parameters():
        expected = parameter.grad.numpy()
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=5e-12 * largest, err_msg=name)

    ours = to_state_dict(nnx.merge(graph, params, statistics))
    for name, buffer in twin.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert error(ours[name], buffer.numpy()) < 1e-13, name
