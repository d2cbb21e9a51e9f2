"""Training clips are normalised as the network expects, like test clips."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.data.augment import NONE, normalise
from squeezetime_jax.peers import registry
from squeezetime_jax.tasks.recognition.experiment import Recognition as Experiment
from squeezetime_jax.tasks.recognition.task import Recognition


def test_training_clips_have_the_networks_mean_and_deviation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.entry_of("tsm_r18")
    mean, std = (10.0, 20.0, 30.0), (40.0, 50.0, 60.0)
    other = dataclasses.replace(entry, input=dataclasses.replace(entry.input, mean=mean, std=std))
    monkeypatch.setitem(registry._ENTRIES, "tsm_r18", other)
    model = registry.configure("tsm_r18", depth=10, width=8, num_frames=2)
    task = Recognition(Experiment(model=model, augmentation=NONE), tmp_path)
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 8, 8, 3), np.uint8)
    batch = {"clips": jnp.asarray(clips), "labels": jnp.zeros(2, int)}
    prepared = task.prepare(jax.random.key(0), batch, jnp.arange(2))["clips"]
    expected = normalise(batch["clips"], mean=mean, std=std)
    np.testing.assert_allclose(prepared, expected, atol=1e-5)
