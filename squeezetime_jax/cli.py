"""The `squeezetime` command: one thin function per subcommand.

Rooms are imported inside the functions, so that `squeezetime --help` answers at once.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezetime_jax.errors import UserError

if TYPE_CHECKING:
    from squeezetime_jax.evaluation.predict_command import Choices

Run = Callable[[argparse.Namespace], int | None]
_SUBCOMMANDS: dict[
    str, tuple[str, str, tuple[tuple[tuple[str, ...], dict[str, Any]], ...], Run]
] = {}


def _arg(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _subcommand(
    summary: str, example: str, *arguments: tuple[tuple[str, ...], dict[str, Any]]
) -> Callable[[Run], Run]:
    """Register the function below as the subcommand of its name."""

    def register(run: Run) -> Run:
        _SUBCOMMANDS[run.__name__.strip("_")] = (summary, example, arguments, run)
        return run

    return register


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1")
    return int(word)


def _usage(name: str, arguments: Sequence[tuple[tuple[str, ...], dict[str, Any]]]) -> str:
    """One line: what has to be given, and that there is more, which is listed below it."""
    words = []
    for names, options in arguments:
        metavar = options.get("metavar", names[0])
        if not names[0].startswith("-"):
            words.append(f"{metavar}..." if options.get("nargs") == "+" else metavar)
        elif options.get("required"):
            flag = "" if options.get("action") == "store_true" else f" {metavar}"
            words.append(f"{names[0]}{flag}")
    return " ".join(["squeezetime", name, *words, "[options]"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="squeezetime", description="SqueezeTime in JAX: video recognition for phones."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (summary, example, arguments, run) in _SUBCOMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            usage=_usage(name, arguments),
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for names, options in arguments:
            sub.add_argument(*names, **options)
        sub.set_defaults(run=run)
    return parser


@_subcommand(
    "Make small videos, train on them, test, predict and write a report; minutes on a laptop.",
    "squeezetime demo",
    _arg("--workdir", default="squeezetime-demo", metavar="FOLDER", help="where everything goes"),
    _arg("--config", default="demo", help=argparse.SUPPRESS),
)
def _demo(args: argparse.Namespace) -> int:
    from squeezetime_jax.demo import demo

    return demo(Path(args.workdir), args.fields)


@_subcommand(
    "Convert weights between PyTorch's .pth and our checkpoint directory, in either direction.",
    "squeezetime convert released.pth weights/k400    # and back: weights/k400 mine.pth",
    _arg("source", help="a .pth file, a checkpoint directory or a run's --workdir"),
    _arg("target", help="a path ending in .pth, or else a new directory for our own format"),
    _arg(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of entries that may be missing, unexpected or mismatched",
    ),
    _arg("--num-classes", type=int, metavar="N", help="another number of classes: a new head"),
    _arg("--num-frames", type=int, metavar="N", help="another number of frames: stem resampled"),
)
def _convert(args: argparse.Namespace) -> None:
    from squeezetime_jax.checkpoint.store import convert_checkpoint
    from squeezetime_jax.detection import weights

    convert = convert_checkpoint
    if weights.holds_detector(args.source):
        convert = weights.convert_checkpoint
    changes = {"num_classes": args.num_classes, "num_frames": args.num_frames}
    changes = {name: value for name, value in changes.items() if value is not None}
    print(convert(args.source, args.target, allow=args.allow, **changes))
    print(f"wrote {args.target}")


@_subcommand(
    "Store videos as shards that load fast: shrunk, many at once, resumable.",
    "squeezetime prepare --list train.txt --root videos/ --out shards/",
    _arg("--list", required=True, metavar="FILE", help="one line `relative/path label` per video"),
    _arg("--root", required=True, metavar="FOLDER", help="what the list's paths are relative to"),
    _arg("--out", required=True, metavar="FOLDER", help="where the shards go"),
    _arg("--split", metavar="NAME", help="the split's name; by default the list's, without .txt"),
    _arg("--classes", metavar="FILE", help="class names, one per line in the order of the labels"),
    _arg("--form", choices=("video", "jpeg"), default="video", help="how videos are stored"),
    _arg("--short-side", type=int, default=256, metavar="PIXELS", help="of the stored frames"),
    _arg("--processes", type=int, metavar="N", help="videos at once; by default one per core"),
)
def _prepare(args: argparse.Namespace) -> int:
    from squeezetime_jax.data import annotations, prepare, workers

    job = prepare.Job(
        videos=annotations.read_list(args.list),
        root=Path(args.root),
        out=Path(args.out),
        split=args.split or Path(args.list).stem,
        form=args.form,
        short_side=args.short_side,
        class_names=annotations.read_class_names(args.classes) if args.classes else (),
    )
    with workers.progress_bar("preparing", len(job.videos)) as progress:
        report = prepare.prepare(job, args.processes, progress)
    for name, reason in report.bad:
        print(f"{name}: {reason}")
    size = f"{report.num_bytes / 1e6:.1f} MB"
    print(f"{report.num_videos} videos, {size} in {args.out}; {len(report.bad)} bad")
    return 1 if report.bad else 0


@_subcommand(
    "Name every unreadable, truncated, tiny or oddly short video of a list.",
    "squeezetime check --list val.txt --root videos/",
    _arg("--list", required=True, metavar="FILE", help="one line `relative/path label` per video"),
    _arg("--root", required=True, metavar="FOLDER", help="what the list's paths are relative to"),
    _arg("--processes", type=int, metavar="N", help="videos at once; by default one per core"),
)
def _check(args: argparse.Namespace) -> int:
    from squeezetime_jax.data import annotations, check, workers

    paths = [path for path, _ in annotations.read_list(args.list)]
    with workers.progress_bar("checking", len(paths)) as progress:
        odd = check.check(paths, Path(args.root), args.processes, progress)
    for path, reason in odd:
        print(f"{path}: {reason}")
    print(f"{len(paths)} videos, {len(odd)} odd")
    return 1 if odd else 0


_PROCESSES = (
    _arg("--coordinator", metavar="HOST:PORT", help="of process 0; found by itself on SLURM, GKE"),
    _arg("--num-processes", type=int, metavar="N", help="processes of the run, with --coordinator"),
    _arg("--process-id", type=int, metavar="I", help="this process, from 0, with --coordinator"),
    _arg("--distributed", action="store_true", help="find the other hosts (a TPU slice)"),
)


@_subcommand(
    "Train as a config says, or go on with a run that was stopped.",
    "squeezetime train --config configs/k400.py --workdir runs/k400 --from in1k.pth",
    _arg("--config", required=True, metavar="FILE[:VARIANT]", help="fields: --config.NAME=VALUE"),
    _arg("--workdir", required=True, metavar="FOLDER", help="checkpoints, metrics, curves"),
    _arg("--from", dest="init", metavar="CKPT", help="weights to start from; new head if need be"),
    *_PROCESSES,
)
def _train(args: argparse.Namespace) -> int:
    from squeezetime_jax.experiment import run_experiment
    from squeezetime_jax.training import config, devices, loop

    devices.connect(args.coordinator, args.num_processes, args.process_id, force=args.distributed)
    fields = config.read([f"--config={args.config}", *args.fields])
    if args.init:
        fields.init = str(Path(args.init).absolute())
    try:
        run_experiment(fields, Path(args.workdir))
    except loop.Preempted as stopped:
        print(f"squeezetime train: {stopped}", file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0


@_subcommand(
    "Measure what networks cost on this machine: time, memory and size, in every runtime at hand.",
    "squeezetime bench --variant width=0.5 --runtime fused openvino --save speed.png",
    _arg("--counts", action="store_true", help="only count parameters and multiply-adds"),
    _arg("--size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"), help="of the clips"),
    _arg(
        "--variant",
        nargs="+",
        metavar="FIELD=VALUE,...",
        help="networks by depth, width, num_frames, num_classes; default: three of the paper's",
    ),
    _arg("--runtime", nargs="+", metavar="NAME", help="of jit fused onnx openvino litert"),
    _arg("--dtype", nargs="+", metavar="TYPE", help="of float32 bfloat16 int8; default float32"),
    _arg("--seconds", type=float, default=3.0, help="spent on each measurement; default 3"),
    _arg("--json", action="store_true", help="one JSON object, for programs"),
    _arg("--save", metavar="PICTURE", help="draw size and the paper's accuracy against speed"),
)
def _bench(args: argparse.Namespace) -> int:
    from squeezetime_jax.deploy import benchmark
    from squeezetime_jax.model.squeezetime import MIN_SIDE

    height, width = args.size
    if min(height, width) < MIN_SIDE:
        raise UserError(f"--size {height} {width}: at least {MIN_SIDE} pixels a side")
    if args.counts:
        from rich.console import Console

        console = Console()
        console.width = max(console.width, 120)  # piped output is not cut at 80 columns
        console.print(benchmark.counts_table(height, width))
        return 0
    from squeezetime_jax.deploy.benchmark_command import Request, bench

    chosen = {"variants": args.variant, "runtimes": args.runtime, "dtypes": args.dtype}
    chosen = {name: words for name, words in chosen.items() if words}
    request = Request(height=height, width=width, seconds=args.seconds, **chosen)
    return bench(request, as_json=args.json, save=Path(args.save) if args.save else None)


@_subcommand(
    "Write a network for phones (LiteRT), CPUs (OpenVINO, ONNX) or any JAX device, and check it.",
    "squeezetime export k400.pth --format litert --dtype int8 --calibrate videos/",
    _arg("checkpoint", metavar="CKPT", help="a .pth file, or our own directory"),
    _arg(
        "--format",
        required=True,
        choices=("stablehlo", "onnx", "litert", "openvino"),
        metavar="FORMAT",
        help="stablehlo, onnx, litert (TFLite) or openvino",
    ),
    _arg(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16", "int8"),
        help="what it computes in; int8 wants --calibrate",
    ),
    _arg("--out", metavar="FILE", help="default: named after checkpoint and type, here"),
    _arg("--size", type=_positive, metavar="PIXELS", help="side of a clip; default: as tested"),
    _arg("--uint8", action="store_true", help="clips enter as 0..255; normalised inside"),
    _arg("--calibrate", nargs="+", default=(), metavar="VIDEO", help="files, folders, or one list"),
    _arg("--clips", type=_positive, default=128, metavar="N", help="of them, at most; default 128"),
    _arg("--test", metavar="LIST", help="labelled videos (list, folder, shards): compare top-1"),
    _arg("--root", metavar="FOLDER", help="what the lists' paths are relative to"),
    _arg("--split", metavar="NAME", help="of shards"),
    _arg("--labels", metavar="FILE", help="names, one a line; or kinetics400, kinetics600, hmdb51"),
    _arg("--json", action="store_true", help="one JSON object, for programs"),
)
def _export(args: argparse.Namespace) -> int:
    from squeezetime_jax.deploy.export_command import Request, export_checkpoint

    request = Request(
        checkpoint=args.checkpoint,
        format=args.format,
        dtype=args.dtype,
        out=args.out,
        size=args.size,
        uint8=args.uint8,
        calibrate=args.calibrate,
        num_clips=args.clips,
        test=args.test,
        root=args.root,
        split=args.split,
        labels=args.labels,
    )
    return export_checkpoint(request, as_json=args.json)


_VIEWS = (
    _arg("--checkpoint", required=True, metavar="CKPT", help="a .pth file, or our own directory"),
    _arg(
        "--views",
        default="10x3",
        metavar="CLIPSxCROPS",
        help="10x3: the paper's protocol, the default; 1x1: thirty times less work",
    ),
    _arg("--size", type=_positive, metavar="PIXELS", help="side of a crop; default: as tested"),
    _arg("--frame-interval", type=int, metavar="N", help="0: clips over the whole video"),
)
_VIDEOS = _arg(
    "videos",
    nargs="+",
    metavar="VIDEO",
    help="files, folders, patterns, or - for a list of paths on standard input",
)


def _choices(args: argparse.Namespace) -> "Choices":
    from squeezetime_jax.evaluation.predict_command import Choices

    return Choices(
        checkpoint=args.checkpoint,
        views=args.views,
        size=args.size,
        frame_interval=args.frame_interval,
    )


@_subcommand(
    "Measure a checkpoint's accuracy on labelled videos, each counted once on any devices.",
    "squeezetime eval --config configs/k400.py --checkpoint k400.pth --views 10x3",
    _arg("--checkpoint", required=True, metavar="CKPT", help="a .pth file, or our own directory"),
    _arg("--config", metavar="FILE[:VARIANT]", help="its test videos and views"),
    _arg(
        "--list",
        metavar="FILE",
        help="other videos: an annotation list, a folder per class, shards",
    ),
    _arg("--root", metavar="FOLDER", help="what the list's paths are relative to"),
    _arg("--split", metavar="NAME", help="of shards"),
    _arg("--views", metavar="CLIPSxCROPS", help="default: the config's; without one 10x3"),
    _arg("--labels", metavar="FILE", help="names, one a line; or kinetics400, kinetics600, hmdb51"),
    _arg("--batch-size", type=_positive, metavar="N", help="videos at once, on all devices"),
    _arg("--workers", type=int, metavar="N", help="decoding processes; default: threads"),
    _arg("--skip-unreadable", action="store_true", help="leave out and count unreadable videos"),
    _arg("--json", action="store_true", help="one JSON object, for programs"),
    _arg("--scores", metavar="FILE.npz", help="write every video's scores"),
    _arg("--save", metavar="PICTURE", help="draw the confusion matrix"),
    *_PROCESSES,
)
def _eval(args: argparse.Namespace) -> int:
    from squeezetime_jax.eval import Request, evaluate
    from squeezetime_jax.experiment import home_of
    from squeezetime_jax.training import config, devices

    devices.connect(args.coordinator, args.num_processes, args.process_id, force=args.distributed)
    fields = config.read([f"--config={args.config}", *args.fields]) if args.config else None
    scores, save = (Path(path) if path else None for path in (args.scores, args.save))
    if fields is not None and (home := home_of(fields)):
        return home.evaluate(fields, args.checkpoint, as_json=args.json, scores=scores, save=save)
    request = Request(
        checkpoint=args.checkpoint,
        config=fields,
        videos=args.list,
        root=args.root,
        split=args.split,
        labels=args.labels,
        views=args.views,
        batch_size=args.batch_size,
        workers=args.workers,
        skip_unreadable=args.skip_unreadable,
    )
    return evaluate(request, as_json=args.json, scores=scores, save=save)


@_subcommand(
    "Say what videos show; also `camera`, `camera:1` or a stream's URL, as frames arrive.",
    "squeezetime predict clips/*.mp4 --checkpoint k400.pth --views 1x1 --save pictures\n"
    "  squeezetime predict clips/*.mp4 --checkpoint k400-float32.onnx   # exported",
    _VIDEOS,
    *_VIEWS,
    _arg("--top", type=_positive, default=5, metavar="K", help="classes to name; default 5"),
    _arg("--labels", metavar="FILE", help="names, one a line; or kinetics400, kinetics600, hmdb51"),
    _arg("--json", action="store_true", help="a JSON object a line, for programs"),
    _arg(
        "--save", metavar="PICTURE", help="frames, scores, frame importance; or a folder for many"
    ),
)
def _predict(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.predict_command import predict_videos

    exported = None
    if Path(args.checkpoint).suffix in (".onnx", ".xml", ".tflite", ".stablehlo"):
        from squeezetime_jax.deploy.exported import open_exported

        exported = open_exported(args.checkpoint)
    return predict_videos(
        args.videos,
        _choices(args),
        exported=exported,
        count=args.top,
        labels=args.labels,
        as_json=args.json,
        save=Path(args.save) if args.save else None,
    )


@_subcommand(
    "Write the pooled features of videos, for a classifier of one's own.",
    "squeezetime features clips/ --checkpoint k400.pth --out features.npz",
    _VIDEOS,
    *_VIEWS,
    _arg("--out", required=True, metavar="FILE.npz", help="features (videos, channels), paths"),
)
def _features(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.predict_command import write_features

    return write_features(args.videos, _choices(args), Path(args.out))


@_subcommand(
    "Say what happens when in a video: start, end and class of every segment.",
    "squeezetime localize match.mp4 --checkpoint runs/thumos14 --save timeline.png",
    _arg("video", metavar="VIDEO", help="one file, of any length"),
    _arg("--checkpoint", required=True, metavar="CKPT", help="a run of configs/thumos14.py"),
    _arg("--top", type=_positive, default=20, metavar="K", help="segments to show; default 20"),
    _arg("--json", action="store_true", help="all segments, in ActivityNet's format"),
    _arg("--save", metavar="PICTURE", help="a filmstrip, and a timeline below it"),
)
def _localize(args: argparse.Namespace) -> int:
    from squeezetime_jax.localization.command import localize_video

    return localize_video(
        args.video,
        args.checkpoint,
        count=args.top,
        as_json=args.json,
        save=Path(args.save) if args.save else None,
    )


@_subcommand(
    "Say what persons do at each second of a video, and draw it over the frames.",
    "squeezetime detect film.mp4 --checkpoint ava21.pth --boxes persons.csv --save drawn.mp4",
    _arg("video", metavar="VIDEO", help="a file"),
    _arg("--checkpoint", required=True, metavar="CKPT", help="a .pth file, or our own directory"),
    _arg(
        "--boxes",
        default="whole",
        metavar="FILE.csv",
        help="rows video,second,x1,y1,x2,y2; or whole: the frame; or a detector, MODULE:FUNCTION",
    ),
    _arg("--labels", metavar="FILE", help="list of actions; default: the checkpoint's, or AVA's"),
    _arg("--begins-at", type=float, metavar="SECOND", help="which second the first frame shows"),
    _arg("--score", type=float, default=0.1, metavar="P", help="least of an action; default 0.1"),
    _arg("--json", action="store_true", help="a JSON object a line, for programs"),
    _arg("--save", metavar="OUT", help="an .mp4 to draw; or a folder for a picture a second"),
)
def _detect(args: argparse.Namespace) -> int:
    from squeezetime_jax.detection.detect import Choices, detect_video

    choices = Choices(
        checkpoint=args.checkpoint,
        boxes=args.boxes,
        labels=args.labels,
        begins_at=args.begins_at,
        score=args.score,
    )
    save = Path(args.save) if args.save else None
    return detect_video(args.video, choices, as_json=args.json, save=save)


@_subcommand(
    "Print versions, devices, decoders and caches, and what is missing for which command.",
    "squeezetime doctor      # put this into a bug report",
)
def _doctor(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation import doctor

    lines, is_healthy = doctor.examine()
    print("\n".join(lines))
    print("all is well" if is_healthy else "lines that begin with ! need attention")
    return 0 if is_healthy else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
      The exit status: 0, or 1 for a failure told in one line on standard error.

    Raises:
      SystemExit: with status 2, for a command line that is not understood; with 0 after `--help`.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    args.fields = [word for word in rest if "config" in args and word.startswith("--config.")]
    unknown = [word for word in rest if word not in args.fields]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"squeezetime {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"squeezetime {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `squeezetime ... | head`: the reader has left, nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
