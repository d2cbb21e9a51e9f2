"""One host of several; `test_hosts` starts them. Prints what it finds, as JSON.

python tests/host.py FOLDER agree|fail|die
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax

from squeezetime_jax import hosts
from squeezetime_jax.errors import UserError

hosts.BEAT, hosts.LIMIT, hosts._VISIBLE_WITHIN = 0.2, 4.0, 0.5


def message(check: Callable[[], object]) -> str:
    """The error's message, or nothing."""
    try:
        check()
    except UserError as error:
        return str(error)
    return ""


def agree(folder: Path, me: int) -> dict[str, object]:
    """What the functions give of which every host has to call the same."""
    made = folder / "made.txt"
    hosts.first_host_makes(lambda: made.write_text(str(me)), "a file")
    lines = ["a = 1", f"b = {me}"]
    return {
        "gathered": hosts.gather({"host": me, "text": "é" * me}),
        "made": made.read_text(),
        "same": message(lambda: hosts.agree("config", lines[:1], "start again")),
        "other": message(lambda: hosts.agree("config", lines, "start again")),
        "longer": message(lambda: hosts.agree("config", lines[: 1 + me], "start again")),
        "shared": message(lambda: hosts.check_shared(folder, "--workdir")),
        "unshared": message(lambda: hosts.check_shared(folder / str(me), "--workdir")),
    }


def main(folder: str, what: str) -> None:
    with hosts.together("host"):
        me = jax.process_index()
        print(json.dumps(agree(Path(folder), me)), flush=True)
        if me == 1 and what == "fail":
            raise UserError("videos.txt: not found")
        if me == 1 and what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what != "agree":
            time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
