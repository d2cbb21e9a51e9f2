"""Score anybody's detections.

python -m squeezetime_jax.tasks.localization.evaluate --ground-truth gt.json --detections out.json
"""

import argparse
import json
import sys
from collections.abc import Sequence

from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization.metric import (
    THUMOS14_THRESHOLDS,
    Scores,
    mean_average_precision,
)
from squeezetime_jax.tasks.localization.results import read_detections, read_ground_truth


def table(scores: Scores) -> str:
    """Per cent by class and threshold, the mean in the last line."""
    width = max(len(name) for name in ("average precision, %", *scores.classes))
    head = [f"{t:g}" for t in scores.thresholds]
    rows = [*zip(scores.classes, scores.average_precision, strict=True)]
    rows.append(("mean", scores.per_threshold))
    lines = [("average precision, %", [*head, "average"])]
    for name, row in rows:
        values = [*row, row.mean()]
        lines.append((name, [f"{100 * value:.2f}" for value in values]))
    return "\n".join(
        f"{name:{width}}" + "".join(f"{word:>9}" for word in words) for name, words in lines
    )


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Overlaps from words such as "0.3,0.5".

    Raises:
      UserError: something is no number in (0, 1], or comes twice.
    """
    words = text.split(",")
    try:
        thresholds = tuple(float(word) for word in words)
    except ValueError:
        thresholds = ()
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise UserError(f"tiou: found {text!r}; wanted numbers above 0 and up to 1, as in 0.3,0.5")
    if len(set(thresholds)) < len(thresholds):
        raise UserError(f"tiou: found {text!r}; wanted each threshold once")
    return thresholds


def main(argv: Sequence[str] | None = None) -> int:
    """Read both files and print the scores.

    Returns:
      The exit status: 0, or 1 for a failure told in one line on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m squeezetime_jax.tasks.localization.evaluate",
        description="Mean average precision of temporal detections, files in ActivityNet's format.",
    )
    parser.add_argument("--ground-truth", required=True, metavar="FILE.json")
    parser.add_argument("--detections", required=True, metavar="FILE.json")
    parser.add_argument("--subset", default="test", metavar="NAME", help="default: test")
    parser.add_argument(
        "--tiou",
        default=",".join(map(str, THUMOS14_THRESHOLDS)),
        metavar="T,T,...",
        help="overlaps from which a detection counts; default %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    args = parser.parse_args(argv)
    try:
        thresholds = parse_thresholds(args.tiou)
        truth, videos = read_ground_truth(args.ground_truth, args.subset)
        detections = read_detections(args.detections)
        if not truth.videos:
            raise UserError(f"{args.ground_truth}: the subset {args.subset!r} has no instance")
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    scores = mean_average_precision(truth, detections, videos, thresholds)
    if args.json:
        print(json.dumps(scores.to_json()))
        return 0
    foreign = sum(video not in videos for video in detections.videos)
    print(table(scores))
    print(
        f"{len(detections.videos)} detections of {len(truth.videos)} instances in {len(videos)}"
        f" videos" + (f"; {foreign} detections of other videos left out" if foreign else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
