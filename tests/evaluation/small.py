"""How the small videos of these tests are sampled."""

from squeezetime_jax.evaluation.views import Sampling
from squeezetime_jax.peers.entry import Input

SAMPLING = Sampling(one_crop_side=32, crop_size=32, frame_interval=2)
"""Clips of 4 frames, which fit into 12."""
INPUT = Input(short_side=32, crop_side=32, frame_interval=2, fps=None, num_crops=1, num_clips=1)
"""The same, as a checkpoint carries it."""
