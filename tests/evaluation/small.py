"""How the small videos of these tests are looked at."""

from squeezetime_jax.evaluation.views import Sampling

SAMPLING = Sampling(one_crop_side=32, crop_size=32, frame_interval=2)
"""Clips of 4 frames, which fit into 12."""
