"""Scores of videos: the softmax averaged over each video's views."""

import contextlib
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from squeezetime_jax.data.augment import normalise
from squeezetime_jax.data.pipeline import eval_batches, to_devices
from squeezetime_jax.data.sources import Source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.evaluation.metrics import Accuracy
from squeezetime_jax.model.squeezetime import SqueezeTime


def evaluate(
    model: SqueezeTime,
    source: Source,
    protocol: ViewProtocol,
    *,
    mesh: Mesh,
    batch_size: int = 16,
    workers: int = 0,
    skip_unreadable: bool = False,
) -> dict[str, float]:
    """Accuracy over all videos of a source, each counted once on any number of devices and hosts.

    Args:
      model: the network, in evaluation mode.
      source: labelled videos.
      protocol: the views of a video.
      mesh: the devices, a row named after its one axis; the same on all hosts.
      batch_size: videos scored at once, on all devices together; rounded up to what they can share.
      workers: decoding processes on each host.
      skip_unreadable: leave out videos that cannot be read.

    Returns:
      What `Accuracy.compute` gives.

    Raises:
      UserError: videos cannot be read; lists them.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    split = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    everywhere = NamedSharding(mesh, PartitionSpec())
    graph, state = nnx.split(model)
    state = jax.device_put(state, everywhere)
    total = jax.device_put(Accuracy.empty(model.config.num_classes), everywhere)
    count = jax.jit(_count, static_argnums=0, out_shardings=everywhere)
    batches = eval_batches(
        source,
        protocol,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(batches), to_devices(batches, split) as ahead:
        for batch in ahead:
            total = total.merge(count(graph, state, batch["clips"], batch["labels"], batch["mask"]))
    return total.compute()


def _count(graph: Any, state: Any, clips: Array, labels: Array, mask: Array) -> Accuracy:
    return Accuracy.of(video_scores(nnx.merge(graph, state), clips), labels, mask)


def video_scores(
    model: SqueezeTime, views: UInt8[Array, "n views t h w 3"]
) -> Float[Array, "n classes"]:
    """Mean over the views of the softmax (mmaction2's `average_clips="prob"`).

    Args:
      model: the network, in evaluation mode.
      views: RGB, 0..255.
    """
    n, num_views = views.shape[:2]
    clips = normalise(views.reshape(n * num_views, *views.shape[2:]), model.config.param_dtype)
    return jax.nn.softmax(model(clips)).reshape(n, num_views, -1).mean(axis=1)
