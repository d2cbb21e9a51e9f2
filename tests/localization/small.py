"""The smallest localiser."""

from squeezetime_jax.localization.config import Head, Window
from squeezetime_jax.model.config import SqueezeTimeConfig

SMALL = SqueezeTimeConfig.tiny(num_classes=3, branches="tfc", position_grids=(8, 4, 2, 1))
WINDOW = Window(num_frames=16, clip_stride=2, padding=(1, 1), stored_side=36, crop_side=32)
HEAD = Head(channels=32, num_levels=3)
