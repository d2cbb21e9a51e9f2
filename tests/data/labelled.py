"""Readers of labelled videos, as a task has them: a clip for training, views for evaluation."""

import functools

import numpy as np

from squeezetime_jax.data import batches, transforms


def draw_clip(source, clip, rng, number):
    record = source[number]
    try:
        with record.open() as video:
            return {"clips": clip.cut(video, rng), "labels": np.int32(record.label)}
    except batches.UserError as error:
        raise batches.UnreadableRecord(record.name, str(error)) from None


def read_views(source, protocol, number):
    record = source[number]
    try:
        with record.open() as video:
            views = transforms.views(video, protocol)
    except batches.UserError as error:
        raise batches.UnreadableRecord(record.name, str(error)) from None
    return {"clips": views, "labels": np.int32(record.label)}


def train_batches(source, clip, **how):
    draw = functools.partial(draw_clip, source, clip)
    return batches.endless_batches(draw, len(source), sample_bytes=10_000, **how)


def eval_batches(source, protocol, **how):
    side = protocol.crop_size
    shape = (protocol.num_views, protocol.num_frames, side, side, 3)
    blank = {"clips": np.zeros(shape, np.uint8), "labels": np.int32(0)}
    read = functools.partial(read_views, source, protocol)
    return batches.ordered_batches(read, blank, len(source), **how)
