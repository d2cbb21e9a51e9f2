"""Device side: uint8 clips to normalised floats, inside jit and in the batch's sharding.

Order, ranges and arithmetic are those of the released recipe in mmaction2: horizontal flip, colour
jitter, random erasing, normalisation; one draw per clip, the same for all its frames. What is left
out is the reference's rounding to 8 bits in between. Drawing (`draw`) and applying (`apply`) are
apart, so that what is applied can be checked against a plain reading of the recipe.

A clip's draw depends on the key and on the clip's place in the global batch alone: any number of
devices draws the same.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8, UInt32

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
_GREY = (0.2989, 0.587, 0.114)
# mmaction2 turns its hue parameter into `parameter * 255` steps on OpenCV's circle of 180 steps.
_SEXTANTS_PER_HUE = 255 / 180 * 6

# Red, green and blue by themselves, each (n, t, h, w): XLA does not vectorise arithmetic on
# interleaved colours.
Planes = Sequence[Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to a training clip; the defaults are the released recipe's.

    Attributes:
      flip: probability of a horizontal flip.
      flip_labels: the label of each class once flipped; None where a flip changes none.
      brightness: the factor is uniform in `1 +- brightness`.
      contrast: likewise; around the mean grey of each frame.
      saturation: likewise; around each pixel's grey.
      hue: the shift is uniform in `+- hue * 510` degrees (0.1: 51 degrees, mmaction2's reading).
      erase: probability of erasing a rectangle.
      erase_area: smallest and largest share of the frame that is erased.
      erase_aspect: smallest and largest height / width of the rectangle; log-uniform between.
    """

    flip: float = 0.5
    flip_labels: tuple[int, ...] | None = None
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.1
    erase: float = 0.25
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_aspect: tuple[float, float] = (3 / 10, 10 / 3)

    def __post_init__(self) -> None:
        # Lists come out of configuration files; a frozen one is hashable, so they become tuples.
        for name in ("flip_labels", "erase_area", "erase_aspect"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        for name in ("flip", "brightness", "contrast", "saturation", "erase"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"Augmentation.{name} must be in [0, 1], got {value}")
        if not 0 <= self.hue <= 0.35:
            raise ValueError(f"Augmentation.hue must be in [0, 0.35], got {self.hue}")
        if self.flip_labels is not None:
            twice = [self.flip_labels[k] for k in self.flip_labels if k < len(self.flip_labels)]
            if twice != list(range(len(self.flip_labels))):
                raise ValueError(
                    "Augmentation.flip_labels: flipping twice does not give the same class again"
                )

    @property
    def changes_colour(self) -> bool:
        """Whether there is any colour jitter."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


NONE = Augmentation(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, erase=0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """What was drawn for each clip.

    Attributes:
      flip: whether to flip.
      brightness: factor.
      contrast: factor.
      saturation: factor.
      hue: shift, in sixths of the circle, in [-3, 3].
      before_hue: whether brightness, contrast and saturation come before the hue shift. The
        reference shuffles all four; of their order only this shows: the other three commute.
      box: top, left, height and width of the erased rectangle in pixels; height 0 erases nothing.
      noise_seed: seed of the noise that fills the rectangle.
    """

    flip: Bool[Array, "n"]
    brightness: Float[Array, "n"]
    contrast: Float[Array, "n"]
    saturation: Float[Array, "n"]
    hue: Float[Array, "n"]
    before_hue: Bool[Array, "n 3"]
    box: Int[Array, "n 4"]
    noise_seed: UInt32[Array, "n"]


def augment(
    key: PRNGKeyArray,
    clips: UInt8[Array, "n t h w 3"],
    labels: Int[Array, "n"],
    augmentation: Augmentation,
    dtype: jnp.dtype | type = jnp.float32,
    *,
    rows: Int[Array, "n"] | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> tuple[Float[Array, "n t h w 3"], Int[Array, "n"]]:
    """Augment and normalise a batch of training clips.

    Args:
      key: the step's key.
      clips: RGB, 0..255; the global batch, or some rows of it.
      labels: a class per clip.
      augmentation: what may happen.
      dtype: of the result.
      rows: numbers of the clips in the global batch; None: they are all of it.
      mean: what the network's input subtracts from each colour.
      std: what it divides each colour by.

    Returns:
      Clips ready for the network, and the labels after the flip.
    """
    draws = draw(key, clips.shape, augmentation, rows)
    if augmentation.flip_labels is not None:
        labels = jnp.where(draws.flip, jnp.asarray(augmentation.flip_labels)[labels], labels)
    return apply(clips, draws, augmentation, dtype, mean=mean, std=std), labels


def normalise(
    clips: UInt8[Array, "*n h w 3"],
    dtype: jnp.dtype | type = jnp.float32,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Float[Array, "*n h w 3"]:
    """Clips as a network takes them: `(value - mean) / std` of each colour, computed in float32."""
    scale = 1 / jnp.asarray(std, jnp.float32)
    return ((clips.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)) * scale).astype(dtype)


def draw(
    key: PRNGKeyArray,
    shape: Sequence[int],
    augmentation: Augmentation,
    rows: Int[Array, "n"] | None = None,
) -> Draws:
    """Draw what happens to each clip.

    Args:
      key: the step's key.
      shape: of the clips, (n, t, h, w, 3).
      augmentation: what may happen.
      rows: their numbers in the global batch; None: they are all of it.
    """
    rows = jnp.arange(shape[0]) if rows is None else rows
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    height, width = shape[2:4]
    draw_clip = functools.partial(_draw_clip, height=height, width=width, augmentation=augmentation)
    return Draws(**jax.vmap(draw_clip)(keys))


def apply(
    clips: UInt8[Array, "n t h w 3"],
    draws: Draws,
    augmentation: Augmentation,
    dtype: jnp.dtype | type = jnp.float32,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Float[Array, "n t h w 3"]:
    """Do to each clip what was drawn for it, then normalise.

    `augmentation` only says which steps can be left out of the program.
    """
    planes: Planes = [clips[..., colour] for colour in range(3)]
    if augmentation.flip:
        planes = [jnp.where(_per_clip(draws.flip), p[..., ::-1], p) for p in planes]
    planes = [p.astype(jnp.float32) for p in planes]
    if augmentation.changes_colour:
        planes = _jitter(planes, draws, augmentation.hue > 0)
    if augmentation.erase:
        inside = _inside(draws.box, clips.shape)
        noise = _noise(draws.noise_seed, clips.shape)
        planes = [jnp.where(inside, n, p) for n, p in zip(noise, planes, strict=True)]
    planes = [(p - m) * (1 / s) for p, m, s in zip(planes, mean, std, strict=True)]
    return jnp.stack(planes, axis=-1).astype(dtype)


def _draw_clip(
    key: PRNGKeyArray, *, height: int, width: int, augmentation: Augmentation
) -> dict[str, Array]:
    keys = jax.random.split(key, 5)

    def around_one(key: PRNGKeyArray, reach: float) -> Array:
        return jax.random.uniform(key, minval=1 - reach, maxval=1 + reach)

    colour_keys = jax.random.split(keys[0], 4)
    hue = jax.random.uniform(colour_keys[3], minval=-augmentation.hue, maxval=augmentation.hue)
    order = jax.random.uniform(keys[1], (4,))  # in which the four come; the last is the hue
    return {
        "flip": jax.random.bernoulli(keys[2], augmentation.flip),
        "brightness": around_one(colour_keys[0], augmentation.brightness),
        "contrast": around_one(colour_keys[1], augmentation.contrast),
        "saturation": around_one(colour_keys[2], augmentation.saturation),
        "hue": hue * _SEXTANTS_PER_HUE,
        "before_hue": order[:3] < order[3],
        "box": _draw_box(keys[3], height, width, augmentation),
        "noise_seed": jax.random.bits(keys[4], dtype=jnp.uint32),
    }


def _draw_box(
    key: PRNGKeyArray, height: int, width: int, augmentation: Augmentation
) -> Int[Array, "4"]:
    u = jax.random.uniform(key, (5,))
    low, high = augmentation.erase_area
    area = height * width * (low + u[0] * (high - low))
    low, high = augmentation.erase_aspect
    aspect = low * (high / low) ** u[1]
    box_height = jnp.minimum(jnp.rint(jnp.sqrt(area * aspect)), height)
    box_width = jnp.minimum(jnp.rint(jnp.sqrt(area / aspect)), width)
    # The last position is never drawn, as in mmaction2.
    top = jnp.floor(u[2] * (height - box_height))
    left = jnp.floor(u[3] * (width - box_width))
    box = jnp.stack([top, left, box_height, box_width]).astype(jnp.int32)
    return jnp.where(u[4] < augmentation.erase, box, 0)


def _per_clip(values: Array) -> Array:
    return values[:, None, None, None]


def _grey(planes: Planes) -> Array:
    red, green, blue = planes
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def _mean_of_frames(plane: Float[Array, "n t h w"]) -> Float[Array, "n t 1 1"]:
    # As a product with ones: XLA would compute what goes into a sum without vector instructions.
    n, t, h, w = plane.shape
    ones = jnp.full(h * w, 1 / (h * w), plane.dtype)
    mean = jnp.matmul(plane.reshape(n * t, h * w), ones, precision=jax.lax.Precision.HIGHEST)
    return mean.reshape(n, t, 1, 1)


def _jitter(planes: Planes, draws: Draws, hue_shifts: bool) -> Planes:
    """Brightness, contrast, saturation and hue.

    Contrast needs the mean grey of what it is applied to. One pass takes it, of the frames as they
    are where contrast comes before the hue shift, and as they will then be where it comes after;
    brightness and saturation before the contrast are linear, and so known of the mean.
    """
    factors = (draws.brightness, draws.contrast, draws.saturation)
    if not hue_shifts:
        return _clipped(_linear(planes, factors, _mean_of_frames(_grey(planes))))
    is_before = draws.before_hue.T
    before = [jnp.where(b, f, 1.0) for b, f in zip(is_before, factors, strict=True)]
    after = [jnp.where(b, 1.0, f) for b, f in zip(is_before, factors, strict=True)]
    others = (before[0], jnp.ones_like(draws.contrast), before[2])
    without_contrast = _shift_hue(_linear(planes, others, jnp.zeros(())), draws.hue)
    measured = jnp.where(_per_clip(is_before[1]), _grey(planes), _grey(without_contrast))
    mean = _mean_of_frames(measured)
    planes = _shift_hue(_linear(planes, before, mean), draws.hue)
    return _clipped(_linear(planes, after, mean))


def _clipped(planes: Planes) -> Planes:
    return [jnp.clip(p, 0.0, 255.0) for p in planes]


def _linear(planes: Planes, factors: Sequence[Array], mean: Array) -> Planes:
    """Brightness, contrast and saturation; they commute. `mean` is each frame's mean grey."""
    brightness, contrast, saturation = map(_per_clip, factors)
    grey = _grey(planes)
    # A grey's own grey is itself but for the weights' sum, 0.9999.
    mean = mean * (saturation + (1 - saturation) * sum(_GREY))
    shift = contrast * (1 - saturation) * grey + (1 - contrast) * mean
    return [brightness * (contrast * saturation * p + shift) for p in planes]


def _shift_hue(planes: Planes, sextants: Float[Array, "n"]) -> Planes:
    """Turn the hue and keep HSV's saturation and value, without going through HSV.

    In HSV each colour is a trapezoid over the hue, `high - chroma * clip(min(k, 4 - k), 0, 1)`
    with `k = (n + hue) mod 6` and n = 5, 3, 1. Multiplied through by chroma, no division is left.
    """
    red, green, blue = _clipped(planes)
    high = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = high - jnp.minimum(jnp.minimum(red, green), blue)
    hue = jnp.where(  # times chroma, in [-1, 5] * chroma
        high == red,
        green - blue,
        jnp.where(high == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )

    def colour(n: float) -> Array:
        k = hue + _per_clip((n + sextants) % 6) * chroma  # in [-1, 11] * chroma
        k = jnp.where(k < 0, k + 6 * chroma, jnp.where(k > 6 * chroma, k - 6 * chroma, k))
        return high - jnp.clip(jnp.minimum(k, 4 * chroma - k), 0.0, chroma)

    return [colour(5.0), colour(3.0), colour(1.0)]


def _inside(box: Int[Array, "n 4"], shape: Sequence[int]) -> Bool[Array, "n 1 h w"]:
    rows, columns = jnp.arange(shape[2])[None, :, None], jnp.arange(shape[3])[None, None, :]
    top, left, height, width = (box[:, i, None, None] for i in range(4))
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return inside[:, None]


def _noise(seeds: UInt32[Array, "n"], shape: Sequence[int]) -> Planes:
    """Uniform whole numbers 0..255 for every value of every clip.

    A multiplicative hash of the pixel's number, one for its three colours: the fill of a rectangle
    wants no more, and random bits for all pixels, of which 4 % are used, would cost more than the
    rest of the augmentation together.
    """
    _, t, h, w, _ = shape
    place = jax.lax.iota(jnp.uint32, t * h * w).reshape(1, t, h, w)
    x = place * jnp.uint32(0x9E3779B9) ^ _per_clip(seeds)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return [((x >> shift) & 0xFF).astype(jnp.float32) for shift in (24, 16, 8)]
