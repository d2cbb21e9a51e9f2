import csv
import fcntl
import importlib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fill_table
import launch
import pytest
import render
import report
import runs
import sweep
import tables
from conftest import EXPERIMENTS
from runs import Run
from tables import Choices, Row, Table

from squeezetime_jax.errors import UserError

ABLATIONS = ["table1_branches", "table2_ioi", "table3_tfc", "table4_frames", "table5_width"]
ALL = [table.name for table in report.all_tables()]


def table(name: str) -> Table:
    return importlib.import_module(name).TABLE


def write_result(run: Run, folder: Path, **found: Any) -> None:
    path = run.result_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"when": "2026-01-01T00:00:00", "machine": "M", "version": "0"}
    path.write_text(json.dumps({**made, **found}))


def fill(filled: Table, choices: Choices, values: dict[str, list[float]]) -> None:
    for row in filled.rows:
        for seed, value in enumerate(values.get(row.name, [])):
            run = filled.run(row, choices, seed)
            write_result(run, choices.workdir / choices.scale, scores={"top1": value})


def test_there_is_a_script_for_every_table_and_figure() -> None:
    numbers = [re.findall(r"\d+", name) for name in ALL]
    assert [int(n) for found in numbers[:-1] for n in found if int(n) < 12] == [
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    ]  # fmt: skip
    assert ALL[-1] == "figure1_speed"


# Where our count and the paper's rounding differ: parameters of IOI alone (27.43 without and 27.64
# with the position encodings), multiply-adds of two widths (1.84 and 8.04).
OFF = {
    ("IOI branch", "parameters"), ("with focus and position encoding", "parameters"),
    ("width 0.5", "multiply-adds"), ("width 1.25", "multiply-adds"),
}  # fmt: skip


@pytest.mark.parametrize("name", ABLATIONS)
def test_costs_are_those_that_the_paper_prints(name: str, tmp_path: Path) -> None:
    heads, lines = render.heads_and_cells(
        table(name), Choices(scale="paper", workdir=tmp_path / "none")
    )
    for column in ("parameters", "multiply-adds"):
        place = heads.index(column)
        for cells in lines:
            counted, printed = cells[place], cells[place + 1]
            if printed and (cells[0], column) not in OFF:
                assert counted == printed, cells[0]
            elif printed:
                gap = float(counted.split()[0]) - float(printed.split()[0])
                assert abs(gap) == pytest.approx(0.1), cells[0]


def test_tables_share_their_runs() -> None:
    every = [run for name in ABLATIONS for run in table(name).all_runs(Choices(seeds=3))]
    # 4 + 3 + 2 + 4 + 4 rows; the whole network stands in three tables, two branches in two.
    assert len(every) == 51
    assert len(runs.ordered(every)) == 39


def test_what_a_run_starts_from_comes_first() -> None:
    chain = runs.ordered(table("table9_hmdb51").all_runs(Choices(scale="paper", seeds=2)))
    assert [run.name for run in chain] == [
        "imagenet1k/as_it_is/seed0",
        "k400-paper/as_it_is/seed0",
        "hmdb51-paper/as_it_is/seed0",
        "hmdb51-paper/as_it_is/seed1",
    ]
    given = table("table9_hmdb51").all_runs(Choices(scale="paper", start="k400.pth"))
    assert [run.start for run in runs.ordered(given)] == ["k400.pth"]
    assert [run.name for run in given] == ["hmdb51-paper/as_it_is/seed0-from-k400"]


@pytest.mark.parametrize("name", ALL)
def test_the_plan_of_a_table_is_what_the_launcher_takes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scale=paper", "--dry-run", f"--workdir={tmp_path}"]
    assert fill_table.main(table(name), None, words) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    trained = [shlex.split(line) for line in lines if "squeezetime_jax.train" in line]
    assert trained
    assert all(launch.workdir_of(words[3:]).startswith(str(tmp_path)) for words in trained)
    assert re.search(r"# together about [\d.]+ device-hours .* [\d.]+ GB", printed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ("processes --num-processes 2", "--num-hosts=2"),
        ("slurm --nodes 2", "#SBATCH --nodes=2"),
        ("tpu pod --zone z", "gcloud"),
        ("xpk job --cluster c --tpu-type v5 --docker-image i", "xpk"),
    ],
)
def test_runs_go_where_the_launcher_goes(
    place: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scale=paper", "--dry-run", f"--workdir={tmp_path}", f"--devices={place}"]
    assert fill_table.main(table("table3_tfc"), None, words) == 0
    assert capsys.readouterr().out.count(word) >= 4  # two networks, each pre-trained


def test_weights_are_evaluated_and_nothing_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scale=paper", "--dry-run", f"--workdir={tmp_path}", "--weights=K600.pth"]
    assert fill_table.main(table("table8_kinetics600"), None, words) == 0
    printed = capsys.readouterr().out
    assert "squeezetime_jax.train" not in printed
    assert "--checkpoint=K600.pth --json --views=10x3" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices=moon"], "--devices 'moon': wanted one of local"),
        (["--weights=a.pth"], "--weights: only for a table of one network"),
        (["--", "data.train=x"], "data.train=x: after the two dashes"),
        (["--dry-run", "--", "--config.nothing=1"], "no field nothing"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill_table.main(table("table1_branches"), None, [f"--workdir={tmp_path}", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_difference_has_the_standard_error_of_two_means() -> None:
    gain, error = render.difference([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert gain == 4.0
    assert error == pytest.approx(math.sqrt(1 / 3 + 4 / 3))
    assert math.isnan(render.difference([1.0], [2.0])[1])


def test_the_order_is_judged_step_by_step(tmp_path: Path) -> None:
    choices = Choices(seeds=3, workdir=tmp_path)
    judged = table("table2_ioi")
    first, second, third = judged.rising
    fill(judged, choices, {first: [0.50, 0.51, 0.52], second: [0.70, 0.71, 0.72]})
    assert "Not all runs are done" in render.verdict(judged, choices)
    fill(judged, choices, {third: [0.69, 0.70, 0.72]})
    said = render.verdict(judged, choices)
    assert said.startswith("The paper's order did not hold here")
    assert f"{second} over {first} +20.0 points ± 0.8 (as the paper);" in said
    assert f"{third} over {second} -0.7 points ± 1.1 (against the paper, within" in said
    fill(judged, choices, {third: [0.79, 0.80, 0.82]})
    assert render.verdict(judged, choices).startswith("The paper's order held here")


def test_cells_say_what_failed_and_what_is_missing(tmp_path: Path) -> None:
    choices = Choices(seeds=4, workdir=tmp_path)
    filled = table("table3_tfc")
    row = filled.rows[0]
    fill(filled, choices, {row.name: [0.5, 0.7]})
    write_result(filled.run(row, choices, 2), tmp_path / "demo", failed="training ended")
    line = render.lines_of(filled, choices)[0]
    assert line.cell("top-1") == "60.0 ± 14.1, 1 failed, 1 missing"
    assert render.lines_of(filled, choices)[1].cell("top-1") == "4 missing"


def test_the_report_lists_every_run(tmp_path: Path) -> None:
    choices = Choices(seeds=3, workdir=tmp_path)
    filled = table("table3_tfc")
    fill(filled, choices, {filled.rows[0].name: [0.25]})
    write_result(filled.run(filled.rows[1], choices, 0), tmp_path / "demo", failed="evaluation x")
    asked = Choices(seeds=2, start="given.pth", workdir=tmp_path)
    given = table("table2_ioi")
    fill(given, asked, {given.rows[0].name: [0.125, 0.375]})
    asked.remember(given.name)
    page = report.collect("demo", tmp_path).read_text()
    assert "| 25.0, 2 missing |" in page
    assert "| 25.0 ± 17.7 |" in page
    assert "| ablation/branches=tfc/seed0 | failed: evaluation x |" in page
    assert "| ablation/branches=tfc/seed1 | missing: not run |" in page
    for name in ALL:
        assert (tmp_path / "demo" / f"{name}.png").stat().st_size > 1000
        with (tmp_path / "demo" / f"{name}.csv").open() as file:
            assert len({len(row) for row in csv.reader(file)}) == 1


def test_a_plan_for_no_known_place_is_refused() -> None:
    with pytest.raises(UserError, match="wanted one of local"):
        sweep.check_place("")


def test_what_another_sweep_is_at_is_left_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Run(config="ablation", seed=seed) for seed in (0, 1))
    third = Run(config="ablation", seed=2, start=first)
    order = []

    def do(run: Run, workdir: Path, place: str) -> str:
        order.append(run.seed)
        holder.close()  # the other sweep ends while the second run is done
        return ""

    monkeypatch.setattr(sweep, "_do", do)
    path = first.result_file(tmp_path)
    path.parent.mkdir(parents=True)
    holder = path.with_suffix(".lock").open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert sweep.do_all([first, third, second], tmp_path, "local") == []
    assert order == [1, 0, 2]


TINY = [
    "--config.data.motion.num_train=64", "--config.data.motion.num_test=16",
    "--config.data.motion.size=32", "--config.data.motion.num_frames=16",
    "--config.data.frame_interval=1", "--config.data.short_side=32", "--config.data.crop_size=32",
    "--config.evaluation.short_side=32", "--config.evaluation.crop_size=32", "--config.epochs=1",
    "--config.model.width=0.125", "--config.model.num_frames=4",
]  # fmt: skip


def command(workdir: Path) -> list[str]:
    script = str(EXPERIMENTS / "table3_tfc.py")
    return [sys.executable, script, "--seeds=1", f"--workdir={workdir}", "--", *TINY]


@pytest.mark.slow
def test_a_sweep_killed_half_way_goes_on_to_the_same_table(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), check=True, capture_output=True)

    process = subprocess.Popen(command(broken), stdout=subprocess.DEVNULL, start_new_session=True)
    plain, focused = (
        table("table3_tfc").run(row, Choices(workdir=broken), 0).result_file(broken / "demo")
        for row in table("table3_tfc").rows
    )
    deadline = time.monotonic() + 300
    while not (focused.with_suffix(".lock")).exists():  # the second run has begun
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not focused.exists()
    first = plain.read_text()

    subprocess.run(command(broken), check=True, capture_output=True)
    assert plain.read_text() == first
    name = "demo/table3_tfc.md"
    assert (broken / name).read_text() == (whole / name).read_text()


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_left_to_be_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = Table(name="one", title="one", rows=(Row(name="SqueezeTime"),), run=tables.small)
    bad = [*TINY, "--config.optimizer.learning_rate=-1"]
    words = ["--seeds=1", f"--workdir={tmp_path}", "--", *bad]
    assert fill_table.main(one, None, words) == 1
    assert "| 1 failed |" in (tmp_path / "demo" / "one.md").read_text()
    assert "training ended with status 1" in capfd.readouterr().err
    (run,) = one.all_runs(Choices(seeds=1, workdir=tmp_path))
    assert not run.is_done(tmp_path / "demo")
