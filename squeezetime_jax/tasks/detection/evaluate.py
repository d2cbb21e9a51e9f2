"""Frame mAP of anybody's csv files.

    python -m squeezetime_jax.tasks.detection.evaluate --ground-truth gt.csv --detections pred.csv \
        --labels list.pbtxt [--exclude ex.csv] [--protocol official] [--json]

All files are in AVA's formats; see `annotations`.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence

from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection.annotations import (
    read_actions,
    read_detections,
    read_excluded,
    read_ground_truth,
)
from squeezetime_jax.tasks.detection.metric import PROTOCOLS, FrameMap, frame_map


def main(argv: Sequence[str] | None = None) -> int:
    """Score a csv file of detections.

    Returns:
      The exit status: 0, or 1 for a failure told in one line on standard error.
    """
    args = _parser().parse_args(argv)
    try:
        actions = read_actions(args.labels)
        truth = read_ground_truth(args.ground_truth)
        found = read_detections(args.detections)
        excluded = read_excluded(args.exclude) if args.exclude else set()
    except UserError as error:
        print(f"detection.evaluate: {error}", file=sys.stderr)
        return 1
    for path, rows in ((args.ground_truth, truth), (args.detections, found)):
        others = sum(action not in actions for action in rows.action.tolist())
        if others:
            print(f"{path}: {others} rows of actions that are not listed left out", file=sys.stderr)
    result = frame_map(truth, found, actions, excluded=excluded, protocol=args.protocol)
    print(json.dumps(result.to_json()) if args.json else table(result))
    return 0


def table(result: FrameMap) -> str:
    """The result for people: a line an action, the groups, the mean."""
    lines = ["     AP   boxes  found  action"]
    for action, name in result.actions.items():
        ap = percent(result.average_precision[action])
        counts = f"{result.num_ground_truth[action]:7} {result.num_detections[action]:6}"
        lines.append(f"{ap:>7} {counts}  {name}")
    lines += [f"{percent(value):>7}  {name}" for name, value in result.groups().items()]
    lines.append(f"{percent(result.overall):>7}  frame mAP at IoU 0.5 ({result.protocol})")
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share in percent, a dash for NaN."""
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m squeezetime_jax.tasks.detection.evaluate",
        description="Frame mAP at IoU 0.5 of detections in AVA's csv format.",
    )
    parser.add_argument("--ground-truth", required=True, metavar="FILE.csv")
    parser.add_argument("--detections", required=True, metavar="FILE.csv")
    parser.add_argument("--labels", required=True, metavar="FILE.pbtxt", help="actions that count")
    parser.add_argument("--exclude", metavar="FILE.csv", help="frames that do not count")
    parser.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
