"""Operations that mix the frames of a feature map inside a 2-D network."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Shift(nnx.Module):
    """TSM: an eighth of the channels comes from the next frame, an eighth from the one before.

    Lin et al. 2019, arXiv 1811.08383. Beyond the ends of a clip there are zeros.
    """

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Shift."""
        fold = x.shape[-1] // 8
        nothing = jnp.zeros_like(x[:, :1, ..., :fold])
        following = jnp.concatenate([x[:, 1:, ..., :fold], nothing], axis=1)
        preceding = jnp.concatenate([nothing, x[:, :-1, ..., fold : 2 * fold]], axis=1)
        return jnp.concatenate([following, preceding, x[..., 2 * fold :]], axis=-1)
