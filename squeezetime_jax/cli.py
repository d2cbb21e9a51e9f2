"""The `squeezetime` command: one thin function per subcommand.

Rooms are imported inside the functions, so that `squeezetime --help` answers at once.
"""

import argparse
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from squeezetime_jax.command_line import Argument, arg, build, main, number, subcommand
from squeezetime_jax.errors import UserError, count
from squeezetime_jax.export import FORMATS

__all__ = ["main"]

_POSITIVE = number(int, 1)
# One name for one thing: what several subcommands take is declared here.
_CHECKPOINT_HELP = "a .pth file, a checkpoint directory or a run's --workdir"
_CHECKPOINT = arg("--checkpoint CKPT", _CHECKPOINT_HELP, required=True)
_LABELS = arg("--labels FILE", "class names, one a line; or kinetics400, kinetics600, hmdb51")
_JSON = arg("--json", "print one JSON object, for programs")
_JSON_LINES = arg("--json", "print one JSON object a line, for programs")
_SPLIT = arg("--split NAME", "split of shards, such as val or train[:10%%]")
_ROOT = arg("--root FOLDER", "folder that the list's paths are relative to")
_WORKERS = arg("--workers N", "decoding processes; default: one per core", type=_POSITIVE)


def _save(content: str, metavar: str = "PICTURE") -> Argument:
    return arg(f"--save {metavar}", content, type=Path)


@subcommand(
    "Train and test a small network on generated videos.",
    "squeezetime demo",
    arg("--workdir FOLDER", "folder of the results", default="squeezetime-demo"),
    arg("--config", argparse.SUPPRESS, default="demo"),
)
def _demo(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.recognition.demo import demo

    return demo(Path(args.workdir), args.fields)


@subcommand(
    "Convert weights from and to PyTorch's .pth files.",
    "squeezetime convert released.pth weights/k400    # and back: weights/k400 mine.pth",
    arg("source SOURCE", _CHECKPOINT_HELP),
    arg("target TARGET", "a file ending in .pth, or a new checkpoint directory"),
    arg(
        "--allow PATTERN",
        "regular expression of entries that may not fit",
        action="append",
        default=[],
    ),
    arg("--network NAME", "the network, if the weights fit several"),
    arg("--num-classes N", "new head with N classes", type=_POSITIVE),
    arg("--num-frames N", "resample the stem for N frames", type=_POSITIVE),
)
def _convert(args: argparse.Namespace) -> None:
    from squeezetime_jax.checkpoint.store import convert_checkpoint
    from squeezetime_jax.tasks.detection import detector

    convert = convert_checkpoint
    if detector.holds_detector(args.source):
        convert = detector.convert_checkpoint
    options = {
        "name": args.network,
        "num_classes": args.num_classes,
        "num_frames": args.num_frames,
    }
    changes = {name: value for name, value in options.items() if value is not None}
    print(convert(args.source, args.target, allow=args.allow, **changes))
    print(f"wrote {args.target}")


@subcommand(
    "Store labelled videos as shards, which load faster.",
    "squeezetime prepare train.txt --root videos/ --out shards/",
    arg("videos VIDEOS", "a list, a folder of class folders, or shards"),
    _ROOT,
    arg("--out FOLDER", "folder of the shards", required=True),
    arg("--split NAME", "name of the split; default: the list's, without its ending"),
    arg("--labels FILE", "class names, one a line in the order of the labels"),
    arg("--form", "encoding", choices=("video", "jpeg"), default="video"),
    arg("--short-side PIXELS", "shorter side of the stored frames", type=_POSITIVE, default=256),
    arg("--max-pixels N", "largest frame; default: 9437184, as in 4K", type=_POSITIVE),
    _WORKERS,
)
def _prepare(args: argparse.Namespace) -> int:
    from squeezetime_jax.data import prepare, sources, workers
    from squeezetime_jax.data.packets import MAX_PIXELS

    place = {"root": args.root, "split": args.split, "label_map": args.labels}
    source = sources.open_source(args.videos, **place)
    if source.class_names and (names := prepare.classes_of(Path(args.out))):
        source = sources.match(source, names, place=args.videos, owner=f"the shards in {args.out}")
    job = prepare.Job.of(
        source,
        out=Path(args.out),
        split=(args.split or Path(args.videos).resolve().stem).split("[")[0],
        form=args.form,
        short_side=args.short_side,
        max_pixels=args.max_pixels or MAX_PIXELS,
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
    arg("videos VIDEOS", "a list, a folder of class folders, or shards"),
    _ROOT,
    _SPLIT,
    _WORKERS,
    arg("--good FILE", "write a list of the others; with class names if it ends in .csv"),
)
def _check(args: argparse.Namespace) -> int:
    from squeezetime_jax.data import lists, prepare, sources, workers

    source = sources.open_source(args.videos, root=args.root, split=args.split)
    if args.good and not isinstance(source, sources.FileSource):
        raise UserError(f"--good {args.good}: lists name files; shards contain their videos")
    with workers.progress_bar("checking", len(source)) as progress:
        bad = prepare.check(source, args.workers, progress)
    for name, reason in bad:
        print(f"{name}: {reason}")
    print(f"{count(len(source), 'video')}, {len(bad) or 'none'} with problems")
    if args.good and isinstance(source, sources.FileSource):
        left_out = {name for name, _ in bad}
        good = [listed for listed in source.videos if listed[0] not in left_out]
        lists.write_list(Path(args.good), good, source.class_names)
        print(f"wrote {args.good}: {count(len(good), 'video')}, relative to {source.root}")
    return 1 if bad else 0


_HOSTS = (  # JAX calls them processes; --workers are the decoding processes of one host
    arg("--coordinator ADDRESS", "HOST:PORT of host 0; not needed on SLURM and GKE"),
    arg("--num-hosts N", "with --coordinator: all hosts", type=_POSITIVE),
    arg("--host-id I", "with --coordinator: this host, from 0", type=number(int, 0)),
    arg("--distributed", "find the other hosts of a TPU slice"),
)


def _together(args: argparse.Namespace) -> AbstractContextManager[None]:
    from squeezetime_jax import hosts

    given = args.coordinator, args.num_hosts, args.host_id
    return hosts.together(f"squeezetime {args.command}", *given, force=args.distributed)


@subcommand(
    "Train as a config says, or continue a run that was stopped.",
    "squeezetime train --config configs/k400.py --workdir runs/k400 --from in1k.pth",
    arg("--config FILE[:VARIANT]", "experiment; fields: --config.NAME=VALUE", required=True),
    arg("--workdir FOLDER", "folder of checkpoints, metrics and curves", required=True),
    arg("--from CKPT", "weights to start from", dest="init"),
    arg("--print-config", "print all fields of the run, and stop"),
    *_HOSTS,
)
def _train(args: argparse.Namespace) -> int:
    from squeezetime_jax.training import config, loop, runner
    from squeezetime_jax.training.experiment import as_lines

    with _together(args):
        init = []
        if args.init:
            path = args.init if "://" in args.init else Path(args.init).absolute()
            init = [f"--config.init={path}"]
        fields = config.read([f"--config={args.config}", *args.fields, *init])
        if args.print_config:
            print(as_lines(runner.open_task(fields, Path(args.workdir)).experiment))
            return 0
        try:
            runner.train(fields, Path(args.workdir))
        except loop.Preempted as stopped:
            print(f"squeezetime train: {stopped}", file=sys.stderr)
            return 128 + stopped.signal
        return 0


@subcommand("List the configs that come with the package.", "squeezetime configs")
def _configs(args: argparse.Namespace) -> None:
    from squeezetime_jax.training import config

    for name, path in config.shipped_configs().items():
        print(name, *config.describe(path).splitlines(), sep="\n    ")


@subcommand(
    "Measure time, memory and size of networks on this machine.",
    "squeezetime bench --network squeezetime:width=0.5 tsm_r18 --runtime jit --save speed.png",
    arg("--counts", "only count SqueezeTime's parameters and operations"),
    arg(
        "--network NAME[:FIELD=VALUE,...]",
        "of the register; all; paper: Tables 6, 7; default: SqueezeTime, half as wide, 4 frames",
        nargs="+",
    ),
    arg("--runtime NAME", f"any of jit fused {' '.join(FORMATS)}", nargs="+"),
    arg("--dtype TYPE", "any of float32 float16 bfloat16 int8", nargs="+"),
    arg(
        "--size",
        "height and width of the clips; default: as published, 224 224 for SqueezeTime",
        type=_POSITIVE,
        nargs=2,
        metavar=("H", "W"),
    ),
    arg(
        "--seconds SECONDS",
        "time spent on each measurement",
        type=number(float, 0.01),
        default=3.0,
    ),
    arg("--max-batch N", "largest batch of the throughput; default: 16 on CPUs", type=_POSITIVE),
    arg("--torch SCRIPT", "Python file whose build(network, clip) makes PyTorch modules"),
    arg("--results FILE", "JSON written after each network; what it has is kept", type=Path),
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
    options = {"seconds": args.seconds, "max_batch": args.max_batch, "torch": args.torch or ""}
    request = Request(size=size, **options, **chosen)
    return bench(request, results=args.results, as_json=args.json, save=args.save)


@subcommand(
    "Compile a run for TPUs that need not be here.",
    "squeezetime compile --config configs/k400.py --topology v5e:4x4",
    arg("--config FILE[:VARIANT]", "experiment; fields: --config.NAME=VALUE", required=True),
    arg(
        "--topology CHIP:SHAPE",
        "a TPU slice, such as v5e:16x16, v6e:2x4 or v5p:4x4x4; default: this machine's devices",
    ),
    arg("--slices N", "with --topology: number of such slices", type=_POSITIVE, default=1),
    arg("--chips-per-host SHAPE", "with --topology: chips of a host, such as 2x4"),
    _JSON,
)
def _compile(args: argparse.Namespace) -> int:
    from squeezetime_jax.bench import chips
    from squeezetime_jax.bench.compile import compile_run
    from squeezetime_jax.training import config

    row = chips.open_devices(args.topology, args.slices, args.chips_per_host)
    fields = config.read([f"--config={args.config}", *args.fields])
    return compile_run(fields, row, as_json=args.json)


@subcommand(
    "Export a network to LiteRT, ONNX, OpenVINO or StableHLO.",
    "squeezetime export k400.pth --format litert --dtype int8 --calibrate videos/",
    arg("checkpoint CKPT", _CHECKPOINT_HELP),
    arg("--format FORMAT", f"one of {', '.join(FORMATS)}", required=True),
    arg("--dtype TYPE", "type of the arithmetic; int8 requires --calibrate", default="float32"),
    arg("--out FILE", "default: named after checkpoint and dtype, in this folder"),
    arg("--size PIXELS", "side of a clip; default: the checkpoint's", type=_POSITIVE),
    arg("--uint8", "input of 0..255, normalised inside the network"),
    arg("--calibrate VIDEO", "files, folders or a list, for int8", nargs="+", default=()),
    arg(
        "--clips N",
        "number of clips to calibrate with",
        dest="num_clips",
        type=_POSITIVE,
        default=128,
    ),
    arg("--videos VIDEOS", "labelled videos, as in eval: compare top-1"),
    _ROOT,
    _SPLIT,
    _LABELS,
    _JSON,
)
def _export(args: argparse.Namespace) -> int:
    from squeezetime_jax.export.command import Request, export_checkpoint

    return export_checkpoint(build(Request, args), as_json=args.json)


def _refuse_exported(checkpoint: str, reason: str) -> None:
    from squeezetime_jax.export import formats

    if formats.of_file(checkpoint):
        raise UserError(f"{checkpoint}: an exported file; {reason}; give the checkpoint")


_VIEWS = (
    _CHECKPOINT,
    arg(
        "--views CLIPSxCROPS",
        "default: the network's published test, SqueezeTime's is 10x3; 1x1 is the fastest",
    ),
    arg("--size PIXELS", "crop side; default: the checkpoint's", type=_POSITIVE),
    arg(
        "--frame-interval N",
        "between a clip's frames; 0: over the whole video; default: the checkpoint's",
        type=number(int, 0),
    ),
    arg(
        "--fps RATE",
        "take clips in time, at this rate; 0: count frames; default: the checkpoint's",
        type=number(float, 0, 1000),
    ),
)
_VIDEOS = arg(
    "videos VIDEO",
    "files, folders, patterns, - (paths on standard input), camera, camera:1 or a URL",
    nargs="+",
)


@subcommand(
    "Measure the accuracy of a checkpoint on labelled videos.",
    "squeezetime eval --config configs/k400.py --checkpoint k400.pth --views 10x3",
    _CHECKPOINT,
    arg("--config FILE[:VARIANT]", "test videos and views of this config"),
    arg("--videos VIDEOS", "an annotation list, a folder of class folders, or shards"),
    _ROOT,
    _SPLIT,
    arg("--views CLIPSxCROPS", "default: the config's, or the published test's"),
    _LABELS,
    arg("--batch-size N", "videos in a batch, on all devices", type=_POSITIVE),
    arg("--workers N", "decoding processes; default: threads", type=number(int, 0)),
    arg("--skip-unreadable", "leave out unreadable videos, and count them"),
    _JSON,
    arg("--scores FILE.npz", "write the scores of every video", type=Path),
    _save("a folder: write a page on what went wrong; a picture: the confusion", metavar="PATH"),
    *_HOSTS,
)
def _eval(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.recognition.choices import Choices
    from squeezetime_jax.training import config, runner

    _refuse_exported(args.checkpoint, "`squeezetime export CKPT --videos` measures its accuracy")
    choices, checkpoint = build(Choices, args), args.checkpoint

    def complete(fields: Any) -> None:
        if fields.task == "recognition":
            choices.set_views(fields, checkpoint, has_config=given is not None)

    with _together(args):
        given = config.read([f"--config={args.config}", *args.fields]) if args.config else None
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


_MANY = (
    arg(
        "--every STEP",
        "windows at this step: seconds such as 0.5, or frames such as 8f",
    ),
    arg("--workers N", "decoding processes; default: for many videos", type=number(int, 0)),
    arg("--shard I/N", "only the I-th of N shares of the videos; auto: by SLURM or MPI"),
)


@subcommand(
    "Name the actions in videos, or live from a camera.",
    "squeezetime predict clips/*.mp4 --checkpoint k400.pth --views 1x1 --save pictures\n"
    "  squeezetime predict clips/*.mp4 --checkpoint k400-float32.onnx   # exported",
    _VIDEOS,
    *_VIEWS,
    *_MANY,
    arg("--top K", "number of classes to print", dest="count", type=_POSITIVE, default=5),
    _LABELS,
    _JSON_LINES,
    arg("--out FILE.jsonl", "append a line per video here; the same command continues", type=Path),
    _save("picture; with --every a .json, .csv, .png, .mp4; a folder for several", "OUT"),
)
def _predict(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.predict import Choices, Request, predict_videos
    from squeezetime_jax.export import formats
    from squeezetime_jax.export.runtime import open_exported

    exported = open_exported(args.checkpoint) if formats.of_file(args.checkpoint) else None
    return predict_videos(
        args.videos,
        build(Choices, args),
        build(Request, args, as_json=args.json),
        exported,
    )


@subcommand(
    "Write the pooled features of videos.",
    "squeezetime features clips/ --checkpoint k400.pth --out features.npz",
    _VIDEOS,
    *_VIEWS,
    *_MANY,
    arg(
        "--out OUT",
        "an .npz of all; or a folder: a .npy (time, channels) per video, resumable",
        type=Path,
        required=True,
    ),
)
def _features(args: argparse.Namespace) -> int:
    from squeezetime_jax.evaluation.features import Request, write_features
    from squeezetime_jax.evaluation.predict import Choices

    _refuse_exported(args.checkpoint, "exported files give no features")
    return write_features(args.videos, build(Choices, args), build(Request, args))


@subcommand(
    "Find when which action happens in a long video.",
    "squeezetime localize match.mp4 --checkpoint runs/thumos14 --save timeline.png",
    arg("video VIDEO", "a video file of any length"),
    arg("--checkpoint CKPT", "a run of configs/thumos14.py", required=True),
    arg("--top K", "number of segments to print", type=_POSITIVE, default=20),
    arg("--json", "print all segments in ActivityNet's format"),
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
    arg("video VIDEO", "a video file"),
    _CHECKPOINT,
    arg(
        "--boxes FILE.csv",
        "rows video,second,x1,y1,x2,y2; or `whole` frames; or a detector MODULE:FUNCTION",
        default="whole",
    ),
    arg("--labels FILE", "list of actions; default: the checkpoint's, or AVA's"),
    arg("--begins-at SECOND", "time of the first frame", type=float),
    arg(
        "--score P",
        "lowest probability of an action to report",
        type=number(float, 0, 1),
        default=0.1,
    ),
    _JSON_LINES,
    _save("draw an .mp4; or a folder with a picture for each second", metavar="OUT"),
)
def _detect(args: argparse.Namespace) -> int:
    from squeezetime_jax.tasks.detection.detect import Choices, detect_video

    return detect_video(args.video, build(Choices, args), as_json=args.json, save=args.save)


_SCORED = (
    arg("--ground-truth FILE", "annotations, in the format of the data set", required=True),
    arg("--detections FILE", "detections, as `eval --scores` writes them", required=True),
)


@subcommand(
    "Compute the frame mAP of detections (AVA).",
    "squeezetime frame-map --ground-truth gt.csv --detections found.csv --labels list.pbtxt",
    *_SCORED,
    arg("--labels FILE", "list of the actions that are scored", required=True),
    arg("--exclude FILE", "csv file of frames that are not scored"),
    arg(
        "--protocol",
        "arithmetic of mmaction2 or of ActivityNet",
        choices=("mmaction2", "official"),
        default="mmaction2",
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
    *_SCORED,
    arg("--subset NAME", "subset of the ground truth", default="test"),
    arg("--tiou T,T,...", "overlaps of a correct detection", default="0.3,0.4,0.5,0.6,0.7"),
    _JSON,
)
def _temporal_map(args: argparse.Namespace) -> None:
    from squeezetime_jax.tasks.localization.metric import score_files

    files = args.ground_truth, args.detections
    score_files(*files, subset=args.subset, thresholds=args.tiou, as_json=args.json)


@subcommand(
    "Store AVA's annotated seconds as shards.",
    "squeezetime ava-shards --config ava21 --split train --out shards",
    arg("--config FILE", "its data; fields: --config.NAME=VALUE", required=True),
    arg("--split", "the same --out for both", required=True, choices=("train", "test")),
    arg("--out FOLDER", "folder of the shards", required=True, type=Path),
    arg(
        "--short-side PIXELS",
        "largest shorter side of the stored frames",
        type=_POSITIVE,
        default=360,
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
    arg("source SOURCE", "a pickle; it is read as data, nothing in it is run"),
    arg("target TARGET", "a file ending in .npz or .parquet"),
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
