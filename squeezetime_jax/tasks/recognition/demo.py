"""`squeezetime demo`: make videos, train on them, test, predict, and write a report of one page."""

import dataclasses
import functools
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from squeezetime_jax.checkpoint.store import load
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data import transforms
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import Source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.evaluation import explain, pictures, scoring
from squeezetime_jax.evaluation.answers import top
from squeezetime_jax.evaluation.metrics import Accuracy
from squeezetime_jax.evaluation.pictures import Section, write_page
from squeezetime_jax.evaluation.views import Sampling
from squeezetime_jax.files import write_whole
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.tasks.recognition.experiment import Data, Recognition
from squeezetime_jax.tasks.recognition.scores import TestVideos, VideoScores
from squeezetime_jax.tasks.recognition.videos import open_test
from squeezetime_jax.training import config, devices, report, runner

_NUM_CLIPS = 2  # of the test with several views
_FOCUS_VIDEOS = 128  # whose temporal focus weights are averaged
_SHUFFLES = 3  # random orders that each test video is seen in
_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Results:
    """The trained network's scores of the test videos.

    Attributes:
      one_view: one view a video.
      several: several views a video.
      shuffled: one view, its frames in a random order; each video in several orders.
      reversed: one view, its frames from the last to the first.
    """

    one_view: VideoScores
    several: VideoScores
    shuffled: Accuracy
    reversed: VideoScores

    def numbers(self) -> dict[str, dict[str, float]]:
        """The accuracies of each."""
        return {
            "one_view": self.one_view.numbers(),
            "several": self.several.numbers(),
            "shuffled": self.shuffled.compute(),
            "reversed": self.reversed.numbers(),
        }

    def taken_for_partner(self) -> float:
        """Share of the reversed videos that are classified as the reversed motion."""
        partner = self.reversed.labels ^ 1  # labels 2k and 2k + 1 are each other's reversal
        return float((self.reversed.scores.argmax(axis=1) == partner).mean())


def demo(workdir: Path, changes: Sequence[str] = ()) -> int:
    """Run the demonstration, or continue with one that was interrupted.

    Args:
      workdir: where everything goes; what an earlier call wrote there is used again.
      changes: fields of the demo's config, `--config.NAME=VALUE`.

    Returns:
      The exit status.

    Raises:
      UserError: the folder holds something else.
    """
    begin = time.monotonic()
    use_compilation_cache()
    experiment: Recognition = config.parse(config.read(["--config=demo", *changes]))
    _make_videos(experiment.data, workdir / "videos")
    _say(2, "train a small network on them (a run that has ended is used as it is)")
    runner.train(experiment, workdir)
    source = open_test(experiment.data, workdir / "videos")
    assert source is not None
    model = load(workdir)
    _say(3, "test it: one view, several views, frames shuffled, frames reversed")
    results = _test(model, source, experiment)
    _say(4, "predict, look inside and write the page")
    page = _write_report(workdir, model, source, experiment, results)
    _summarise(workdir, page, results, time.monotonic() - begin)
    return 0


def _say(step: int, what: str) -> None:
    print(f"[{step}/{_STEPS}] {what}", flush=True)


def _make_videos(data: Data, folder: Path) -> None:
    arguments = dataclasses.asdict(data.motion)
    total = arguments["num_train"] + arguments["num_test"]
    existing = sum(1 for _ in folder.rglob("*.mp4"))
    found = f"; found {existing} of them made" if existing else ""
    _say(1, f"make {total} small videos whose class shows only in the motion{found}")
    if existing == total:
        motion.write_motion_dataset(folder, **arguments)
        return
    with progress_bar("making videos", total) as progress, ThreadPoolExecutor(1) as pool:
        made = pool.submit(motion.write_motion_dataset, folder, **arguments)
        shown = 0
        while not made.done() or shown < total:
            if made.done():
                made.result()
            time.sleep(0.2)
            now = sum(1 for _ in folder.rglob("*.mp4"))
            progress(now - shown)
            shown = now


def _test(model: SqueezeTime, source: Source, experiment: Recognition) -> Results:
    one_view = experiment.views()
    sampling = Sampling.of(one_view)
    several = sampling.protocol(f"{_NUM_CLIPS}x1", one_view.num_frames)
    frames = np.tile(np.arange(one_view.num_frames), (len(source), 1))
    # Different orders for each video, because some orders are close to the right one.
    rng = np.random.default_rng(0)
    shuffles = [rng.permuted(frames, axis=1) for _ in range(_SHUFFLES)]

    with progress_bar("testing", (3 + _SHUFFLES) * len(source)) as progress:

        def evaluate(protocol: ViewProtocol, orders: Any = None) -> Any:
            test = TestVideos(
                source,
                protocol,
                experiment.model.num_classes,
                batch_size=experiment.evaluation.batch_size,
                frame_orders=orders,
            )
            return scoring.score(test, model, devices.data_mesh(), progress=progress).scores

        return Results(
            one_view=evaluate(one_view),
            several=evaluate(several),
            shuffled=functools.reduce(
                Accuracy.merge, [evaluate(one_view, orders).accuracy for orders in shuffles]
            ),
            reversed=evaluate(one_view, frames[:1, ::-1].copy()),
        )


def _write_report(
    workdir: Path, model: SqueezeTime, source: Source, experiment: Recognition, results: Results
) -> Path:
    names = list(source.class_names)
    folder = workdir / "pictures"
    clips, labels = _clips(source, experiment.views())
    first = [int(np.flatnonzero(labels == k)[0]) for k in range(len(names))]
    tops = [top(results.several.scores[number], names, 3) for number in first]
    drawn = {
        "gallery": pictures.draw_gallery(clips[first], tops, list(range(len(names))), names),
        "confusion": pictures.draw_confusion(results.several.confusion(), names),
        "frame_order": pictures.draw_bars(
            {
                "in order": results.one_view.numbers()["top1"],
                "shuffled": results.shuffled.compute()["top1"],
                "reversed": results.reversed.numbers()["top1"],
            },
            "what the order of the frames is worth",
            1 / len(names),
        ),
        "focus_weights": pictures.draw_focus_weights(
            explain.focus_weights(model, clips), labels, names
        ),
    }
    files = {
        name: pictures.save_figure(figure, folder / f"{name}.png") for name, figure in drawn.items()
    }
    files["curves"] = workdir / report.CURVES
    results.several.write_page(workdir / "mistakes")
    _write_results(workdir / "results.json", results)
    return write_page(
        workdir / "report.html",
        "SqueezeTime learns motion",
        _headline(results),
        _sections(files, results, source, workdir, experiment),
    )


def _played(source: Source) -> list[tuple[str, Path]]:
    """The first test video of each class."""
    first: dict[int, tuple[str, Path]] = {}
    for record in map(source.__getitem__, range(len(source))):
        if isinstance(record.video, Path):
            first.setdefault(record.label, (source.class_names[record.label], record.video))
    return [first[label] for label in sorted(first)]


def _clips(
    source: Source, protocol: ViewProtocol
) -> tuple[UInt8[np.ndarray, "n t h w 3"], Int[np.ndarray, " n"]]:
    """The first test videos' middle clips."""
    clips, labels = [], []
    for number in range(min(_FOCUS_VIDEOS, len(source))):
        record = source[number]
        with record.open() as video:
            clips.append(transforms.views(video, protocol)[0])
        labels.append(record.label)
    return np.stack(clips), np.array(labels)


def _headline(results: Results) -> str:
    scores = results.several.numbers()
    return (
        f"{100 * scores['top1']:.1f} % of {scores['videos']:.0f} test videos recognised, of"
        f" {results.several.scores.shape[1]} kinds of motion; guessing gives"
        f" {100 / results.several.scores.shape[1]:.1f} %."
    )


def _sections(
    files: Mapping[str, Path],
    results: Results,
    source: Source,
    workdir: Path,
    experiment: Recognition,
) -> list[Section]:
    percent = {name: f"{100 * values['top1']:.2f} %" for name, values in results.numbers().items()}
    return [
        Section(
            "Test videos",
            "Any single frame of these videos looks alike in all classes: only how it changes tells"
            " them apart. Green is the right class, red a wrong one.",
            files["gallery"],
            videos=_played(source),
        ),
        Section(
            "Learning",
            f"{experiment.epochs} passes over {experiment.data.motion.num_train} videos, from"
            " scratch.",
            files["curves"],
        ),
        Section(
            "Which motion is taken for which",
            f"All test videos, {_NUM_CLIPS} views each.",
            files["confusion"],
            links=[("the mistakes, with their frames and videos", "mistakes/report.html")],
        ),
        Section(
            "It looks at time",
            "The network folds time into channels. Whether it still knows their order shows when"
            f" it gets the same frames shuffled ({percent['shuffled']} right, in {_SHUFFLES} random"
            f" orders of each video) or backwards ({percent['reversed']} right; for"
            f" {100 * results.taken_for_partner():.1f} % of the videos it then names the opposite"
            " motion).",
            files["frame_order"],
            rows=[
                ("top-1, one view", percent["one_view"]),
                (f"top-1, {_NUM_CLIPS} views", percent["several"]),
                ("top-1, frames shuffled", percent["shuffled"]),
                ("top-1, frames reversed", percent["reversed"]),
            ],
        ),
        Section(
            "Temporal focus",
            "The network keeps moments in channels, and each of its modules decides for every video"
            " how much each channel counts. A panel is a stage, a row a class of videos, a column a"
            " channel: yellow counts fully, dark blue not at all. If the network did not adapt to"
            " what moves, all rows of a panel would look alike. Shown are the channels that differ"
            " most between the classes, in the last block of each stage.",
            files["focus_weights"],
        ),
        Section("What to type next", commands=_next_commands(workdir)),
        Section("Made with", rows=_environment()),
    ]


def _next_commands(workdir: Path) -> list[str]:
    folder = shlex.quote(str(workdir))
    return [
        f"squeezetime predict {folder}/videos/test/growing --checkpoint {folder} --save pictures",
        f"squeezetime eval --config demo --checkpoint {folder}",
        "squeezetime predict YOUR.mp4 --checkpoint RELEASED.pth",
        "squeezetime train --config finetune --workdir runs/mine --from RELEASED.pth"
        " --config.data.train=YOUR_VIDEOS",
    ]


def _environment() -> list[tuple[str, str]]:
    found = report.environment()
    kind, count = found["devices"]["kind"], found["devices"]["count"]
    rows = [(name, version) for name, version in found["versions"].items()]
    return [("device", f"{count} x {kind}"), ("cores", str(found["cores"])), *rows]


def _write_results(path: Path, results: Results) -> None:
    numbers = results.numbers()
    numbers["reversed"]["taken_for_partner"] = results.taken_for_partner()
    write_whole(path, json.dumps(numbers, indent=1) + "\n")


def _summarise(workdir: Path, page: Path, results: Results, seconds: float) -> None:
    print(f"\n{_headline(results)}")
    print(f"done in {report.duration(seconds)}; open {page}\n\nnext, for example:")
    for command in _next_commands(workdir):
        print(f"  {command}")
