"""Every shipped config builds, holds its recipe, and says what it promises."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from squeezetime_jax.errors import UserError
from squeezetime_jax.model.abstract import abstract_model, flat_leaves
from squeezetime_jax.tasks.recognition.experiment import Recognition as Experiment
from squeezetime_jax.tasks.recognition.task import fill_in
from squeezetime_jax.training import config, runner
from squeezetime_jax.training.experiment import differences, to_json
from squeezetime_jax.training.recipe import learning_rate_schedule

# ml_collections' own
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

VARIANTS = {
    "ablation": ["released"],
    "demo": ["released"],
    "finetune": ["released"],
    "hmdb51": ["released", "paper"],
    "imagenet1k": ["released"],
    "k400": ["released", "paper"],
    "k600": ["released", "paper"],
    "sthv2": ["unflipped", "exchanged"],
}
EMBEDDED = ("ablation", "demo")  # small networks on videos that are made on first use
ALL = [f"{name}:{variant}" for name in VARIANTS for variant in VARIANTS[name]]
PUBLISHED = [name for name in ALL if name.startswith(("k400", "k600", "hmdb51"))]
BACKBONE_PARAMETERS = 28_887_088  # the paper's 28.7 M, and the position encodings


def _fields(name: str, *changes: str) -> ConfigDict:
    fields = config.read([f"--config={name}", *changes])
    fill_in(fields, num_videos=3570, num_classes=51)
    return fields


def _read(name: str, *changes: str) -> Experiment:
    return config.parse(_fields(name, *changes))


def _docstring(name: str) -> str:
    return config.shipped_configs()[name].read_text().split('"""')[1]


def test_every_config_is_listed_here() -> None:
    """Those of other tasks are tested with their tasks."""
    shipped = config.shipped_configs()
    recognition = {n for n in shipped if config.read([f"--config={n}"]).task == "recognition"}
    assert recognition == set(VARIANTS)


@pytest.mark.parametrize("name", ALL)
def test_every_config_builds_its_network(name: str) -> None:
    model = abstract_model(_read(name).model)
    leaves = flat_leaves(model)
    classes = {"k400": 400, "k600": 600, "imagenet1k": 1000, "sthv2": 174, "demo": 8, "ablation": 8}
    assert leaves["head.classifier.bias"].shape == (classes.get(name.split(":")[0], 51),)
    count = sum(
        math.prod(leaf.shape)
        for path, leaf in leaves.items()
        if not path.startswith("head") and not path.endswith((".mean", ".var"))
    )
    assert (count == BACKBONE_PARAMETERS) == (not name.startswith(EMBEDDED))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_variant_is_the_default_and_others_are_refused(name: str) -> None:
    assert _read(name) == _read(f"{name}:{VARIANTS[name][0]}")
    with pytest.raises(UserError, match=f"'papre'; known are {VARIANTS[name][0]}"):
        _read(f"{name}:papre")


@pytest.mark.parametrize("name", VARIANTS)
def test_docstring_opens_with_its_promise(name: str) -> None:
    text = _docstring(name)
    assert f"squeezetime train --config configs/{name}.py --workdir runs/" in text
    if name in EMBEDDED:
        return
    for promise in ("Table|tables of results", "\nAccuracy", "\nCost: ", "Estimate: ", "\nData: "):
        assert re.search(promise, text), promise
    for variant in VARIANTS[name] if len(VARIANTS[name]) > 1 else ():
        assert f"\n  :{variant} " in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_stand_in_the_docstring(name: str) -> None:
    published = _read(name).published
    text = " ".join(_docstring(name.split(":")[0]).split())
    figures = f"{100 * published.top1:.2f} %"
    if published.top5:
        figures = f"{100 * published.top1:.1f} / {100 * published.top5:.1f} %"
    assert figures in text
    assert f"--views {published.views}" in text


def test_recipes_are_the_published_ones() -> None:
    expected = {  # epochs, peak of the learning rate, decay, backbone's share of the rate, pooling
        "k400:released": (100, 0.12, 7e-5, 1.0, "average"),
        "k400:paper": (100, 0.015, 7e-5, 1.0, "max"),
        "k600:released": (100, 0.12, 3e-5, 1.0, "average"),
        "hmdb51:released": (50, 0.16, 8e-3, 0.1, "average"),
        "hmdb51:paper": (50, 0.015, 1e-2, 1.0, "max"),
    }
    for name, (epochs, peak, decay, multiplier, pooling) in expected.items():
        experiment = _read(name)
        recipe = experiment.optimizer
        found = (experiment.epochs, recipe.weight_decay, recipe.backbone_multiplier)
        assert found == (epochs, decay, multiplier), name
        assert recipe.peak_learning_rate(512) == pytest.approx(peak), name
        assert (recipe.momentum, recipe.clip_norm) == (0.9, 40.0), name
        assert (recipe.label_smoothing, recipe.mixup, recipe.cutmix) == (0.0, 0.0, 0.0), name
        model = experiment.model
        assert (experiment.batch_size, model.bn_group_size) == (512, 64), name
        assert (model.pooling, model.dropout) == (pooling, 0.5), name


# At 10 steps an epoch. Warm-up: 80 steps, the first 0.1 of the peak, the last the peak. Cosine: 920
# steps from step 80; half-way at step 540, (peak + 1.5e-4) / 2; step 999 is one of 920 short of the
# end, 1.5e-4 + (peak - 1.5e-4) / 2 * (1 - cos(pi / 920)), and 1 - cos(pi / 920) = 5.8303e-6.
CORNERS = {
    "k400:released": {0: 0.012, 79: 0.12, 80: 0.12, 540: 0.060075, 999: 1.5034938e-4},
    "k400:paper": {0: 0.0015, 79: 0.015, 80: 0.015, 540: 0.007575, 999: 1.5004329e-4},
    "k600:released": {0: 0.012, 79: 0.12, 80: 0.12, 540: 0.060075, 999: 1.5034938e-4},
    "hmdb51:released": {0: 0.16, 119: 0.16, 120: 0.016, 239: 0.016, 240: 0.0016, 499: 0.0016},
    "hmdb51:paper": {0: 0.015, 119: 0.015, 120: 0.0015, 239: 0.0015, 240: 1.5e-4, 499: 1.5e-4},
    # Warm-up of 50 steps to 0.1 * 1024 / 256; then 850 steps to 0, half-way at step 475.
    "imagenet1k:released": {0: 0.04, 49: 0.4, 50: 0.4, 475: 0.2, 900: 0.0},
    # 40 and 460 steps; half-way at step 270.
    "sthv2:unflipped": {0: 0.012, 39: 0.12, 40: 0.12, 270: 0.060075, 500: 1.5e-4},
}


@pytest.mark.parametrize("name", CORNERS)
def test_learning_rate_at_its_corners(name: str, float64: None) -> None:
    experiment = _read(name)
    schedule = learning_rate_schedule(
        experiment.optimizer,
        batch_size=experiment.batch_size,
        epochs=experiment.epochs,
        steps_per_epoch=10,
    )
    found = [float(schedule(step)) for step in CORNERS[name]]
    np.testing.assert_allclose(found, list(CORNERS[name].values()), rtol=1e-6, atol=1e-12)


def test_a_smaller_batch_scales_the_rate() -> None:
    experiment = _read("k400", "--config.batch_size=256")
    assert experiment.optimizer.peak_learning_rate(experiment.batch_size) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("optimizer.weigth_decay=1", "did you mean optimizer.weight_decay?"),
        ("batchsize=4", "did you mean batch_size?"),
        ("data.shortside=4", "did you mean data.short_side?"),
        ("modle.width=1", "did you mean model.width?"),
    ],
)
def test_a_misspelt_field_names_the_nearest(field: str, told: str) -> None:
    with pytest.raises(UserError, match=f"no field {field.split('=')[0]}; {re.escape(told)}"):
        config.read(["--config=k400", f"--config.{field}"])


def test_a_config_file_cannot_misspell_either(tmp_path: Path) -> None:
    text = config.shipped_configs()["k400"].read_text()
    wrong = tmp_path / "mine.py"
    wrong.write_text(text.replace("config.optimizer.weight_decay", "config.optimizer.weigth_decay"))
    with pytest.raises(
        UserError, match=r"(?i)weigth_decay.*did you mean \W?(optimizer\.)?weight_decay"
    ):
        config.parse(config.read([f"--config={wrong}"]))


@pytest.mark.parametrize(
    ("videos", "epochs", "batch_size"),
    [(5, 100, 5), (100, 100, 8), (400, 100, 16), (1200, 50, 32), (3570, 17, 64), (10**5, 10, 64)],
)
def test_fine_tuning_fits_the_data(videos: int, epochs: int, batch_size: int) -> None:
    fields = config.read(["--config=finetune"])
    fill_in(fields, num_videos=videos, num_classes=7)
    experiment = config.parse(fields)
    assert (experiment.epochs, experiment.batch_size) == (epochs, batch_size)
    assert experiment.model.num_classes == 7


def test_fine_tuning_keeps_what_is_given() -> None:
    changes = ("epochs=3", "batch_size=24", "model.num_classes=60")
    experiment = _read("finetune", *(f"--config.{change}" for change in changes))
    assert (experiment.epochs, experiment.batch_size) == (3, 24)
    assert experiment.model.num_classes == 60


@pytest.mark.parametrize("name", VARIANTS)
def test_every_field_that_a_docstring_changes_is_there(name: str) -> None:
    """One after the other, with the value shown; words in capitals stand for the reader's own."""
    shown = re.findall(r"(--config\.[\w.]+)=([\w./-]+)", _docstring(name))
    for fields in (shown, *([change] for change in shown)):
        changes = [f"{field}={value}" for field, value in fields if not value.isupper()]
        if "--config.optimizer.accumulation=4" in changes and len(changes) == 1:
            continue  # only with the smaller groups beside it
        if name != "k400" or len(fields) == 1:  # whose docstring lists alternatives
            assert isinstance(_read(name, *changes), Experiment)


def test_direction_classes_are_not_flipped_as_themselves() -> None:
    assert _read("sthv2").augmentation.flip == 0.0
    exchanged = _read("sthv2:exchanged").augmentation
    assert exchanged.flip == 0.5
    assert exchanged.flip_labels is not None
    moved = {a: b for a, b in enumerate(exchanged.flip_labels) if a != b}
    assert moved == {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}
    assert _read("sthv2").data.frame_interval == 0


def test_missing_weights_are_named_before_the_run_begins(tmp_path: Path) -> None:
    videos = tmp_path / "videos" / "waving"
    videos.mkdir(parents=True)
    (videos / "a.mp4").touch()
    absent = tmp_path / "k400.pth"
    fields = config.read(
        ["--config=finetune", f"--config.data.train={videos.parent}", f"--config.init={absent}"]
    )
    with pytest.raises(UserError, match=f"{absent} not found.*--from"):
        runner.train(fields, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_variants_differ_only_where_their_docstring_says() -> None:
    allowed = {"augmentation.flip", "augmentation.flip_labels", "model.pooling"}
    allowed |= {
        f"optimizer.{name}"
        for name in ("learning_rate", "base_batch_size", "weight_decay", "backbone_multiplier")
    }
    for name, variants in VARIANTS.items():
        for pair in itertools.pairwise(variants):
            one, other = (_read(f"{name}:{v}") for v in pair)
            found = differences(one, to_json(other))
            assert {line.split(":")[0] for line in found} <= allowed
            assert found
