"""SqueezeTime as an entry of the register."""

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers.entry import Entry, Input, Published

ENTRIES = (
    Entry(
        name="squeezetime",
        title="SqueezeTime",
        year=2024,
        idea="time is folded into channels, and 2-D convolutions learn it back",
        config=SqueezeTimeConfig(),
        build=SqueezeTime,
        input=Input(frame_interval=4, short_side=224, crop_side=224),
        published=Published(
            parameters=29_706_688,
            multiply_adds=5_482_892_032,
            clip=(16, 224, 224),
            paper_row="SqueezeTime",
            paper_cpu_ms=123,
            top1=71.64,
        ),
    ),
)
