"""SqueezeTime as an entry of the register."""

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers.entry import Entry, Input

ENTRIES = (
    Entry(
        title="SqueezeTime",
        year=2024,
        idea="time is folded into channels, and 2-D convolutions learn it back",
        config=SqueezeTimeConfig(),
        build=SqueezeTime,
        input=Input(frame_interval=4, short_side=224, crop_side=224),
    ),
)
