"""The paper's tables: their data, the runs that fill them, Markdown and plots."""

import csv
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import launch
import plots
import pytest
import report
import speeds
import tables
from paper import TABLES, Table
from runs import Run, Settings, ordered, run_of, runs_of

from squeezetime_jax import cli, command_line
from squeezetime_jax.model.counts import Counts

assert cli.main is command_line.main  # importing `cli` registers the subcommands

TABLE = {table.name.split("_")[0].removeprefix("table"): table for table in TABLES}
ABLATIONS = ["1", "2", "3", "4", "5"]


def write_result(run: Run, folder: Path, **found: Any) -> None:
    path = run.result_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"when": "2026-01-01T00:00:00", "machine": "M", "version": "0"}
    path.write_text(json.dumps({**made, **found}))


def fill(table: Table, settings: Settings, values: dict[str, list[float]]) -> None:
    for row in table.rows:
        for seed, value in enumerate(values.get(row.name, [])):
            run = run_of(table, row, settings, seed)
            write_result(run, settings.folder, scores={"top1": value})


def test_the_command_line_knows_every_table_and_figure() -> None:
    numbers = [number for table in TABLES for number in table.numbers]
    assert numbers == [*map(str, range(1, 12)), "figure1"]
    assert tables.chosen_tables([]) == list(TABLES)
    assert [t.name for t in tables.chosen_tables(["7", "3", "6"])] == [
        "table3_tfc",
        "table6_7_speed",
    ]


# Where our count and the paper's rounding differ: parameters of IOI alone (27.43 without and 27.64
# with the position encodings), multiply-adds of two widths (1.84 and 8.04).
OFF = {
    ("IOI branch", "parameters"), ("with focus and position encoding", "parameters"),
    ("width 0.5", "multiply-adds"), ("width 1.25", "multiply-adds"),
}  # fmt: skip


@pytest.mark.parametrize("number", ABLATIONS)
def test_costs_are_those_that_the_paper_prints(number: str, tmp_path: Path) -> None:
    table, settings = TABLE[number], Settings(scale="paper", workdir=tmp_path)
    heads, *rows = report.cells_of(table, settings, report.lines_of(table, settings))
    for column in ("parameters", "multiply-adds"):
        place = heads.index(column)
        for cells in rows:
            counted, printed = cells[place], cells[place + 1]
            if printed and (cells[0], column) not in OFF:
                assert counted == printed, cells[0]
            elif printed:
                gap = float(counted.split()[0]) - float(printed.split()[0])
                assert abs(gap) == pytest.approx(0.1), cells[0]


def test_tables_share_their_runs() -> None:
    every = [run for number in ABLATIONS for run in runs_of(TABLE[number], Settings(seeds=3))]
    # 4 + 3 + 2 + 4 + 4 rows; the whole network stands in three tables, two branches in two.
    assert len(every) == 51
    assert len(ordered(every)) == 39
    width = runs_of(TABLE["5"], Settings(seeds=3))
    assert runs_of(TABLE["figure1"], Settings(seeds=3)) == width


def test_folders_are_those_of_earlier_versions() -> None:
    """Results on disk are found by these names."""
    names = [run.name for run in runs_of(TABLE["2"], Settings())]
    assert names == [
        "ablation/branches=ioi,position_encoding=False,temporal_focus=False/seed0",
        "ablation/branches=ioi,position_encoding=False/seed0",
        "ablation/branches=ioi/seed0",
    ]
    weights = runs_of(TABLE["8"], Settings(scale="paper", weights="a/K600.pth"))
    assert [run.name for run in weights] == ["k600-paper/as_it_is/weights-K600"]


@pytest.mark.parametrize(
    ("number", "scale", "chain"),
    [
        ("9", "paper", ["imagenet1k", "k400-paper", "hmdb51-paper"]),
        ("10", "paper", ["imagenet1k", "k400-paper", "ava21-paper"]),
        ("11", "paper", ["imagenet1k", "k400-paper", "thumos14"]),
        ("8", "paper", ["imagenet1k", "k600-paper"]),
        ("11", "demo", ["demo", "thumos14-demo"]),
        ("10", "demo", ["ava_demo"]),
    ],
)
def test_a_run_starts_from_the_runs_before_it(number: str, scale: str, chain: list[str]) -> None:
    settings = Settings(scale=scale, seeds=2, extra={"data.workers": "3"})
    runs = ordered(runs_of(TABLE[number], settings))
    names = [f"{config}/as_it_is/seed0" for config in chain]
    assert [run.name for run in runs] == [*names, f"{chain[-1]}/as_it_is/seed1"]
    assert [each.name for each in runs[-1].before()] == names[:-1]
    for run in runs:  # the extra fields are for the table's own runs
        assert ("--config.data.workers=3" in run.config_arguments()) == (run.name not in names[:-1])


def test_each_network_of_the_ablations_is_pretrained_by_itself() -> None:
    runs = ordered(runs_of(TABLE["4"], Settings(scale="paper")))
    pretrained = [run.name for run in runs if run.training.config == "imagenet1k"]
    assert pretrained == [
        "imagenet1k/num_frames=4/seed0",
        "imagenet1k/num_frames=8/seed0",
        "imagenet1k/as_it_is/seed0",
        "imagenet1k/num_frames=32/seed0",
    ]


def test_given_weights_take_the_place_of_the_runs_before() -> None:
    given = runs_of(TABLE["9"], Settings(scale="paper", start="k400.pth"))
    assert [run.start for run in ordered(given)] == ["k400.pth"]
    assert [run.name for run in given] == ["hmdb51-paper/as_it_is/seed0-from-k400"]


@pytest.fixture
def one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network has a million parameters, and as many multiply-adds as the released one."""
    counts = Counts(backbone=900_000, position=0, head=100_000, multiply_adds=5_480_000_000)
    monkeypatch.setattr("runs._count", lambda network, side: counts)


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_the_plan_of_all_tables_is_what_the_program_takes(
    scale: str, one_size: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables.main(["plan", f"--scale={scale}", f"--workdir={tmp_path}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line)[3:] for line in printed if "-m squeezetime_jax" in line]
    for words in commands:
        command_line.parse(words)
    trained, evaluated, timed = (
        [words for words in commands if words[0] == name] for name in ("train", "eval", "bench")
    )
    settings = Settings(scale=scale, seeds=3 if scale == "demo" else 1, workdir=tmp_path)
    runs = ordered(run for table in TABLES for run in runs_of(table, settings))
    folders = [str(tmp_path / scale / run.name) for run in runs]
    assert [launch._option(words, "workdir") for words in trained] == folders
    measured = [folder for folder, run in zip(folders, runs, strict=True) if run.training.evaluated]
    assert [launch._option(words, "checkpoint") for words in evaluated] == measured
    assert len(timed) == 6  # Tables 6 and 7, their other networks, four widths of Figure 1
    total = next(line for line in printed if line.startswith("# together about"))
    gigabytes = re.escape(f"{0.024 * len(runs):.2g}")
    assert re.search(rf", {gigabytes} GB of checkpoints; 0 of {len(runs)} runs are done", total)
    assert "e+" not in total
    assert not list(tmp_path.iterdir())


def test_hours_are_those_that_the_config_estimates() -> None:
    """240 000 videos x 100 epochs at 300 clips a second."""
    (run,) = runs_of(TABLE["6"], Settings(scale="paper"))
    assert run.hours() == pytest.approx(240_000 * 100 / 300 / 3600, rel=0.002)
    assert run.gigabytes() == pytest.approx(3 * 2 * 4 * 29.6e6 / 1e9, rel=0.01)
    (evaluated,) = runs_of(TABLE["6"], Settings(scale="paper", weights="a.pth"))
    assert (evaluated.hours(), evaluated.gigabytes()) == (0, 0)


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ("processes --num-processes 2", "--num-hosts=2"),
        ("slurm --nodes 2", "#SBATCH --nodes=2"),
        ("tpu pod --zone z", "gcloud"),
        ("xpk job --cluster c --tpu-type v5 --docker-image i", "xpk"),
    ],
)
def test_runs_start_where_the_launcher_says(
    place: str, word: str, one_size: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "3", "--scale=paper", f"--workdir={tmp_path}", f"--devices={place}"]
    assert tables.main(words) == 0
    assert capsys.readouterr().out.count(word) >= 4  # two networks, each pre-trained


def test_slurm_jobs_of_a_plan_have_names_of_their_own(
    one_size: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "3", "2", f"--workdir={tmp_path}", "--devices=slurm --name x"]
    assert tables.main(words) == 0
    names = re.findall(r"--job-name=(\S+)", capsys.readouterr().out)
    assert len(set(names)) == len(names) == 15
    assert all(re.fullmatch(r"x-ablation-[\w=.-]+-seed\d-[0-9a-f]{8}", name) for name in names)


def test_weights_are_evaluated_and_nothing_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "8", "--scale=paper", f"--workdir={tmp_path}", "--weights=K600.pth"]
    assert tables.main(words) == 0
    printed = capsys.readouterr().out
    assert "squeezetime_jax train" not in printed
    assert "--checkpoint=K600.pth --json --views=10x3" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "12"], "TABLE: expected one of 1, 2, 3, "),
        (["run", "1", "--devices=moon"], "--devices: expected local, processes, slurm, tpu, xpk"),
        (["run", "1", "--devices="], "and its options, got ''"),
        (["run", "1", "--weights=a.pth"], "--weights: expected one table of one network"),
        (["run", "--scale=paper", "--weights=a.pth"], "--weights: expected one table of one"),
        (
            ["run", "1", "--", "data.train=x"],
            "after the two dashes: expected --config.FIELD=VALUE, got 'data.train=x'",
        ),
        (["plan", "1", "--", "--config.nothing=1"], "no field nothing"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables.main([*words[:1], f"--workdir={tmp_path}", *words[1:]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tables.py: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_difference_has_the_standard_error_of_two_means() -> None:
    gain, error = report.difference([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert gain == 4.0
    assert error == pytest.approx(math.sqrt(1 / 3 + 4 / 3))
    assert math.isnan(report.difference([1.0], [2.0])[1])


def test_the_order_is_judged_step_by_step(tmp_path: Path) -> None:
    table, settings = TABLE["2"], Settings(seeds=3, workdir=tmp_path)
    first, second, third = table.rising

    def verdict() -> str:
        return report.verdict(table, settings, report.lines_of(table, settings))

    fill(table, settings, {first: [0.50, 0.51, 0.52], second: [0.70, 0.71, 0.72]})
    assert verdict() == "Some runs are missing: the paper's order was not checked."
    fill(table, settings, {third: [0.69, 0.70, 0.72]})
    assert verdict() == (
        f"The paper's order did not hold here: {second} over {first} +20.0 points ± 0.8 (as the"
        f" paper); {third} over {second} -0.7 points ± 1.1 (against the paper, within twice its"
        " standard error)."
    )
    fill(table, settings, {third: [0.79, 0.80, 0.82]})
    assert verdict().startswith("The paper's order held here")


def test_cells_say_what_failed_and_what_is_missing(tmp_path: Path) -> None:
    table, settings = TABLE["3"], Settings(seeds=4, workdir=tmp_path)
    row = table.rows[0]
    fill(table, settings, {row.name: [0.5, 0.7]})
    write_result(run_of(table, row, settings, 2), settings.folder, failed="training ended")
    first, second = report.lines_of(table, settings)
    assert first.cell("top-1") == "60.0 ± 14.1, 1 failed, 1 missing"
    assert second.cell("top-1") == "4 missing"


def test_scores_of_localisation_are_read_by_overlap(tmp_path: Path) -> None:
    table, settings = TABLE["11"], Settings(workdir=tmp_path)
    found = {"average": 0.25, "per_threshold": {"0.3": 0.5, "0.7": None}}
    write_result(run_of(table, table.rows[0], settings), settings.folder, scores=found)
    (line,) = report.lines_of(table, settings)
    assert line.values("average") == [25.0]
    assert line.values("0.3") == [50.0]
    with pytest.raises(KeyError):
        line.values("0.4")


def test_the_report_lists_every_run(tmp_path: Path) -> None:
    settings = Settings(seeds=3, workdir=tmp_path)
    fill(TABLE["3"], settings, {TABLE["3"].rows[0].name: [0.25]})
    failed = run_of(TABLE["3"], TABLE["3"].rows[1], settings)
    write_result(failed, settings.folder, failed="evaluation x")
    given = Settings(seeds=2, start="given.pth", workdir=tmp_path)
    fill(TABLE["2"], given, {TABLE["2"].rows[0].name: [0.125, 0.375]})
    given.remember(TABLE["2"])
    assert tables.main(["report", "2", "3", "10", f"--workdir={tmp_path}"]) == 0
    page = (tmp_path / "demo" / "report.md").read_text()
    assert "| 25.0, 2 missing |" in page
    assert "| 25.0 ± 17.7 |" in page
    assert "| ablation/branches=tfc/seed0 | failed: evaluation x |" in page
    assert "| ablation/branches=tfc/seed1 | missing: not run |" in page
    runs = ordered(
        run
        for number, chosen in (("2", given), ("3", settings), ("10", settings))
        for run in runs_of(TABLE[number], chosen)
    )
    lines = page.split("## Runs")[1].splitlines()[4:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [r.name for r in runs]
    for name in ("table2_ioi", "table3_tfc", "table10_ava"):
        assert f"]({name}.png)" in page
        assert (tmp_path / "demo" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        with (tmp_path / "demo" / f"{name}.csv").open() as file:
            assert len({len(row) for row in csv.reader(file)}) == 1
    assert not (tmp_path / "demo" / "table1_branches.md").exists()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that are drawn, instead of their files."""
    drawn: list = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    return drawn


def test_accuracies_are_drawn_beside_the_papers(tmp_path: Path, figures: list) -> None:
    table, settings = TABLE["3"], Settings(seeds=3, workdir=tmp_path)
    fill(table, settings, {table.rows[1].name: [0.5, 0.6, 0.75]})
    report.write_table(table, settings)
    paper, here = figures[0].axes
    dots = {tuple(line.get_xydata().ravel()) for line in paper.lines}
    assert dots == {(49.9, 0), (62.8, 1)}
    dots = [line.get_xydata().ravel().tolist() for line in here.lines]
    assert dots[1:] == [[50, 1, 60, 1, 75, 1], [pytest.approx(61.667, abs=1e-3), 1]]
    assert [label.get_text() for label in paper.get_yticklabels()] == [r.name for r in table.rows]


def test_accuracy_is_drawn_against_speed(
    tmp_path: Path, figures: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"fused float32": {"milliseconds": 2.5, "clips_per_second": 400.0}}
    monkeypatch.setattr(report, "measured", lambda *_: found)
    settings = Settings(seeds=1, workdir=tmp_path)
    fill(TABLE["figure1"], settings, {"width 0.5": [0.5]})
    assert "| 50.0 | 2.5 | 400.0 |" in report.write_table(TABLE["figure1"], settings)
    (axes,) = figures[0].axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[2.5, 50.0]]]
    report.write_table(TABLE["6"], settings)
    (axes,) = figures[1].axes
    assert [bar.get_width() for bar in axes.patches] == [2.5]


def test_speeds_of_another_machine_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, settings = TABLE["6"], Settings(workdir=tmp_path)
    path = speeds.speed_file(table, table.rows[0], settings)
    assert path.name == "r50_w1_t16_224.json"
    path.parent.mkdir(parents=True)
    row = {"runtime": "openvino", "dtype": "int8", "milliseconds": 20.0, "clips_per_second": 50.0}
    path.write_text(json.dumps({"machine": speeds.machine(), "rows": [row]}))
    assert report.lines_of(table, settings)[0].speeds == {"openvino int8": row}
    monkeypatch.setattr(speeds, "machine", lambda: "another")
    assert report.lines_of(table, settings)[0].speeds == {}
