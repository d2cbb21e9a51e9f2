from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import explain, pictures


def random_clips(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 32, 32, 3), np.uint8)


def test_the_frames_importances_add_up_to_the_slope_along_the_clip(model: SqueezeTime) -> None:
    # sum_t (gradient . input)_t is the derivative of logit(s * clip) by s at s = 1.
    clip = random_clips(1)[0]
    pixels = normalise(jnp.asarray(clip))

    def logit(scale: jax.Array) -> jax.Array:
        return model((scale * pixels)[None])[0, 3]

    slope = jax.jit(jax.grad(logit))(jnp.float32(1.0))
    importance = explain.frame_importance(model, clip, 3)
    assert importance.shape == (4,)
    assert importance.sum() == pytest.approx(float(slope), rel=1e-3, abs=1e-4)


def test_a_frame_that_the_network_does_not_see_is_of_no_importance(model: SqueezeTime) -> None:
    graph, state = nnx.split(model)
    blind = nnx.merge(graph, jax.tree.map(jnp.array, state))
    kernel = blind.stem.conv.kernel  # (5, 5, colour * 4 + frame, out)
    kernel.set_value(kernel[...].at[:, :, 2::4].set(0.0))
    importance = explain.frame_importance(blind, random_clips(1)[0], 0)
    assert importance[2] == 0
    assert np.abs(importance[[0, 1, 3]]).min() > 0


@pytest.mark.parametrize("depth", [10, 50])
def test_focus_weights_are_those_of_the_networks_own_modules(depth: int) -> None:
    config = SqueezeTimeConfig.tiny(depth=depth, width=1 / 32)
    model = SqueezeTime(config, nnx.Rngs(0))
    model.eval()
    weights = explain.focus_weights(model, random_clips(3))
    planes = config.planes if depth == 50 else (2, 2, 4, 8)  # what enters a basic block's first
    assert [w.shape for w in weights] == [(3, channels) for channels in planes]
    assert all(w.min() >= 0 and w.max() <= 1 for w in weights)

    # With its weights computed as zero, the last stage's module puts out what zeros give.
    last = model.stages[3][-1]
    module = last.ctl if depth == 50 else last.ctl1
    module.focus.expand.set_value(jnp.full_like(module.focus.expand[...], 0.0))
    assert explain.focus_weights(model, random_clips(3))[3] == pytest.approx(0.5)


def test_an_ablation_has_no_focus_weights() -> None:
    model = SqueezeTime(SqueezeTimeConfig.tiny(temporal_focus=False), nnx.Rngs(0))
    with pytest.raises(UserError, match="no temporal focus weights"):
        explain.focus_weights(model, random_clips(1))


def test_pictures_are_written_whole_or_refused(tmp_path: Path) -> None:
    top = [{"index": 1, "label": None, "score": 0.9}, {"index": 0, "label": "a", "score": 0.1}]
    clip = random_clips(1)[0]
    figure = pictures.draw_prediction("a video", clip, top, np.linspace(-1, 2, 4))
    path = pictures.save_figure(figure, tmp_path / "new" / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(UserError, match=r"a\.txt: not the name of a picture"):
        pictures.save_figure(figure, tmp_path / "a.txt")


@pytest.mark.parametrize("classes", [3, 61])
def test_a_confusion_matrix_of_any_size_can_be_drawn(classes: int, tmp_path: Path) -> None:
    confusion = np.eye(classes, dtype=np.int64)
    figure = pictures.draw_confusion(confusion, [f"class {k}" for k in range(classes)])
    assert pictures.save_figure(figure, tmp_path / "c.png").stat().st_size > 1000
