"""A small run from its config to its pictures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from small_localizer import batch, fields

from squeezetime_jax import SqueezeTime, cli
from squeezetime_jax.checkpoint.store import save_model
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.localization import experiment, untrimmed, videos
from squeezetime_jax.tasks.localization.config import Experiment
from squeezetime_jax.tasks.localization.store import load_localizer
from squeezetime_jax.tasks.localization.task import Localization
from squeezetime_jax.tasks.localization.untrimmed import Untrimmed
from squeezetime_jax.training import run
from squeezetime_jax.training.report import Silence, read_metrics

SET = {"num_train": 2, "num_test": 2, "size": 36, "seconds": (8, 10)}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled programs are kept in a folder of the tests', and only here."""
    before = jax.config.jax_compilation_cache_dir
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded data set that all runs share."""
    folder = tmp_path_factory.mktemp("data") / "untrimmed"
    return untrimmed.write_untrimmed(folder, Untrimmed(**SET))


def _fields(data: Path, **changes: object) -> object:
    found = fields(
        model__num_classes=8,
        data__annotations=str(data),
        data__videos=str(data / "videos"),
        data__arrays=str(data / "arrays"),
        data__stride=1,
        evaluation__every_epochs=1.0,
        run__save_epochs=0.5,
        **changes,
    )
    found.data.untrimmed.update(SET)
    # Long enough to hold a segment whole.
    found.window.update(num_frames=32, clip_stride=4, padding=(0, 0))
    found.epochs, found.batch_size = 2, 4
    return found


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """A run that nothing disturbed."""
    workdir = data.parent / "run"
    experiment.run_experiment(_fields(data), workdir, Silence())
    return workdir


def _arrays(workdir: Path) -> dict[str, bytes]:
    """Every array of the last checkpoint, byte for byte."""
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    found = {}
    for item in ("params", "batch_stats", "training"):
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(last / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found


@pytest.mark.slow
def test_a_run_that_dies_goes_on_to_the_bit(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Callable = videos.TrainingWindows.batch
    last = max(int(path.name) for path in (whole / "checkpoints").iterdir())

    def dies(self: videos.TrainingWindows, step: int) -> dict:
        if step >= last - 3:
            raise OSError("the power is cut")
        return read(self, step)

    monkeypatch.setattr(videos.TrainingWindows, "batch", dies)
    with pytest.raises(OSError, match="the power is cut"):
        experiment.run_experiment(_fields(data), tmp_path / "run", Silence())
    assert (tmp_path / "run" / "checkpoints").is_dir()
    monkeypatch.setattr(videos.TrainingWindows, "batch", read)
    experiment.run_experiment(_fields(data), tmp_path / "run", Silence())
    mine, other = _arrays(tmp_path / "run"), _arrays(whole)
    assert [name for name in other if mine[name] != other[name]] == []
    assert read_metrics(tmp_path / "run") == read_metrics(whole)


@pytest.mark.slow
def test_a_run_evaluates_on_the_way_and_is_tested_by_its_checkpoint(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = [entry for entry in read_metrics(whole) if entry["kind"] == "eval"]
    assert len(scores) == 2
    found = tmp_path / "found.json"
    picture = tmp_path / "classes.png"
    for as_json in (False, True):
        status = experiment.evaluate(
            _fields(data), str(whole), as_json=as_json, scores=found, save=picture
        )
        assert status == 0
    told, summary = capsys.readouterr().out.strip().rsplit("\n", 1)
    summary = json.loads(summary)
    assert summary["average"] == pytest.approx(scores[-1]["average"], abs=1e-6)
    assert summary["cost"]["clips"] <= summary["cost"]["clips_unshared"]
    parts = summary["cost"]["seconds_per_video"]
    assert set(parts) == {"decoding", "backbone", "head", "post-processing", "all"}
    assert parts["all"] == pytest.approx(sum(v for name, v in parts.items() if name != "all"))
    assert "2 videos" in told
    assert json.loads(found.read_text())["results"].keys() == {
        "video_test_0000000",
        "video_test_0000001",
    }
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_localize_prints_a_table_json_and_a_timeline(
    data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(data / "videos" / "video_test_0000000.mp4")
    words = ["localize", video, "--checkpoint", str(whole)]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]["video_test_0000000"]
    assert len(found) > 3
    assert set(found[0]) == {"label", "score", "segment"}
    picture = tmp_path / "timeline.png"
    assert cli.main([*words, "--top", "3", "--save", str(picture)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    best = sorted((each["score"] for each in found), reverse=True)[:3]
    shown = sorted((float(line.split()[2]) for line in table[1:]), reverse=True)
    assert shown == pytest.approx([100 * score for score in best], abs=0.01)
    starts = [float(line.split()[0]) for line in table[1:]]
    assert starts == sorted(starts)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_that_is_frozen_moves_what_it_should(data: Path, whole: Path) -> None:
    trained = load_localizer(whole).model
    fresh = Localization(experiment.parse(_fields(data)))
    before = fresh.network.merge(*fresh.init())
    for (path, one), (_, other) in zip(
        nnx.to_flat_state(nnx.state(before)), nnx.to_flat_state(nnx.state(trained)), strict=True
    ):
        moved = bool((jnp.asarray(one[...]) != jnp.asarray(other[...])).any())
        is_norm = path[0] == "backbone" and any(str(part).startswith("norm") for part in path)
        assert moved != is_norm, path


def test_what_is_frozen_is_as_the_experiment_says() -> None:
    def trained(**freeze: object) -> set[str]:
        task = Localization(experiment.parse(fields(**freeze)))
        params, _ = task.network.abstract()
        paths = [
            [str(key.key) for key in path]
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        return {".".join(path) for path in paths if task.trains(path)}

    everything = trained(freeze__norm="statistics")
    assert everything == trained(freeze__norm="nothing")
    fixed = everything - trained()
    assert "backbone.stem.norm.scale" in fixed
    assert len(fixed) > 20
    assert all(name.startswith("backbone.") for name in fixed)
    assert not any("conv.kernel" in name for name in fixed)
    head = trained(freeze__backbone=True)
    assert head == {name for name in everything if name.startswith("head.")}


def test_the_backbone_starts_from_a_recogniser(tmp_path: Path) -> None:
    config = experiment.parse(fields()).model
    source = SqueezeTime(SqueezeTimeConfig.tiny(num_classes=7, branches="conv3x3",
                         position_grids=config.position_grids), nnx.Rngs(5))  # fmt: skip
    save_model(tmp_path / "weights", source)
    task = Localization(experiment.parse(fields(init=str(tmp_path / "weights"))))
    params, _ = task.init()
    mine = np.asarray(params["backbone"]["stem"]["conv"]["kernel"])
    assert (mine == np.asarray(source.stem.conv.kernel[...])).all()


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_losses() -> None:
    program = Path(__file__).with_name("small_localizer.py")
    # In double precision: Adam's first steps have the same size however small a gradient is, and
    # so blow up its last digits.
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, str(program), "3", "1,8"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["devices"] for each in found] == [1, 8]
    assert found[1]["losses"] == pytest.approx(found[0]["losses"], abs=1e-5)
    assert found[0]["losses"][-1] < found[0]["losses"][0]


# Batches.


def test_batches_follow_from_seed_and_step(data: Path) -> None:
    plan = experiment.parse(_fields(data))
    where = videos.places(plan.data, data.parent)
    mesh = jax.make_mesh((1,), ("data",))
    windows = videos.TrainingWindows(plan, where, mesh)
    again = videos.TrainingWindows(plan, where, mesh)
    assert windows.steps_per_epoch == again.steps_per_epoch > 2
    first, second = windows.batch(0), windows.batch(1)
    for name, values in again.batch(1).items():
        assert (values == second[name]).all()
        assert values.shape[0] == 4
    assert (first["frames"] != second["frames"]).any()
    assert ((second["segments"] >= 0) & (second["segments"] <= 32)).all()
    assert (second["classes"].max(axis=1) > 0).all()
    with windows.batches(1) as batches:
        arrays = next(batches)
    assert (np.asarray(arrays["frames"]) == second["frames"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__max_instances": 0}, "data.max_instances is 0, wanted at least 1"),
        ({"model__num_classes": 3}, "model.num_classes is 3, but the annotations name 8 classes"),
        ({"batch_size": 900}, "batch_size is 900, but there are only"),
        ({"optimizer__accumulation": 2}, "optimizer.accumulation"),
        ({"window__padding": (3, 1)}, r"window.padding is \(3, 1\), wanted 0 frames in all"),
        ({"evaluation__thresholds": (0.0,)}, r"evaluation.thresholds is \(0.0,\)"),
        ({"data__annotations": "nowhere"}, "nowhere.*not readable as a text file"),
    ],
)
def test_experiments_that_cannot_be_are_refused_in_a_line(
    data: Path, tmp_path: Path, change: dict, message: str
) -> None:
    found = _fields(data)
    for path, value in change.items():
        section, _, name = path.rpartition("__")
        (found[section] if section else found)[name] = value
    with pytest.raises(UserError, match=message) as raised:
        experiment.run_experiment(found, tmp_path / "run", Silence())
    assert "\n" not in str(raised.value)


def test_a_recogniser_is_no_localiser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "weights", SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0)))
    video = tmp_path / "v.mp4"
    assert cli.main(["localize", str(video), "--checkpoint", str(tmp_path / "weights")]) == 1
    assert f"{video}: no such file" in capsys.readouterr().err
    video.write_bytes(b"nothing")
    assert cli.main(["localize", str(video), "--checkpoint", str(tmp_path / "weights")]) == 1
    assert "holds a network for recognition, wanted one for localization" in capsys.readouterr().err


# What happens to a batch on the devices.


def _prepared(size: int = 3, **changes: object) -> tuple[dict, dict]:
    task = Localization(experiment.parse(fields(batch_size=size, **changes)))
    arrays = batch(0, size)
    arrays["frames"][:, 10:] = 0
    arrays["num_frames"][:] = 10
    return arrays, task.prepare(jax.random.key(1), {k: jnp.asarray(v) for k, v in arrays.items()})


def test_a_window_is_cropped_and_mirrored_as_a_whole() -> None:
    arrays, prepared = _prepared(size=12)
    frames = np.asarray(prepared["frames"])
    flips, corners = set(), set()
    for pixels, found in zip(arrays["frames"], frames, strict=True):
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (1, -1)
            if np.allclose(
                pixels[:, top : top + 32, left : left + 32][:, :, ::flip] / 127.5 - 1,
                found,
                atol=1e-5,
            )
        ]
        assert len(matches) == 1
        corners.add(matches[0][:2])
        flips.add(matches[0][2])
    assert flips == {1, -1}
    assert len(corners) > 6


def test_short_windows_end_black_as_in_the_reference_or_grey() -> None:
    _, prepared = _prepared()
    assert (np.asarray(prepared["frames"][:, 10:]) == -1).all()
    arrays, prepared = _prepared(window__short_padding="grey", data__flip=0.0,
                                 data__random_crop=False)  # fmt: skip
    assert (np.asarray(prepared["frames"][:, 10:]) == 0).all()
    middle = arrays["frames"][:, :10, 2:34, 2:34] / 127.5 - 1
    np.testing.assert_allclose(prepared["frames"][:, :10], middle, atol=1e-5)


def test_every_config_of_thumos14_parses() -> None:
    from squeezetime_jax.training import config

    for variant in ("thumos14", "demo"):
        parsed = experiment.parse(config.read([f"--config=thumos14:{variant}"]))
        assert isinstance(parsed, Experiment)
        assert parsed.optimizer.method == "adam"
    assert run.CONFIG == "config.json"
