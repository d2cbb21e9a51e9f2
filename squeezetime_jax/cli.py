"""The `squeezetime` command: one thin function per subcommand.

Rooms are imported inside the functions, so that `squeezetime --help` answers at once.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from squeezetime_jax.command_line import Argument, arg, build, main, number, subcommand
from squeezetime_jax.errors import count
from squeezetime_jax.export import FORMATS

__all__ = ["main"]

# One name for one thing: what several subcommands take is declared here.
_CHECKPOINT_HELP = "a .pth file, a checkpoint directory or a run's --workdir"
_CHECKPOINT = arg("--checkpoint", required=True, metavar="CKPT", help=_CHECKPOINT_HELP)
_LABELS = arg(
    "--labels", metavar="FILE", help="class names, one a line; or kinetics400, kinetics600, hmdb51"
)
_JSON = arg("--json", action="store_true", help="print one JSON object, for programs")
_JSON_LINES = arg("--json", action="store_true", help="print one JSON object a line, for programs")
_SPLIT = arg("--split", metavar="NAME", help="split of shards, such as val or train[:10%%]")
_ROOT = arg("--root", metavar="FOLDER", help="folder that the list's paths are relative to")
_WORKERS = arg(
    "--workers", type=number(int, 1), metavar="N", help="decoding processes; default: one per core"
)


def _save(content: str, metavar: str = "PICTURE") -> Argument:
    return arg("--save", type=Path, metavar=metavar, help=content)


@subcommand(
    "Train and test a small network on generated videos.",
    "squeezetime demo",
    arg("--workdir", default="squeezetime-demo", metavar="FOLDER", help="folder of the results"),
    arg("--config", default="demo", help=argparse.SUPPRESS),
)
def _demo(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.recognition.demo import demo

    return demo(Path(args.workdir), args.fields)


@subcommand(
    "Convert weights from and to PyTorch's .pth files.",
    "squeezetime convert released.pth weights/k400    # and back: weights/k400 mine.pth",
    arg("source", metavar="SOURCE", help=_CHECKPOINT_HELP),
    arg("target", metavar="TARGET", help="a file ending in .pth, or a new checkpoint directory"),
    arg(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression: entries that may be missing, unexpected or mismatched",
    ),
    arg("--num-classes", type=number(int, 1), metavar="N", help="new head with N classes"),
    arg("--num-frames", type=number(int, 1), metavar="N", help="resample the stem for N frames"),
)
def _convert(args: argparse.Namespace) -> None:
    from squeezetime_jax.checkpoint.store import convert_checkpoint
    from squeezetime_jax.tasks.detection import detector

    convert = convert_checkpoint
    if detector.holds_detector(args.source):
        convert = detector.convert_checkpoint
    changes = {"num_classes": args.num_classes, "num_frames": args.num_frames}
    changes = {name: value for name, value in changes.items() if value is not None}
    print(convert(args.source, args.target, allow=args.allow, **changes))
    print(f"wrote {args.target}")


_LISTED = arg("videos", metavar="VIDEOS", help="list of `path label`, or a folder of class folders")


@subcommand(
    "Store labelled videos as shards, which load faster.",
    "squeezetime prepare train.txt --root videos/ --out shards/",
    _LISTED,
    _ROOT,
    arg("--out", required=True, metavar="FOLDER", help="folder of the shards"),
    arg("--split", metavar="NAME", help="name of the split; default: the list's, without .txt"),
    arg("--labels", metavar="FILE", help="class names, one a line in the order of the labels"),
    arg("--form", choices=("video", "jpeg"), default="video", help="encoding; default video"),
    arg(
        "--short-side",
        type=number(int, 1),
        default=256,
        metavar="PIXELS",
        help="shorter side of the stored frames; default 256",
    ),
    _WORKERS,
)
def _prepare(args: argparse.Namespace) -> int:
    from squeezetime_jax.data import prepare, sources, workers

    source = sources.open_files(args.videos, root=args.root, label_map=args.labels)
    job = prepare.Job(
        videos=source.videos,
        root=source.root,
        out=Path(args.out),
        split=args.split or Path(args.videos).resolve().stem,
        form=args.form,
        short_side=args.short_side,
        class_names=source.class_names,
    )
    with workers.progress_bar("preparing", len(source)) as progress:
        report = prepare.prepare(job, args.workers, progress)
    for name, reason in report.bad:
        print(f"{name}: {reason}")
    left_out = f"; {count(len(report.bad), 'video')} left out" if report.bad else ""
    stored = count(report.num_videos, "video")
    print(f"{stored}, {report.num_bytes / 1e6:.1f} MB in {args.out}{left_out}")
    return 1 if report.bad else 0


@subcommand(
    "List the unreadable, tiny and short videos of a data set.",
    "squeezetime check val.txt --root videos/",
    arg("videos", metavar="VIDEOS", help="a list, a folder of class folders, or shards"),
    _ROOT,
    _SPLIT,
    _WORKERS,
)
def _check(args: argparse.Namespace) -> int:
    from squeezetime_jax.data import prepare, sources, workers

    source = sources.open_source(args.videos, root=args.root, split=args.split)
    with workers.progress_bar("checking", len(source)) as progress:
        bad = prepare.check(source, args.workers, progress)
    for name, reason in bad:
        print(f"{name}: {reason}")
    print(f"{count(len(source), 'video')}, {len(bad) or 'none'} with problems")
    return 1 if bad else 0


_HOSTS = (  # JAX calls them processes; --workers are the decoding processes of one host
    arg(
        "--coordinator", metavar="ADDRESS", help="HOST:PORT of host 0; not needed on SLURM and GKE"
    ),
    arg("--num-hosts", type=number(int, 1), metavar="N", help="with --coordinator: all hosts"),
    arg(
        "--host-id", type=number(int, 0), metavar="I", help="with --coordinator: this host, from 0"
    ),
    arg("--distributed", action="store_true", help="find the other hosts of a TPU slice"),
)


@subcommand(
    "Train as a config says, or continue a run that was stopped.",
    "squeezetime train --config configs/k400.py --workdir runs/k400 --from in1k.pth",
    arg(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="experiment; fields: --config.NAME=VALUE",
    ),
    arg(
        "--workdir",
        required=True,
        metavar="FOLDER",
        help="folder of checkpoints, metrics and curves",
    ),
    arg("--from", dest="init", metavar="CKPT", help="weights to start from"),
    arg("--print-config", action="store_true", help="print all fields of the run, and stop"),
    *_HOSTS,
)
def _train(args: argparse.Namespace) -> int:
    from squeezetime_jax.training import config, devices, loop, runner
    from squeezetime_jax.training.experiment import as_lines

    devices.connect(args.coordinator, args.num_hosts, args.host_id, force=args.distributed)
    fields = config.read([f"--config={args.config}", *args.fields])
    if args.init:
        fields.init = str(Path(args.init).absolute())
    if args.print_config:
        print(as_lines(runner.open_task(fields, Path(args.workdir)).experiment))
        return 0
    try:
        runner.train(fields, Path(args.workdir))
    except loop.Preempted as stopped:
        print(f"squeezetime train: {stopped}", file=sys.stderr)
        return 128 + signal.SIGTERM
    return 0


@subcommand(
    "List the configs that come with the package.",
    "squeezetime configs",
)
def _configs(args: argparse.Namespace) -> None:
    from squeezetime_jax.training import config

    for name, path in config.shipped_configs().items():
        print(name, *config.describe(path).splitlines(), sep="\n    ")


@subcommand(
    "Measure time, memory and size of networks on this machine.",
    "squeezetime bench --network squeezetime:width=0.5 tsm_r18 --runtime jit --save speed.png",
    arg("--counts", action="store_true", help="only count SqueezeTime's parameters and operations"),
    arg(
        "--network",
        nargs="+",
        metavar="NAME[:FIELD=VALUE,...]",
        help="networks of the register, or all; default: SqueezeTime, half as wide, with 4 frames",
    ),
    arg("--runtime", nargs="+", metavar="NAME", help=f"any of jit fused {' '.join(FORMATS)}"),
    arg("--dtype", nargs="+", metavar="TYPE", help="any of float32 float16 bfloat16 int8"),
    arg(
        "--size",
        type=number(int, 1),
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the clips; default: as published, 224 224 for SqueezeTime",
    ),
    arg(
        "--seconds",
        type=number(float, 0.01),
        default=3.0,
        metavar="SECONDS",
        help="time spent on each measurement; default 3",
    ),
    _JSON,
    _save("draw the time of a clip by network and runtime"),
)
def _bench(args: argparse.Namespace) -> int:
    from squeezetime_jax.bench.command import Request, bench, print_counts

    size = tuple(args.size) if args.size else None
    if args.counts:
        return print_counts(*(size or (224, 224)))
    chosen = {"networks": args.network, "runtimes": args.runtime, "dtypes": args.dtype}
    chosen = {name: words for name, words in chosen.items() if words}
    request = Request(size=size, seconds=args.seconds, **chosen)
    return bench(request, as_json=args.json, save=args.save)


@subcommand(
    "Export a network to LiteRT, ONNX, OpenVINO or StableHLO.",
    "squeezetime export k400.pth --format litert --dtype int8 --calibrate videos/",
    arg("checkpoint", metavar="CKPT", help=_CHECKPOINT_HELP),
    arg("--format", required=True, metavar="FORMAT", help=f"one of {', '.join(FORMATS)}"),
    arg(
        "--dtype",
        default="float32",
        metavar="TYPE",
        help="type of the arithmetic; int8 requires --calibrate; default float32",
    ),
    arg("--out", metavar="FILE", help="default: named after checkpoint and dtype, in this folder"),
    arg(
        "--size",
        type=number(int, 1),
        metavar="PIXELS",
        help="height and width of a clip; default: the checkpoint's",
    ),
    arg("--uint8", action="store_true", help="input of 0..255, normalised inside the network"),
    arg(
        "--calibrate",
        nargs="+",
        default=(),
        metavar="VIDEO",
        help="files, folders or a list, for int8",
    ),
    arg(
        "--clips",
        dest="num_clips",
        type=number(int, 1),
        default=128,
        metavar="N",
        help="number of clips to calibrate with; default 128",
    ),
    arg("--videos", metavar="VIDEOS", help="labelled videos, as in eval: compare top-1"),
    _ROOT,
    _SPLIT,
    _LABELS,
    _JSON,
)
def _export(args: argparse.Namespace) -> int:
    from squeezetime_jax.export.command import Request, export_checkpoint

    return export_checkpoint(build(Request, args), as_json=args.json)


_VIEWS = (
    _CHECKPOINT,
    arg(
        "--views",
        default="10x3",
        metavar="CLIPSxCROPS",
        help="10x3, the default: the paper's protocol; 1x1: thirty times faster",
    ),
    arg(
        "--size", type=number(int, 1), metavar="PIXELS", help="crop side; default: the checkpoint's"
    ),
    arg(
        "--frame-interval",
        type=number(int, 0),
        metavar="N",
        help="distance of a clip's frames; 0: over the whole video; default: the checkpoint's",
    ),
)
_VIDEOS = arg(
    "videos",
    nargs="+",
    metavar="VIDEO",
    help="files, folders, patterns, - (paths on standard input), camera, camera:1 or a URL",
)


@subcommand(
    "Measure the accuracy of a checkpoint on labelled videos.",
    "squeezetime eval --config configs/k400.py --checkpoint k400.pth --views 10x3",
    _CHECKPOINT,
    arg("--config", metavar="FILE[:VARIANT]", help="test videos and views of this config"),
    arg(
        "--videos",
        metavar="VIDEOS",
        help="an annotation list, a folder of class folders, or shards",
    ),
    _ROOT,
    _SPLIT,
    arg("--views", metavar="CLIPSxCROPS", help="default: the config's, or 10x3"),
    _LABELS,
    arg("--batch-size", type=number(int, 1), metavar="N", help="videos in a batch, on all devices"),
    arg("--workers", type=number(int, 0), metavar="N", help="decoding processes; default: threads"),
    arg(
        "--skip-unreadable", action="store_true", help="leave out unreadable videos, and count them"
    ),
    _JSON,
    arg("--scores", type=Path, metavar="FILE.npz", help="write the scores of every video"),
    _save("draw the confusion matrix"),
    *_HOSTS,
)
def _eval(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.recognition.choices import Choices
    from squeezetime_jax.training import config, devices, runner

    devices.connect(args.coordinator, args.num_hosts, args.host_id, force=args.distributed)
    choices, checkpoint = build(Choices, args), args.checkpoint
    given = config.read([f"--config={args.config}", *args.fields]) if args.config else None

    def complete(fields: Any) -> None:
        if fields.task == "recognition":
            choices.set_views(fields, checkpoint, has_config=given is not None)

    runner.evaluate(
        choices.fields(given),
        checkpoint,
        complete=complete,
        batch_size=args.batch_size,
        skip_unreadable=args.skip_unreadable,
        as_json=args.json,
        scores=args.scores,
        save=args.save,
    )
    return 0


@subcommand(
    "Name the actions in videos, or live from a camera.",
    "squeezetime predict clips/*.mp4 --checkpoint k400.pth --views 1x1 --save pictures\n"
    "  squeezetime predict clips/*.mp4 --checkpoint k400-float32.onnx   # exported",
    _VIDEOS,
    *_VIEWS,
    arg(
        "--top",
        type=number(int, 1),
        default=5,
        metavar="K",
        help="number of classes to print; default 5",
    ),
    _LABELS,
    _JSON_LINES,
    _save("draw frames, scores, frame importance; a folder for several videos"),
)
def _predict(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.predict import Choices, predict_videos
    from squeezetime_jax.export import formats
    from squeezetime_jax.export.runtime import open_exported

    exported = open_exported(args.checkpoint) if formats.of_file(args.checkpoint) else None
    return predict_videos(
        args.videos,
        build(Choices, args),
        exported=exported,
        count=args.top,
        labels=args.labels,
        as_json=args.json,
        save=args.save,
    )


@subcommand(
    "Write the pooled features of videos.",
    "squeezetime features clips/ --checkpoint k400.pth --out features.npz",
    _VIDEOS,
    *_VIEWS,
    arg(
        "--out",
        required=True,
        metavar="FILE.npz",
        help="arrays `features` (videos, channels) and `paths`",
    ),
)
def _features(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.predict import Choices, write_features

    return write_features(args.videos, build(Choices, args), Path(args.out))


@subcommand(
    "Find when which action happens in a long video.",
    "squeezetime localize match.mp4 --checkpoint runs/thumos14 --save timeline.png",
    arg("video", metavar="VIDEO", help="a video file of any length"),
    arg("--checkpoint", required=True, metavar="CKPT", help="a run of configs/thumos14.py"),
    arg(
        "--top",
        type=number(int, 1),
        default=20,
        metavar="K",
        help="number of segments to print; default 20",
    ),
    arg("--json", action="store_true", help="print all segments in ActivityNet's format"),
    _save("draw a timeline below a filmstrip"),
)
def _localize(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.localization.localize import localize_video

    return localize_video(
        args.video, args.checkpoint, count=args.top, as_json=args.json, save=args.save
    )


@subcommand(
    "Name the actions of each person, second by second.",
    "squeezetime detect film.mp4 --checkpoint ava21.pth --boxes persons.csv --save drawn.mp4",
    arg("video", metavar="VIDEO", help="a video file"),
    _CHECKPOINT,
    arg(
        "--boxes",
        default="whole",
        metavar="FILE.csv",
        help="rows video,second,x1,y1,x2,y2; or `whole` frames; or a detector MODULE:FUNCTION",
    ),
    arg("--labels", metavar="FILE", help="list of actions; default: the checkpoint's, or AVA's"),
    arg("--begins-at", type=float, metavar="SECOND", help="time of the first frame"),
    arg(
        "--score",
        type=number(float, 0, 1),
        default=0.1,
        metavar="P",
        help="lowest probability of an action to report; default 0.1",
    ),
    _JSON_LINES,
    _save("draw an .mp4; or a folder with a picture for each second", metavar="OUT"),
)
def _detect(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.detection.detect import Choices, detect_video

    return detect_video(args.video, build(Choices, args), as_json=args.json, save=args.save)


_GROUND_TRUTH, _DETECTIONS = (
    arg(name, required=True, metavar="FILE", help=content)
    for name, content in (
        ("--ground-truth", "annotations, in the format of the data set"),
        ("--detections", "detections, as `squeezetime eval --scores` writes them"),
    )
)


@subcommand(
    "Compute the frame mAP of detections (AVA).",
    "squeezetime frame-map --ground-truth gt.csv --detections found.csv --labels list.pbtxt",
    _GROUND_TRUTH,
    _DETECTIONS,
    arg("--labels", required=True, metavar="FILE", help="list of the actions that are scored"),
    arg("--exclude", metavar="FILE", help="csv file of frames that are not scored"),
    arg(
        "--protocol",
        choices=("mmaction2", "official"),
        default="mmaction2",
        help="arithmetic of mmaction2, the default, or of ActivityNet",
    ),
    _JSON,
)
def _frame_map(args: argparse.Namespace) -> None:
    from squeezetime_jax.tasks.detection.metric import score_files

    files = args.ground_truth, args.detections, args.labels
    score_files(*files, exclude=args.exclude, protocol=args.protocol, as_json=args.json)


@subcommand(
    "Compute the mAP of temporal detections (THUMOS14).",
    "squeezetime temporal-map --ground-truth gt.json --detections found.json --subset test",
    _GROUND_TRUTH,
    _DETECTIONS,
    arg("--subset", default="test", metavar="NAME", help="of the ground truth; default test"),
    arg(
        "--tiou",
        default="0.3,0.4,0.5,0.6,0.7",
        metavar="T,T,...",
        help="least overlaps of a correct detection; default 0.3,0.4,0.5,0.6,0.7",
    ),
    _JSON,
)
def _temporal_map(args: argparse.Namespace) -> None:
    from squeezetime_jax.tasks.localization.metric import score_files

    files = args.ground_truth, args.detections
    score_files(*files, subset=args.subset, thresholds=args.tiou, as_json=args.json)


@subcommand(
    "Store AVA's annotated seconds as shards.",
    "squeezetime ava-shards --config ava21 --split train --out shards",
    arg("--config", required=True, metavar="FILE", help="its data; fields: --config.NAME=VALUE"),
    arg("--split", required=True, choices=("train", "test"), help="the same --out for both"),
    arg("--out", required=True, type=Path, metavar="FOLDER", help="folder of the shards"),
    arg(
        "--short-side",
        type=number(int, 1),
        default=360,
        metavar="PIXELS",
        help="largest shorter side of the stored frames; default 360",
    ),
    _WORKERS,
)
def _ava_shards(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.detection.dataset import prepare
    from squeezetime_jax.training import config

    experiment = config.parse(config.read([f"--config={args.config}", *args.fields]))
    size = {"short_side": args.short_side, "processes": args.workers}
    report = prepare(experiment, args.split, args.out, **size)
    for name, reason in report.bad:
        print(f"{name}: {reason}")
    megabytes = report.num_bytes / 1e6
    print(f"seconds: {report.num_videos}, {megabytes:.1f} MB in {args.out}; bad: {len(report.bad)}")
    return 1 if report.bad else 0


@subcommand(
    "Convert AVA's person proposals to npz or parquet.",
    "squeezetime ava-proposals ava_dense_proposals_val.FAIR.recall_93.9.pkl val.npz",
    arg("source", metavar="SOURCE", help="a pickle; it is read as data, nothing in it is run"),
    arg("target", metavar="TARGET", help="a file ending in .npz or .parquet"),
)
def _ava_proposals(args: argparse.Namespace) -> None:
    from squeezetime_jax.tasks.detection.proposals import read_proposals, write_proposals

    proposals = read_proposals(args.source)
    write_proposals(args.target, proposals)
    print(f"wrote {args.target}: {len(proposals)} frames")


@subcommand(
    "Print versions, devices and problems of this installation.",
    "squeezetime doctor      # put this into a bug report",
)
def _doctor(args: argparse.Namespace) -> int:
    from squeezetime_jax.bench import doctor

    lines, is_healthy = doctor.examine()
    print("\n".join(lines))
    print("no problem found" if is_healthy else "the lines that begin with ! are problems")
    return 0 if is_healthy else 1
