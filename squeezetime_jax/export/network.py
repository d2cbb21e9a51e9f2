"""The network as every exported file computes it: from one 4-D array to logits."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from squeezetime_jax.export.manifest import INPUT, Clips, Manifest
from squeezetime_jax.model.fused import EXPORT, Form, Fused, Tree, fuse, logits
from squeezetime_jax.model.layers import resize_grid
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers import registry


def network(model: Any, manifest: Manifest, form: Form = EXPORT) -> Callable[[Array], Array]:
    """What an exported file computes: clips as the manifest describes them, to float32 logits.

    SqueezeTime is folded; other networks are computed as they are trained.

    Args:
      model: the network, in evaluation mode.
      manifest: of the file.
      form: of SqueezeTime's graph.
    """
    scale = np.tile(1 / np.asarray(manifest.std, np.float32), manifest.num_frames)
    mean = np.tile(np.asarray(manifest.mean, np.float32), manifest.num_frames)
    if isinstance(model, SqueezeTime):
        compute = functools.partial(logits, fold(model, manifest, form))
    else:
        compute = functools.partial(_unfold, _with_dtype(model, _dtype(manifest)))

    def score(
        clips: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
    ) -> Float[Array, "n classes"]:
        if manifest.uint8:
            clips = (clips.astype(jnp.float32) - mean) * scale
        return compute(clips)

    return score


def _unfold(model: Any, clips: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
    """The logits of clips whose frames are side by side."""
    frames = clips.reshape(*clips.shape[:3], model.config.num_frames, 3)
    return model(frames.transpose(0, 3, 1, 2, 4)).astype(jnp.float32)


def _with_dtype(model: Any, dtype: Literal["float32", "bfloat16"]) -> Any:
    """The network with the same weights, computing in another type."""
    config = dataclasses.replace(model.config, dtype=dtype)
    twin = nnx.merge(nnx.graphdef(registry.abstract(config)), nnx.state(model))
    twin.eval()
    return twin


def _dtype(manifest: Manifest) -> Literal["float32", "bfloat16"]:
    """The type that the exported graph computes in; float16 and int8 are made from float32."""
    return "bfloat16" if manifest.dtype == "bfloat16" else "float32"


def fold(model: SqueezeTime, manifest: Manifest, form: Form = EXPORT) -> Fused:
    """Folded weights for clips of the manifest's size, the stem's rows in its order of channels.

    Args:
      model: the network.
      manifest: of the file.
      form: of the graph.
    """
    fused = fuse(model, form)
    stem = {**fused.weights["stem"], "kernel": _by_frame(fused.weights["stem"]["kernel"])}
    weights = {**fused.weights, "stem": stem, "stages": _for_size(fused, manifest)}
    config = dataclasses.replace(fused.config, dtype=_dtype(manifest))
    weights = jax.tree.map(lambda leaf: np.asarray(leaf).astype(config.compute_dtype), weights)
    return Fused(weights, config, form)


def _for_size(fused: Fused, manifest: Manifest) -> list[list[Tree]]:
    """The stages with position encodings of the size of their feature maps.

    Otherwise each call would resize them, by operations that converters need not know.
    """
    height, width = (((side + 1) // 2 + 1) // 2 for side in (manifest.height, manifest.width))
    stages = []
    for stage in fused.weights["stages"]:
        blocks = []
        for block in stage:
            if "halving" in block:
                height, width = height // 2, width // 2
            blocks.append(_with_position(block, (height, width)))
        stages.append(blocks)
    return stages


def _with_position(tree: Tree, sides: tuple[int, int]) -> Tree:
    resized: Tree = {
        key: _with_position(leaf, sides) for key, leaf in tree.items() if isinstance(leaf, dict)
    }
    if "position" in tree:
        grid = resize_grid(jnp.asarray(tree["position"]), sides)
        resized["position"] = np.asarray(grid)
    return {**tree, **resized}


def _by_frame(kernel: Float[np.ndarray, "kh kw i o"]) -> Float[np.ndarray, "kh kw i o"]:
    """Rows colour * T + frame, as the network counts, put in the order 3 * frame + colour."""
    kh, kw, channels, out = kernel.shape
    rows = np.asarray(kernel).reshape(kh, kw, 3, channels // 3, out)
    return rows.swapaxes(2, 3).reshape(kernel.shape)


def input_shape(manifest: Manifest, batch: object) -> jax.ShapeDtypeStruct:
    """The array that enters, for a batch that may be a symbol."""
    return jax.ShapeDtypeStruct(
        (batch, *manifest.shape), jnp.uint8 if manifest.uint8 else jnp.float32
    )


@dataclasses.dataclass(frozen=True)
class Feeds:
    """Clips as a quantiser reads them: one at a time, as often as it likes.

    Attributes:
      clips: RGB, 0..255.
      manifest: of the file that takes them.
    """

    clips: Clips
    manifest: Manifest

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return ({INPUT: self.manifest.pack(clip[None])} for clip in self.clips)
