import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array
from small_localizer import HEAD, SMALL, WINDOW

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers import registry
from squeezetime_jax.tasks.localization.config import Head, Window
from squeezetime_jax.tasks.localization.model import (
    Conv1d,
    ConvNormReLU,
    LocalizationHead,
    Localizer,
    Stem,
    _map_shapes,
    abstract_localizer,
    cut_clips,
    group_norm,
    normalise_frames,
)

DOUBLE = SqueezeTimeConfig.tiny(dtype="float64")


def wave(shape: tuple[int, ...], start: float) -> np.ndarray:
    """The golden's weights in PyTorch's layout."""
    return 0.1 * np.cos(start + np.arange(np.prod(shape))).reshape(shape)


def conv1d(stride: int, kernel: np.ndarray) -> Conv1d:
    """From PyTorch's layout (out, in, 3)."""
    out_features, in_features, _ = kernel.shape
    conv = Conv1d(in_features, out_features, stride, DOUBLE)
    conv.kernel.set_value(jnp.asarray(kernel.transpose(2, 1, 0)))
    return conv


# Goldens: the reference's own layers on these inputs.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("x", "expected"),
    [([1, 2, 3, 4], [321, 43]), ([1, 2], [21]), ([7], [70]), ([1, 2, 3], [210, 32])],
)
def test_a_strided_convolution_pads_as_the_reference(x: list, expected: list) -> None:
    conv = conv1d(2, np.array([[[1.0, 10.0, 100.0]]]))
    assert conv(jnp.array(x, float)[None, :, None]).ravel().tolist() == expected


@pytest.mark.usefixtures("float64")
def test_group_norm_has_the_references_epsilon() -> None:
    x = jnp.array([[1, 2], [3, 4], [0, 0], [0, 0.001]]).T[None]  # (1, time, channels)
    found = group_norm(x, 2)
    assert float(found[0, 1, 3]) == pytest.approx(0.23497813940048218, abs=1e-8)
    assert float(found[0, 0, 2]) == pytest.approx(-0.07832604646682739, abs=1e-8)


@pytest.mark.usefixtures("float64")
def test_a_small_pyramid_gives_the_references_numbers() -> None:
    x = np.sin(0.37 * np.arange(4 * 8 * 9)).reshape(1, 4, 8, 3, 3)  # (n, c, t, h, w)
    stem = Stem((3, 3, 4), 32, Head(channels=32), DOUBLE)
    stem.kernel.set_value(jnp.asarray(wave((32, 4, 3, 3), 0).transpose(2, 3, 1, 0)))
    stem.bias.set_value(jnp.full(32, 0.05))
    down = ConvNormReLU(32, 32, 2, DOUBLE)
    down.conv = conv1d(2, wave((32, 32, 3), 1))
    tower = ConvNormReLU(32, 32, 1, DOUBLE)
    tower.conv = conv1d(1, wave((32, 32, 3), 2))
    head = conv1d(1, wave((2, 32, 3), 3))

    levels = [stem(jnp.asarray(x.transpose(0, 2, 3, 4, 1)))]
    levels += [down(levels[0])]
    levels += [down(levels[1])]
    sums = [float(level.sum()) for level in levels]
    expected = [115.91477383961691, 56.55475535729134, 31.16920044958117]
    assert sums == pytest.approx(expected, abs=1e-10)
    found = [jnp.exp(head(tower(level)))[0] for level in levels]
    expected = [0.964763996548, 1.038694860196, 0.954732661578, 0.995693431958]
    assert found[2].ravel().tolist() == pytest.approx(expected, abs=1e-11)
    expected = [1.001590559058, 0.940789115053, 0.881927799961, 0.866535716234]
    assert found[0][jnp.array([0, -1])].ravel().tolist() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(
    ("head", "priors", "parameters"),
    [
        (Head(), 63, 16_565_789),
        (Head(num_levels=5), 62, 15_777_820),
        # 9.4 M of the map-sized convolution become 1.05 M.
        (Head(collapse="mean"), 63, 16_565_789 - 8 * 2048 * 512),
        (Head(num_levels=5, doubled=True), 126, 15_777_820 + 1),
    ],
)
def test_the_head_has_its_published_size(head: Head, priors: int, parameters: int) -> None:
    backbone = SqueezeTimeConfig(num_classes=20)
    part = nnx.eval_shape(lambda: LocalizationHead(backbone, Window(), head, nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part, nnx.Param)))
    assert count == parameters
    assert sum(part.lengths) == priors


def test_the_backbone_has_its_published_size_without_the_classifier() -> None:
    model = abstract_localizer(SqueezeTimeConfig(num_classes=20), Window(), Head())
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.backbone, nnx.Param)))
    assert count == 28_887_088


def test_the_head_starts_glorot_uniform() -> None:
    head = Localizer(SMALL, WINDOW, HEAD, nnx.Rngs(0)).head
    for kernel, fans in (
        (head.downs[0].conv.kernel, 3 * (32 + 32)),
        (head.classifier.kernel, 3 * (32 + 4)),
        (head.stems[0].kernel, 64 + 32),
    ):
        values, bound = np.abs(np.asarray(kernel[...])), np.sqrt(6 / fans)
        assert values.max() <= bound
        assert values.max() > 0.9 * bound
        assert values.mean() == pytest.approx(bound / 2, rel=0.15)
    assert not np.asarray(head.classifier.bias[...]).any()


# Properties.


@pytest.fixture(scope="module")
def windows() -> Array:
    return jax.random.normal(jax.random.key(1), (2, 16, 32, 32, 3))


def small(**head: object) -> Localizer:
    model = Localizer(SMALL, WINDOW, dataclasses.replace(HEAD, **head), nnx.Rngs(0))
    model.eval()
    return model


@pytest.mark.parametrize(
    "head",
    [{}, {"collapse": "mean", "quality": True}, {"features": "layer3+layer4", "doubled": True}],
)
def test_every_reading_of_the_head_gives_outputs_at_every_prior(head: dict) -> None:
    outputs = jax.eval_shape(
        lambda: Localizer(SMALL, WINDOW, dataclasses.replace(HEAD, **head), nnx.Rngs(0))(
            jnp.zeros((2, 16, 32, 32, 3))
        )
    )
    priors = 14 + (16 if "doubled" in head else 0)
    assert outputs["distances"].shape == (2, priors, 2)
    assert outputs["logits"].shape == (2, priors, 4)
    assert ("quality" in outputs) == ("quality" in head)


def test_the_backbone_may_be_any_network_with_stages() -> None:
    """TSM's maps have a time axis, which is averaged; the parts of the head fit its channels."""
    backbone = registry.configure("tsm_r18", num_frames=4, num_classes=3, width=8, depth=10)
    outputs = jax.eval_shape(
        lambda: Localizer(backbone, WINDOW, HEAD, nnx.Rngs(0))(jnp.zeros((2, 16, 32, 32, 3)))
    )
    assert outputs["distances"].shape == (2, 14, 2)
    assert outputs["logits"].shape == (2, 14, 4)


def test_the_map_shapes_of_squeezetime_follow_from_its_strides() -> None:
    for side in (32, 36, 50):
        clip = jnp.zeros((1, 4, side, side, 3))
        maps = jax.eval_shape(lambda: SqueezeTime(SMALL, nnx.Rngs(0)).stage_maps(clip))  # noqa: B023
        assert _map_shapes(SMALL, side) == [x.shape[1:] for x in maps]


def test_windows_do_not_see_each_other(windows: Array) -> None:
    see = nnx.jit(lambda model, windows: model(windows))
    model = small()
    both, other = see(model, windows), see(model, windows.at[1].add(1.0))
    for name, values in both.items():
        assert (values[0] == other[name][0]).all()
        assert np.abs(values[1] - other[name][1]).max() > 1e-4


def test_clips_are_cut_with_the_first_frame_again_or_grey(windows: Array) -> None:
    clips = cut_clips(windows, WINDOW, 4)
    assert clips.shape == (2, 8, 4, 32, 32, 3)
    assert (clips[:, 0, 0] == windows[:, 0]).all()
    assert (clips[:, 0, 1] == windows[:, 0]).all()
    assert (clips[:, 3, 0] == windows[:, 5]).all()
    grey = cut_clips(windows, dataclasses.replace(WINDOW, padding_mode="zero"), 4)
    assert (grey[:, 0, 0] == 0).all()
    assert (grey[:, 0, 1:] == clips[:, 0, 1:]).all()


def test_frames_are_normalised_as_the_reference_or_as_in_recognition() -> None:
    frames = jnp.asarray(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3))
    found = normalise_frames(frames, WINDOW, jnp.float32)
    assert found.ravel().tolist() == pytest.approx([-1, -0.6, 1])
    imagenet = dataclasses.replace(WINDOW, normalization="imagenet")
    found = normalise_frames(frames, imagenet, jnp.float32)
    assert float(found[0, 0, 0, 0]) == pytest.approx(-123.675 / 58.395)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Window(padding=(4, 4)).check_clips(32), r"is \(4, 4\), but .* need 24 frames"),
        (lambda: Window(clip_stride=7), "window.clip_stride must be a divisor of .* 7"),
        (lambda: Window(crop_side=128), "window.stored_side must be at least crop_side, got 112"),
        (lambda: Head(channels=48), "head.channels must be a multiple of 32, got 48"),
        (lambda: Head(num_levels=7).level_lengths(32), "32 clips cannot be halved 6 times"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change()  # type: ignore[operator]
