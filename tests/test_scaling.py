"""Where the time of a task goes, and how a run scales: what is counted, what is measured, what is predicted."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked import on_ranks
from samples import cells, msd, write_tiff
from test_native import built

from medhpc.cli.main import run_here
from medhpc.cli.scaling import scaling_text
from medhpc.engine import TorchEngine
from medhpc.errors import BadOption
from medhpc.infer import infer
from medhpc.infer.clock import Clock, Spent, read_ahead
from medhpc.ranks.group import Ranks
from medhpc.ranks.ping import ping
from medhpc.run import Run
from medhpc.scaling import Link, Measured, Scaling
from medhpc.scaling.ghosts import cost_of_ghosts
from medhpc.scaling.model import Rates, predict
from medhpc.scaling.shares import Share, shares_of_ranks, shares_of_rows, shares_of_tasks
from medhpc.tiling import tile

pytestmark = pytest.mark.usefixtures("quick_measure", "quick_disk")

GOLDEN = Path(__file__).parent / "golden" / "scaling.txt"
PARTS = ("start", "read", "compute", "exchange", "write", "other")
HERE: Any = {"device": "cpu", "threads": 1}


def spent(**numbers: float) -> Spent:
    fields = dict.fromkeys(Spent.__dataclass_fields__, 0.0) | numbers
    return Spent(**fields | {"seconds": sum(fields[part] for part in PARTS)})


def parts(one: Spent) -> dict[str, float]:
    return {part: getattr(one, part) for part in PARTS}


# --- the clock -----------------------------------------------------------------------------------


def test_each_moment_belongs_to_the_innermost_part_or_to_talking() -> None:
    ranks: Any = SimpleNamespace(size=1, waited=5.0, sent=7, received=0, exchanges=1, meet=lambda: None)
    clock = Clock(ranks)
    clock.begin()
    with clock.part("compute"):
        time.sleep(0.02)
        ranks.waited += 0.015  # as if so much of it was talking
        with clock.part("read"):
            time.sleep(0.01)
    ranks.sent += 12
    (found,) = clock.of_all_ranks()
    assert found.exchange == pytest.approx(0.015) and found.sent == 12 and found.exchanges == 0
    assert found.read >= 0.01 and found.compute >= 0.005
    assert sum(parts(found).values()) == pytest.approx(found.seconds)


def test_what_the_reader_does_is_counted_beside() -> None:
    clock = Clock()
    clock.begin()
    with ThreadPoolExecutor(1) as reader:
        assert list(read_ahead(reader, lambda n: time.sleep(0.005) or n, range(5), clock)) == list(range(5))
    (found,) = clock.of_all_ranks()
    assert found.reading >= 0.025 and found.read <= found.seconds and found.writing == 0


def test_the_start_may_wait_for_the_others() -> None:
    ranks: Any = SimpleNamespace(size=1, waited=0.0, sent=0, received=0, exchanges=0)
    ranks.meet = lambda: setattr(ranks, "waited", 0.01) or time.sleep(0.01)
    clock = Clock(ranks)
    clock.begin()
    (found,) = clock.of_all_ranks()
    assert found.start >= 0.01 and found.exchange == 0


# --- what infer counts ---------------------------------------------------------------------------


def planned(folder: Path, name: str = "run", shape: tuple[int, int, int] = (40, 23, 16), **options: Any) -> Path:
    source, network = folder / "volume.tif", folder / "net.safetensors"
    if not source.exists():
        write_tiff(source, cells(shape))
        msd(depth=4).save(network)
    tile(source, folder / name, network=network, **{**HERE, "engine": "torch", **options})
    return folder / name


@pytest.mark.parametrize("options", [{"scheme": "boxes", "halo": 3, "tile": (20, 12, 16)}, {"scheme": "sweep"}])
def test_infer_says_where_its_time_went(tmp_path: Path, options: dict[str, Any]) -> None:
    (found,) = infer(planned(tmp_path, **options), **HERE).ranks
    assert found.compute > 0 and found.reading > 0 and found.writing > 0 and found.start > 0
    assert found.exchange == found.sent == found.exchanges == 0
    assert sum(parts(found).values()) == pytest.approx(found.seconds)
    assert found.peak_memory > 2**20


def spent_on_ranks(ranks: Ranks, run: Path) -> tuple[Spent, ...]:
    return infer(run, ranks=ranks, **HERE).ranks


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=built)])
def test_ranks_send_what_the_model_says(tmp_path: Path, size: int, engine: str) -> None:
    run = planned(tmp_path, scheme="columns", halo="exact", tile=(16, 23, 10), engine=engine)
    wanted = shares_of_ranks(Run(run).plan, msd(depth=4), size)
    everyones = on_ranks(size, spent_on_ranks, run)
    assert all(found == everyones[0] for found in everyones)  # each knows of all
    assert [(one.sent, one.received, one.exchanges) for one in everyones[0]] == [
        (share.sent, share.received, share.exchanges) for share in wanted
    ]
    assert all(one.exchange > 0 for one in everyones[0])


def test_the_rows_of_neighbours_cost_something_and_a_rate_for_them_makes_ranks_slower() -> None:
    ghost = cost_of_ghosts(TorchEngine(msd(depth=3), torch.device("cpu")), 12, 4)
    assert 0 <= ghost < 100
    one, inner = (shares_of_rows((9, 40, 8), msd(depth=3), 4, count, written=9) for count in (1, 4))
    link = Link(latency=0, bandwidth=1e9)
    free, dear = (
        Rates.of(spent(compute=8.0), one[0], memory=9, base=1, link=link, ghost=ghost) for ghost in (0.0, 0.5)
    )
    assert predict(dear, one, in_step=True) == predict(free, one, in_step=True)
    # a rank in the middle has 10 rows, and 2 x 3 of its neighbours
    assert predict(dear, inner, in_step=True).compute == pytest.approx(8.0 * (10 + 0.5 * 6) / 40)


def test_a_ping_gives_a_link() -> None:
    (found, other) = on_ranks(2, ping, 2)
    assert found.keys() == other.keys() == {"latency", "bandwidth"}
    assert all(value > 0 for value in (*found.values(), *other.values()))


# --- the laws of the model -----------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 60), st.integers(1, 200), st.integers(1, 60))
NETWORKS = st.builds(
    msd,
    depth=st.integers(1, 12),
    inputs=st.integers(1, 2),
    dilations=st.lists(st.integers(1, 5), min_size=1).map(tuple),
)


@settings(max_examples=40)
@given(shape=SHAPES, network=NETWORKS, step=st.integers(1, 20), ranks=st.integers(1, 8))
def test_ranks_compute_each_voxel_once_and_what_is_sent_arrives(
    shape: tuple[int, int, int], network: Any, step: int, ranks: int
) -> None:
    try:
        shares = shares_of_rows(shape, network, step, ranks, written=5)
    except BadOption:
        assert shape[1] < ranks * max(network.dilations)
        return
    z, y, x = shape
    assert sum(share.computed for share in shares) == sum(share.read for share in shares) == z * y * x
    assert sum(share.sent for share in shares) == sum(share.received for share in shares)
    assert sum(share.written for share in shares) == 5
    assert (sum(share.sent for share in shares) == 0) == (sum(share.ghosts for share in shares) == 0) == (ranks == 1)


TIMES = st.floats(0.001, 100)


@given(
    read=TIMES,
    compute=TIMES,
    write=TIMES,
    other=TIMES,
    writing=TIMES,
    count=st.integers(2, 16),
    latency=st.floats(0, 1),
)
def test_one_is_predicted_as_measured_and_many_cannot_beat_their_number(
    count: int, latency: float, **times: float
) -> None:
    one = Share(computed=1600, read=1600, written=1600, pixels=80)
    link = Link(latency=latency, bandwidth=1e6)
    measured = spent(**times)
    rates = Rates.of(measured, one, memory=900, base=100, link=link)
    alone = predict(rates, [one], in_step=True)
    assert alone.seconds == pytest.approx(measured.seconds) and alone.memory == 900
    part = Share(computed=1600 // count, read=1600 // count, written=0, exchanges=3, sent=10, received=10, pixels=9)
    first = replace(part, written=1600)
    together = predict(rates, [first, *[part] * (count - 1)], in_step=True)
    assert together.seconds >= 0.9 * alone.seconds / count
    assert together.exchange == pytest.approx(3 * latency + 1e-5)
    assert together.write >= alone.write * 0.999 and together.other == alone.other
    assert together.memory == 100 + 800 * 9 / 80


def test_tasks_together_do_all_tiles_and_begin_sweeps_earlier(tmp_path: Path) -> None:
    boxes = Run(planned(tmp_path, "boxes", (120, 23, 16), scheme="boxes", halo=3, tile=(20, 12, 16))).plan
    sweep = Run(planned(tmp_path, "sweep", scheme="sweep", tile=(20, 23, 16))).plan
    for plan, around in ((boxes, 0), (sweep, 24)):
        alone, shared = shares_of_tasks(plan, 1, around), shares_of_tasks(plan, 3, around)
        assert alone[0].computed == plan.computed_voxels
        assert sum(share.written for share in shared) == alone[0].written == 120 * 23 * 16
        assert sum(share.computed for share in shared) >= alone[0].computed
    assert sum(share.computed for share in shares_of_tasks(boxes, 3)) == boxes.computed_voxels


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def bench(folder: Path, *words: str) -> int:
    files = [str(folder / "volume.tif"), "--network", str(folder / "net.safetensors"), "--out", str(folder / "out")]
    return run_here(["bench", "scaling", *files, "--device", "cpu", "--threads", "1", "--engine", "torch", *words])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_tiff(tmp_path / "volume.tif", cells((40, 23, 16)))
    msd(depth=4).save(tmp_path / "net.safetensors")
    return tmp_path


@pytest.mark.slow
def test_ranks_are_measured_compared_and_predicted(files: Path, capsys: Any) -> None:
    out = files / "out"
    assert bench(files, "--scheme", "sweep", "--counts", "1", "--json") == 0
    alone = json.loads(capsys.readouterr().out)
    (out / "count-2.run").mkdir()  # as if killed in the second count
    assert bench(files, "--scheme", "sweep", "--counts", "1,2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"][0] == alone["measured"][0]  # it was not run again
    one, two = found["measured"]
    assert (one["count"], two["count"], len(two["spent"])) == (1, 2, 2) and two["difference"] <= 1
    assert all(rank["exchange"] > 0 for rank in two["spent"]) and found["link"]["bandwidth"] > 0
    assert one["prediction_error"] == pytest.approx(0, abs=1e-9)
    assert [row["count"] for row in found["predicted"]] == [1, 2, 4]  # 23 rows and a dilation of 3: seven ranks at most
    assert (out / "scaling.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "scaling.json").read_text()) == found
    assert sorted(path.name for path in out.glob("*.run")) == ["count-1.run", "plan.run"]


@pytest.mark.slow
def test_tasks_are_measured_and_told_as_a_table(files: Path, capsys: Any) -> None:
    boxes = ("--by", "tasks", "--counts", "1,2", "--halo", "3", "--tile", "20,12,16")
    assert bench(files, *boxes) == 0
    text = capsys.readouterr().out
    assert "tasks  seconds  speed-up" in text and "predicted, each with cores of its own" in text
    assert bench(files, *boxes, "--tolerance", "0.1") == 2
    assert "out holds figures with tolerance = None, now 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--on", "slurm"), "inside an allocation, and this is none"),
        (("--counts", "2,4"), "counts 2,4 begin with 2: all is compared with 1"),
        (("--counts", "1,x"), "'1,x' is not a list of whole numbers"),
        (("--halo", "3"), "ranks share the rows of planes, and this plan has boxes"),
        (("--scheme", "sweep", "--counts", "1,8"), "8 ranks for 23 rows: each needs 3 at least"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(files: Path, capsys: Any, words: tuple[str, ...], said: str) -> None:
    assert bench(files, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list((files / "out").glob("count-*"))


@pytest.mark.slow
def test_a_rank_that_fails_is_named(files: Path, capsys: Any) -> None:
    assert bench(files, "--scheme", "sweep", "--counts", "1") == 0
    (files / "net.safetensors").write_bytes((files / "net.safetensors").read_bytes()[:-9])
    assert bench(files, "--scheme", "sweep", "--counts", "1,2") == 2
    assert capsys.readouterr().err.count("medhpc: error:") == 1


def made(count: int, cpu: float, **others: Any) -> Scaling:
    one = Measured(count=count, seconds=2.0, difference=0, spent=(spent(compute=2.0, cpu=cpu),) * count)
    fields: dict[str, Any] = {"by": "tasks", "on": "local", "threads": 1, "device": "cpu", "cores": 2, "plan": ""}
    return Scaling(**fields | others, measured=(one,))


def test_a_note_tells_when_efficiency_means_nothing() -> None:
    assert made(2, 1.9).note == made(4, 1.9, on="slurm").note == made(4, 0.1, device="cuda").note == ""
    assert "4 tasks of 1 thread share 2 cores here" in made(4, 1.9).note
    assert "2 tasks of 2 threads share 2 cores here" in made(2, 1.9, threads=2).note
    assert "something else kept the cores busy while 2 tasks ran" in made(2, 1.2).note


def test_the_table_is_golden(request: pytest.FixtureRequest) -> None:
    one = spent(cpu=180, read=1, compute=90, write=2, other=1, start=3, writing=40, peak_memory=3 * 2**30)
    two = spent(cpu=93, read=0.5, compute=46, exchange=4, write=2, other=1, peak_memory=2 * 2**30)
    shape, network = (256, 200, 200), msd(depth=30, dilations=tuple(range(1, 11)))
    of = {count: shares_of_rows(shape, network, 16, count, written=256 * 200**2) for count in (1, 2, 4, 8, 16)}
    link = Link(latency=3e-5, bandwidth=2e9)
    rates = Rates.of(one, of[1][0], memory=4 * 2**30, base=800 * 2**20, link=link)
    found = Scaling(
        by="ranks",
        on="local",
        threads=2,
        device="cpu",
        cores=4,
        plan="",
        link=link,
        measured=(
            Measured(count=1, seconds=94, difference=0, spent=(one,)),
            Measured(count=2, seconds=53.5, difference=1, spent=(two, two)),
        ),
        predicted=tuple(predict(rates, shares, in_step=True) for shares in of.values()),
    )
    text = scaling_text(found) + "\n"
    if request.config.getoption("--golden"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    one = Measured(count=1, seconds=2.0, difference=0, spent=(spent(compute=2.0),))
    share = Share(computed=10, read=10, written=10)
    rates = Rates.of(one.spent[0], share, memory=10, base=1, link=None)
    found = Scaling(
        by="tasks",
        on="local",
        threads=1,
        device="cpu",
        cores=1,
        plan="p",
        measured=(one,),
        predicted=(predict(rates, [share], in_step=False),),
    )
    (tmp_path / "scaling.json").write_text(json.dumps(found.as_dict()))
    assert Scaling.read(tmp_path / "scaling.json") == found
    assert asdict(one.spent[0])["seconds"] == 2.0
