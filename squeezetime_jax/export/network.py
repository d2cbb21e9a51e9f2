"""The network as every exported file computes it: from one 4-D array to logits."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from squeezetime_jax.export.manifest import INPUT, Manifest
from squeezetime_jax.model.fused import EXPORT, Form, Fused, Tree, fuse, logits
from squeezetime_jax.model.layers import resize_grid
from squeezetime_jax.model.squeezetime import SqueezeTime

Network = Callable[[Array], Array]


def fold(model: SqueezeTime, manifest: Manifest, form: Form = EXPORT) -> Fused:
    """Folded weights for clips of the manifest's size, the stem's rows in its order of channels.

    Args:
      model: the network.
      manifest: of the file. In bfloat16 weights are of that type, otherwise float32.
      form: of the graph.
    """
    fused = fuse(model, form)
    stem = {**fused.weights["stem"], "kernel": _by_frame(fused.weights["stem"]["kernel"])}
    weights = {**fused.weights, "stem": stem, "stages": _for_size(fused, manifest)}
    is_half = manifest.dtype == "bfloat16"
    config = dataclasses.replace(fused.config, dtype="bfloat16" if is_half else "float32")
    weights = jax.tree.map(lambda leaf: np.asarray(leaf).astype(config.compute_dtype), weights)
    return Fused(weights, config, form)


def _for_size(fused: Fused, manifest: Manifest) -> list[list[Tree]]:
    """The stages, their position encodings of the feature maps' size: resized once, not each time.

    Converters would otherwise have to know the resizing, or to compute constants.
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


def network(fused: Fused, manifest: Manifest) -> Network:
    """What an exported file computes: clips as the manifest says, to logits in float32."""
    scale = np.tile(1 / np.asarray(manifest.std, np.float32), manifest.num_frames)
    mean = np.tile(np.asarray(manifest.mean, np.float32), manifest.num_frames)

    def score(
        clip: Float[Array, "n h w c"] | UInt8[Array, "n h w c"],
    ) -> Float[Array, "n classes"]:
        if manifest.uint8:
            clip = (clip.astype(jnp.float32) - mean) * scale
        return logits(fused, clip)

    return score


def input_shape(manifest: Manifest, batch: object) -> jax.ShapeDtypeStruct:
    """The array that enters, for a batch that may be a symbol."""
    shape = (batch, manifest.height, manifest.width, 3 * manifest.num_frames)
    return jax.ShapeDtypeStruct(shape, jnp.uint8 if manifest.uint8 else jnp.float32)


@dataclasses.dataclass(frozen=True)
class Feeds:
    """Clips as a quantiser is fed with them: one at a time, as often as it likes.

    Attributes:
      clips: RGB, 0..255.
      manifest: of the file that takes them.
    """

    clips: UInt8[np.ndarray, "n t h w 3"]
    manifest: Manifest

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return ({INPUT: self.manifest.pack(clip[None])} for clip in self.clips)
