"""The `squeezetime` command: one thin function per subcommand.

Rooms are imported inside the functions, so that `squeezetime --help` answers at once.
"""

import argparse
import signal
import sys
from pathlib import Path

from squeezetime_jax.command_line import Argument, Program, arg, asked, file, positive
from squeezetime_jax.errors import UserError

squeezetime = Program("squeezetime", "SqueezeTime in JAX: video recognition for phones.")
main = squeezetime.main

_CHECKPOINT = arg(
    "--checkpoint", required=True, metavar="CKPT", help="a .pth file, or our own directory"
)
_LABELS = arg(
    "--labels", metavar="FILE", help="names, one a line; or kinetics400, kinetics600, hmdb51"
)
_JSON = arg("--json", action="store_true", help="one JSON object, for programs")
_JSON_LINES = arg("--json", action="store_true", help="a JSON object a line, for programs")
_SPLIT = arg("--split", metavar="NAME", help="of shards")
_LISTED = (
    arg("--list", required=True, metavar="FILE", help="one line `relative/path label` per video"),
    arg("--root", required=True, metavar="FOLDER", help="what the list's paths are relative to"),
)
_AT_ONCE = arg("--processes", type=int, metavar="N", help="videos at once; by default one per core")


def _save(content: str, metavar: str = "PICTURE") -> Argument:
    return arg("--save", type=file, metavar=metavar, help=content)


@squeezetime.subcommand(
    "Make small videos, train on them, test, predict and write a report; minutes on a laptop.",
    "squeezetime demo",
    arg("--workdir", default="squeezetime-demo", metavar="FOLDER", help="where everything goes"),
    arg("--config", default="demo", help=argparse.SUPPRESS),
)
def _demo(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.recognition.demo import demo

    return demo(Path(args.workdir), args.fields)


@squeezetime.subcommand(
    "Convert weights between PyTorch's .pth and our checkpoint directory, in either direction.",
    "squeezetime convert released.pth weights/k400    # and back: weights/k400 mine.pth",
    arg("source", help="a .pth file, a checkpoint directory or a run's --workdir"),
    arg("target", help="a path ending in .pth, or else a new directory for our own format"),
    arg(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of entries that may be missing, unexpected or mismatched",
    ),
    arg("--num-classes", type=int, metavar="N", help="another number of classes: a new head"),
    arg("--num-frames", type=int, metavar="N", help="another number of frames: stem resampled"),
)
def _convert(args: argparse.Namespace) -> None:
    from squeezetime_jax.checkpoint.store import convert_checkpoint
    from squeezetime_jax.tasks.detection import weights

    convert = convert_checkpoint
    if weights.holds_detector(args.source):
        convert = weights.convert_checkpoint
    changes = {"num_classes": args.num_classes, "num_frames": args.num_frames}
    changes = {name: value for name, value in changes.items() if value is not None}
    print(convert(args.source, args.target, allow=args.allow, **changes))
    print(f"wrote {args.target}")


@squeezetime.subcommand(
    "Store videos as shards that load fast: shrunk, many at once, resumable.",
    "squeezetime prepare --list train.txt --root videos/ --out shards/",
    *_LISTED,
    arg("--out", required=True, metavar="FOLDER", help="where the shards go"),
    arg("--split", metavar="NAME", help="the split's name; by default the list's, without .txt"),
    arg("--classes", metavar="FILE", help="class names, one per line in the order of the labels"),
    arg("--form", choices=("video", "jpeg"), default="video", help="how videos are stored"),
    arg("--short-side", type=int, default=256, metavar="PIXELS", help="of the stored frames"),
    _AT_ONCE,
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


@squeezetime.subcommand(
    "Name every unreadable, truncated, tiny or oddly short video of a list.",
    "squeezetime check --list val.txt --root videos/",
    *_LISTED,
    _AT_ONCE,
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
    arg("--coordinator", metavar="HOST:PORT", help="of process 0; found by itself on SLURM, GKE"),
    arg("--num-processes", type=int, metavar="N", help="processes of the run, with --coordinator"),
    arg("--process-id", type=int, metavar="I", help="this process, from 0, with --coordinator"),
    arg("--distributed", action="store_true", help="find the other hosts (a TPU slice)"),
)


@squeezetime.subcommand(
    "Train as a config says, or go on with a run that was stopped.",
    "squeezetime train --config configs/k400.py --workdir runs/k400 --from in1k.pth",
    arg("--config", required=True, metavar="FILE[:VARIANT]", help="fields: --config.NAME=VALUE"),
    arg("--workdir", required=True, metavar="FOLDER", help="checkpoints, metrics, curves"),
    arg("--from", dest="init", metavar="CKPT", help="weights to start from; new head if need be"),
    *_PROCESSES,
)
def _train(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.experiment import run_experiment
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


@squeezetime.subcommand(
    "Measure what networks cost on this machine: time, memory and size, in every runtime at hand.",
    "squeezetime bench --variant width=0.5 --runtime fused openvino --save speed.png",
    arg("--counts", action="store_true", help="only count parameters and multiply-adds"),
    arg("--size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"), help="of the clips"),
    arg(
        "--variant",
        nargs="+",
        metavar="FIELD=VALUE,...",
        help="networks by depth, width, num_frames, num_classes; default: three of the paper's",
    ),
    arg("--runtime", nargs="+", metavar="NAME", help="of jit fused onnx openvino litert"),
    arg("--dtype", nargs="+", metavar="TYPE", help="of float32 bfloat16 int8; default float32"),
    arg("--seconds", type=float, default=3.0, help="spent on each measurement; default 3"),
    _JSON,
    _save("draw size and the paper's accuracy against speed"),
)
def _bench(args: argparse.Namespace) -> int:
    from squeezetime_jax.bench import benchmark
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
    from squeezetime_jax.bench.command import Request, bench

    chosen = {"variants": args.variant, "runtimes": args.runtime, "dtypes": args.dtype}
    chosen = {name: words for name, words in chosen.items() if words}
    request = Request(height=height, width=width, seconds=args.seconds, **chosen)
    return bench(request, as_json=args.json, save=args.save)


@squeezetime.subcommand(
    "Write a network for phones (LiteRT), CPUs (OpenVINO, ONNX) or any JAX device, and check it.",
    "squeezetime export k400.pth --format litert --dtype int8 --calibrate videos/",
    arg("checkpoint", metavar="CKPT", help="a .pth file, or our own directory"),
    arg(
        "--format",
        required=True,
        choices=("stablehlo", "onnx", "litert", "openvino"),
        metavar="FORMAT",
        help="stablehlo, onnx, litert (TFLite) or openvino",
    ),
    arg(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16", "int8"),
        help="what it computes in; int8 wants --calibrate",
    ),
    arg("--out", metavar="FILE", help="default: named after checkpoint and type, here"),
    arg("--size", type=positive, metavar="PIXELS", help="side of a clip; default: as tested"),
    arg("--uint8", action="store_true", help="clips enter as 0..255; normalised inside"),
    arg("--calibrate", nargs="+", default=(), metavar="VIDEO", help="files, folders, or one list"),
    arg(
        "--clips",
        dest="num_clips",
        type=positive,
        default=128,
        metavar="N",
        help="of them, at most; default 128",
    ),
    arg("--test", metavar="LIST", help="labelled videos (list, folder, shards): compare top-1"),
    arg("--root", metavar="FOLDER", help="what the lists' paths are relative to"),
    _SPLIT,
    _LABELS,
    _JSON,
)
def _export(args: argparse.Namespace) -> int:
    from squeezetime_jax.export.command import Request, export_checkpoint

    return export_checkpoint(asked(Request, args), as_json=args.json)


_VIEWS = (
    _CHECKPOINT,
    arg(
        "--views",
        default="10x3",
        metavar="CLIPSxCROPS",
        help="10x3: the paper's protocol, the default; 1x1: thirty times less work",
    ),
    arg("--size", type=positive, metavar="PIXELS", help="side of a crop; default: as tested"),
    arg("--frame-interval", type=int, metavar="N", help="0: clips over the whole video"),
)
_VIDEOS = arg(
    "videos",
    nargs="+",
    metavar="VIDEO",
    help="files, folders, patterns, or - for a list of paths on standard input",
)


@squeezetime.subcommand(
    "Measure a checkpoint's accuracy on labelled videos, each counted once on any devices.",
    "squeezetime eval --config configs/k400.py --checkpoint k400.pth --views 10x3",
    _CHECKPOINT,
    arg("--config", metavar="FILE[:VARIANT]", help="its test videos and views"),
    arg(
        "--list",
        dest="videos",
        metavar="FILE",
        help="other videos: an annotation list, a folder per class, shards",
    ),
    arg("--root", metavar="FOLDER", help="what the list's paths are relative to"),
    _SPLIT,
    arg("--views", metavar="CLIPSxCROPS", help="default: the config's; without one 10x3"),
    _LABELS,
    arg("--batch-size", type=positive, metavar="N", help="videos at once, on all devices"),
    arg("--workers", type=int, metavar="N", help="decoding processes; default: threads"),
    arg("--skip-unreadable", action="store_true", help="leave out and count unreadable videos"),
    _JSON,
    arg("--scores", type=file, metavar="FILE.npz", help="write every video's scores"),
    _save("draw the confusion matrix"),
    *_PROCESSES,
)
def _eval(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.experiment import home_of
    from squeezetime_jax.tasks.recognition.evaluate import Request, evaluate
    from squeezetime_jax.training import config, devices

    devices.connect(args.coordinator, args.num_processes, args.process_id, force=args.distributed)
    fields = config.read([f"--config={args.config}", *args.fields]) if args.config else None
    if fields is not None and (home := home_of(fields)):
        return home.evaluate(
            fields, args.checkpoint, as_json=args.json, scores=args.scores, save=args.save
        )
    request = asked(Request, args, config=fields)
    return evaluate(request, as_json=args.json, scores=args.scores, save=args.save)


@squeezetime.subcommand(
    "Say what videos show; also `camera`, `camera:1` or a stream's URL, as frames arrive.",
    "squeezetime predict clips/*.mp4 --checkpoint k400.pth --views 1x1 --save pictures\n"
    "  squeezetime predict clips/*.mp4 --checkpoint k400-float32.onnx   # exported",
    _VIDEOS,
    *_VIEWS,
    arg("--top", type=positive, default=5, metavar="K", help="classes to name; default 5"),
    _LABELS,
    _JSON_LINES,
    _save("frames, scores, frame importance; or a folder for many"),
)
def _predict(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.predict_command import Choices, predict_videos

    exported = None
    if Path(args.checkpoint).suffix in (".onnx", ".xml", ".tflite", ".stablehlo"):
        from squeezetime_jax.export.exported import open_exported

        exported = open_exported(args.checkpoint)
    return predict_videos(
        args.videos,
        asked(Choices, args),
        exported=exported,
        count=args.top,
        labels=args.labels,
        as_json=args.json,
        save=args.save,
    )


@squeezetime.subcommand(
    "Write the pooled features of videos, for a classifier of one's own.",
    "squeezetime features clips/ --checkpoint k400.pth --out features.npz",
    _VIDEOS,
    *_VIEWS,
    arg("--out", required=True, metavar="FILE.npz", help="features (videos, channels), paths"),
)
def _features(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.predict_command import Choices, write_features

    return write_features(args.videos, asked(Choices, args), Path(args.out))


@squeezetime.subcommand(
    "Say what happens when in a video: start, end and class of every segment.",
    "squeezetime localize match.mp4 --checkpoint runs/thumos14 --save timeline.png",
    arg("video", metavar="VIDEO", help="one file, of any length"),
    arg("--checkpoint", required=True, metavar="CKPT", help="a run of configs/thumos14.py"),
    arg("--top", type=positive, default=20, metavar="K", help="segments to show; default 20"),
    arg("--json", action="store_true", help="all segments, in ActivityNet's format"),
    _save("a filmstrip, and a timeline below it"),
)
def _localize(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.localization.command import localize_video

    return localize_video(
        args.video, args.checkpoint, count=args.top, as_json=args.json, save=args.save
    )


@squeezetime.subcommand(
    "Say what persons do at each second of a video, and draw it over the frames.",
    "squeezetime detect film.mp4 --checkpoint ava21.pth --boxes persons.csv --save drawn.mp4",
    arg("video", metavar="VIDEO", help="a file"),
    _CHECKPOINT,
    arg(
        "--boxes",
        default="whole",
        metavar="FILE.csv",
        help="rows video,second,x1,y1,x2,y2; or whole: the frame; or a detector, MODULE:FUNCTION",
    ),
    arg("--labels", metavar="FILE", help="list of actions; default: the checkpoint's, or AVA's"),
    arg("--begins-at", type=float, metavar="SECOND", help="which second the first frame shows"),
    arg("--score", type=float, default=0.1, metavar="P", help="least of an action; default 0.1"),
    _JSON_LINES,
    _save("an .mp4 to draw; or a folder for a picture a second", metavar="OUT"),
)
def _detect(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.detection.detect import Choices, detect_video

    return detect_video(args.video, asked(Choices, args), as_json=args.json, save=args.save)


@squeezetime.subcommand(
    "Print versions, devices, decoders and caches, and what is missing for which command.",
    "squeezetime doctor      # put this into a bug report",
)
def _doctor(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation import doctor

    lines, is_healthy = doctor.examine()
    print("\n".join(lines))
    print("all is well" if is_healthy else "lines that begin with ! need attention")
    return 0 if is_healthy else 1
