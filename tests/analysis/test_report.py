"""The report's figures: of a day made by hand, and against an independent computation of random traffic."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import itertools
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis import record_check
from aoai_gateway.analysis.backtest import main as backtest_main
from aoai_gateway.analysis.consumers import quantile
from aoai_gateway.analysis.page import page
from aoai_gateway.analysis.reading import Reading, RecordsError, Selection, moment
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report import report
from aoai_gateway.analysis.report_command import as_csv, main
from aoai_gateway.analysis.text import short, text
from aoai_gateway.command_line import prepare_standard_files
from aoai_gateway.config.models import Client
from aoai_gateway.wire.printing import width_of
from tests.analysis.day import day
from tests.e2e.processes import CHECKOUT
from tests.engine_driver import config
from tests.usage.records import attempt, record

type Write = Callable[[Iterable[dict[str, Any]]], Path]

SHOP = Client(name="Shop", key="key-of-shop", max_tokens_per_minute=6000)


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(records: Iterable[dict[str, Any]]) -> Path:
        path = tmp_path / "usage.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
        return path

    return write


def of(path: Path, selection: Selection = Selection(), **options: Any) -> dict[str, Any]:  # noqa: B008
    reading = Reading()
    return report(read([path], selection, reading), reading, **{"percentile": 99, **options})


def consumer(made: dict[str, Any], client: str) -> dict[str, Any]:
    return next(row for row in made["consumers"] if row["client"] == client)


# --- the day made by hand -------------------------------------------------------------------------------


def test_what_the_day_came_to(written: Write) -> None:
    made = of(written(day()))
    assert (made["from"], made["to"]) == ("2026-11-28T09:00:00Z", "2026-11-28T12:01:00Z")
    assert (made["minutes"], made["records"]) == (181, 60 + 5 + 4 + 30 + 2 + 1 + 1)
    assert made["totals"] | {"cost": None} == {
        "requests": 109,
        "served": 95,
        "errors": 7,
        "aborted": 1,
        "refused": 6,
        "input_tokens": 65_000 + 15_000 + 500,
        "output_tokens": 13_000 + 15_000 + 40,
        "cost": None,
        "refused_by_cause": {"tokens_per_minute": 4, "all_backends_out": 2},
    }
    assert made["totals"]["cost"] == pytest.approx(65 * 0.0045 + 30 * 0.00625)


def test_what_the_shop_did_and_needs(written: Write) -> None:
    row = consumer(of(written(day()), config=config("a", clients=(SHOP,))), "Shop")
    assert (row["requests"], row["served"], row["refused_by_cause"]) == (69, 65, {"tokens_per_minute": 4})
    assert (row["prompt_per_completion"], row["streaming_share"]) == (5.0, 1.0)
    assert (row["rpm_average"], row["rpm_p95"], row["rpm_peak"]) == (round(69 / 181, 3), 1, 10)
    assert (row["tpm_average"], row["tpm_p95"], row["tpm_peak"]) == (round(78_000 / 181, 1), 1200, 7200)
    assert row["peak_minute"] == "2026-11-28T09:30:00Z"
    assert (row["first_token_p50_ms"], row["duration_p95_ms"]) == (300.0, 2000.0)
    # 6 served calls, and 3 refused ones that were no retries, of 1,200 tokens each.
    assert row["need_tokens_per_minute"] == 9 * 1200
    assert (row["need_requests_per_minute"], row["has_tokens_per_minute"]) == (10, 6000)
    assert (row["active_minutes"], row["throttled_minutes"], row["spill_share"]) == (60, 1, 0.0)


def test_half_of_the_minutes_need_less_than_nearly_all(written: Write) -> None:
    row = consumer(of(written(day()), percentile=50), "Shop")
    assert (row["need_tokens_per_minute"], row["need_requests_per_minute"]) == (1200, 1)


def test_what_the_batch_did(written: Write) -> None:
    row = consumer(of(written(day())), "Batch")
    assert (row["requests"], row["served"], row["aborted"]) == (33, 30, 1)
    assert row["refused_by_cause"] == {"all_backends_out": 2}
    assert (row["spill_share"], row["streaming_share"]) == (round(10 / 30, 4), 0.0)
    assert (row["duration_p50_ms"], row["duration_p95_ms"]) == (15_000.0, 29_000.0)
    assert row["tpm_peak"] == 30_540
    assert (row["first_token_p50_ms"], row["has_tokens_per_minute"]) == (None, None)


def test_who_was_throttled_when_and_why(written: Write) -> None:
    made = of(written(day()), throttled_only=True)
    assert [row["client"] for row in made["consumers"]] == ["Shop", "Batch"]
    first = made["throttled"][0]
    assert first | {"dry_run_by_cause": {}} == {
        "client": "Shop",
        "deployment": "gpt-4o",
        "refused": 4,
        "of": 69,
        "by_cause": {"tokens_per_minute": 4},
        "dry_run_by_cause": {},
        "first": "2026-11-28T09:30:00Z",
        "last": "2026-11-28T09:30:00Z",
        "minutes": 1,
        "worst_minute": "2026-11-28T09:30:00Z",
        "in_worst_minute": 4,
    }


def test_provisioned_units_are_sized_by_the_price_table(written: Write) -> None:
    ptu = {"tokens_per_minute": 2500, "output_weight": 4, "hour": 1.0, "smallest": 15, "step": 5}
    prices = {"gpt-4o": {"input": 2.5, "output": 10, "provisioned": ptu}}
    (row,) = of(written(day()), config=config("a", prices=prices), percentile=100)["provisioned"]
    # The batch's minute: 30 * (500 + 4 * 500) = 75,000, which is 30 units.
    assert (row["load_tokens_per_minute"], row["units"]) == (75_000, 30)
    load = 75_000 + 65 * (1000 + 4 * 200)
    assert row["utilisation"] == pytest.approx(load / (75_000 * 181), abs=1e-4)
    assert row["provisioned_cost_per_month"] == 30 * 730
    (row,) = of(written(day()), config=config("a", prices=prices), percentile=50)["provisioned"]
    assert row["units"] == 15, "half of the minutes are idle, and there is no smaller deployment"


def test_the_series_hold_what_the_totals_hold(written: Write) -> None:
    made = of(written(day()))
    series = made["series"]
    assert sum(map(sum, series["tokens"].values())) == sum(
        made["totals"][key] for key in ("input_tokens", "output_tokens")
    )
    assert sum(series["refused"]) == 6
    assert len(series["starts"]) <= 120


# --- against an independent computation ------------------------------------------------------------------


def random_records(seed: int) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    made = []
    for number in range(dice.randrange(1, 1500)):
        at = datetime.fromtimestamp(1_795_000_000 + dice.random() * 20_000, UTC)
        served = dice.random() < 0.8
        made.append(
            record(
                time=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                call=f"call-{number}",
                client=dice.choice(["a", "b", "c"]),
                deployment=dice.choice(["x", "y"]),
                streaming=dice.random() < 0.5,
                status=200 if served else dice.choice([429, 500, 400]),
                input_tokens=dice.randrange(5000) if served else None,
                output_tokens=dice.randrange(900) if served else None,
                duration_ms=dice.random() * 5000,
            )
        )
    return made


@pytest.mark.parametrize("seed", range(20))
def test_the_figures_are_those_of_an_independent_computation(seed: int, written: Write) -> None:
    records = random_records(seed)
    made = of(written(records))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for each in records:
        groups[each["client"], each["deployment"]].append(each)
    assert {(row["client"], row["deployment"]) for row in made["consumers"]} == set(groups)
    minutes = {each["time"][:16] for each in records}
    first, last = (datetime.fromisoformat(found + "Z") for found in (min(minutes), max(minutes)))
    assert made["minutes"] == (last - first).total_seconds() / 60 + 1
    for row in made["consumers"]:
        group = groups[row["client"], row["deployment"]]
        by_minute: dict[str, int] = defaultdict(int)
        for each in group:
            by_minute[each["time"][:16]] += (each["input_tokens"] or 0) + (each["output_tokens"] or 0)
        loads, good = sorted(by_minute.values()), [each for each in group if each["status"] == 200]
        times = sorted(each["duration_ms"] for each in good)
        assert row["requests"] == len(group)
        assert row["served"] == len(good)
        assert row["tpm_peak"] == loads[-1]
        # At least 95 % are not above it, and less than 95 % are below it.
        assert sum(load <= row["tpm_p95"] for load in loads) >= 0.95 * len(loads)
        assert sum(load < row["tpm_p95"] for load in loads) < 0.95 * len(loads)
        if times:
            assert sum(time <= row["duration_p50_ms"] for time in times) >= len(times) / 2
            assert sum(time < row["duration_p50_ms"] for time in times) < len(times) / 2
        assert row["streaming_share"] == round(sum(each["streaming"] for each in group) / len(group), 4)


# --- reading ----------------------------------------------------------------------------------------------


def test_a_log_that_holds_other_lines_will_do(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    lines = [
        "2026 INFO started",
        json.dumps(record()),
        '{"time": "cut of',
        '{"other": 1}',
        json.dumps(record()),
    ]
    path.write_text("\n".join(lines))
    made = of(path)
    assert (made["records"], made["unreadable"]) == (2, 2)


def test_a_file_without_any_record_is_named(tmp_path: Path) -> None:
    rows, log, empty = tmp_path / "logs.csv", tmp_path / "mixed.log", tmp_path / "empty.jsonl"
    rows.write_text("request_received_utc,client\n2026-11-28 09:00:00,Team 1\n")
    log.write_text("2026 INFO started\n" + json.dumps(record()) + "\n")
    empty.write_text("\n")
    reading = Reading()
    made = report(read([rows, log, empty], Selection(), reading), reading, percentile=99)
    assert (made["records"], made["unreadable"]) == (1, 0)
    assert made["passed_over"] == f"no line of {rows} is a usage record"
    assert f"Passed over: no line of {rows}"[:60] in text(of(rows), 200)


def test_an_editors_byte_order_mark_costs_no_record(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text(json.dumps(record()) + "\n", encoding="utf-8-sig")
    assert (of(path)["records"], of(path)["passed_over"]) == (1, "")


def test_a_record_of_a_later_version_says_where_it_stands(written: Write) -> None:
    path = written([record(), record(schema=99)])
    with pytest.raises(RecordsError, match=f"^{re.escape(str(path))}, line 2: a record has schema 99"):
        of(path)


@pytest.mark.parametrize("width", [80, 120])
def test_names_in_wide_characters_keep_the_columns(written: Write, width: int) -> None:
    names = ("日本語クライアント" * 9, "Search", "e\u0301" * 40, "👩\u200d👧 family")
    lines = text(of(written(record(client=each) for each in names)), width).splitlines()
    assert max(map(width_of, lines)) <= width
    table = lines[lines.index("Consumers") + 1 :][:5]
    at = table[0].index("deployment")
    assert {width_of(line[: line.index("gpt-4o")]) for line in table[1:]} == {at}


def test_a_figure_is_never_cut_without_a_sign(written: Write) -> None:
    most = record_check.MOST
    made = text(of(written(record(cost=most, input_tokens=most, output_tokens=most) for _ in range(3))))
    (row,) = (line for line in made.splitlines() if line.startswith("Team 1") and " 3P " in line)
    assert row.split()[-1] == "3P"


@pytest.mark.parametrize("form", ["text", "csv", "html"])
def test_half_of_a_character_in_a_name_is_written_as_a_mark(
    written: Write, tmp_path: Path, form: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path, out = written([record(client="half \ud83d of")]), tmp_path / "out"
    assert main([str(path), "--format", form, "--output", str(out)], lambda _: None) == 0
    wanted = "half ? of" if form == "csv" else "half   of"
    assert wanted in out.read_text(encoding="utf-8")
    with open(tmp_path / "piped", "w", encoding="ascii") as piped, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", piped)
        prepare_standard_files()
        assert main([str(path), "--format", form], lambda _: None) == 0
    assert (rb"half \ud83d of" if form == "csv" else b"half   of") in (tmp_path / "piped").read_bytes()


def test_one_is_not_a_plural(written: Write) -> None:
    said = text(of(written([record()])))
    assert "UTC, 1 minute, 1 record\n1 request: 1 served, 0 refused, 0 errors, 0 aborted\n" in said


NUMBERS = ["100", True, -1, 1.5, 10**400, [], {}]
WRONG = [
    *({name: value} for name in ("input_tokens", "output_tokens", "count", "status") for value in NUMBERS),
    *(
        {name: value}
        for name in ("duration_ms", "first_token_ms", "cost")
        for value in ("1", True, [], 1e999)
    ),
    *({name: 5} for name in ("client", "deployment", "asked_deployment", "model", "error", "operation")),
    *({"client": value} for value in ([], {}, True)),
    *({"outcome": value} for value in (5, [], {})),
    *({"streaming": value} for value in ("no", 1, None)),
    *({"attempts": value} for value in (None, "none", 5, [5], [None], [{}], {}, [attempt(skipped=None)])),
    *({"attempts": [attempt() | {name: []}]} for name in attempt() if name in ("backend", "status")),
    *({"policy": value} for value in (None, 5, [5], [{}], [{"what": [], "dry_run": True}])),
    *({"refused_by": value, "status": 429} for value in (5, "tokens_per_minute", [], {})),
    *({"time": value} for value in (None, 5, "", "soon", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: json.dumps(wrong)[:40])
def test_a_field_of_another_type_costs_its_record_alone(wrong: dict[str, Any], written: Write) -> None:
    path = written([record(), record() | wrong, record()])
    made = of(path, config=config("a", clients=(SHOP,)))
    assert (made["records"], made["unreadable"], made["totals"]["served"]) == (2, 1, 2)
    field = next(iter(wrong))
    said = re.escape(f"1 line is no usage record; the first: {path}, line 2 ({field}")
    assert re.match(said, made["passed_over"])
    assert made["passed_over"][:60] in text(made, 200)


def test_a_field_of_another_type_costs_a_backtest_nothing_more(
    written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written([record(), record(input_tokens="many"), *day()]))
    assert backtest_main([path, "--config", "own"], lambda _: config("a", clients=(SHOP,))) == 0
    assert "Passed over: 1 line is no usage record; the first: " in capsys.readouterr().out


def fields_in_use() -> Iterator[str]:
    """The fields of records that the modules here read, by their source."""
    for module in (CHECKOUT / "addons" / "aoai_gateway" / "analysis").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            match node:
                case ast.Subscript(ast.Name("record"), ast.Constant(str(name)), ast.Load()):
                    yield name


def test_every_field_that_is_read_is_looked_at_first() -> None:
    assert set(fields_in_use()) - {"time"} <= set(record_check._Record.__annotations__)


def test_a_compressed_file_that_is_damaged_is_said_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl.gz"
    whole = gzip.compress((json.dumps(record()) + "\n").encode() * 500)
    path.write_bytes(whole[:40] + bytes([whole[40] ^ 255]) + whole[41:])
    with pytest.raises(RecordsError, match=r"usage\.jsonl\.gz"):
        of(path)
    path.write_bytes(whole[:-20])
    with pytest.raises(RecordsError, match=r"usage\.jsonl\.gz"):
        of(path)


def test_nothing_but_other_lines_is_said(written: Write) -> None:
    assert "line 1 (attempts)" in text(of(written([record() | {"attempts": None}])), 200)


def test_minutes_without_calls_count_and_take_no_memory() -> None:
    values = [3.0, 1.0, 2.0]
    for zeros in (0, 1, 5, 100):
        for share in (0.01, 0.5, 0.9, 0.98, 1.0):
            assert quantile(values, share, zeros=zeros) == quantile([*values, *[0.0] * zeros], share)
    assert quantile(values, 1.0, zeros=10**12) == 3.0


def test_a_compressed_file_and_an_older_record(tmp_path: Path) -> None:
    old = {key: value for key, value in record().items() if key not in ("schema", "policy", "refused_by")}
    path = tmp_path / "usage.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(old) + "\n")
    assert of(path)["totals"]["served"] == 1


def test_a_record_of_a_later_schema_is_not_guessed_at(written: Write) -> None:
    with pytest.raises(RecordsError, match="schema 2"):
        of(written([record() | {"schema": 2}]))


def test_only_what_is_asked_for(written: Write) -> None:
    path = written(day())
    noon = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
    assert {row["client"] for row in of(path, Selection(since=noon))["consumers"]} == {"Batch", "(unknown)"}
    assert {row["client"] for row in of(path, Selection(until=noon))["consumers"]} == {"Shop"}
    assert of(path, Selection(clients=frozenset({"Batch"})))["totals"]["requests"] == 33
    assert of(path, Selection(clients=frozenset({"nobody"})))["consumers"] == []


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("today", "2026-11-29T00:00:00+00:00"),
        ("yesterday", "2026-11-28T00:00:00+00:00"),
        ("90m", "2026-11-29T10:30:00+00:00"),
        ("7d", "2026-11-22T12:00:00+00:00"),
        ("2026-11-01", "2026-11-01T00:00:00+00:00"),
        ("2026-11-01T10:00+02:00", "2026-11-01T08:00:00+00:00"),
    ],
)
def test_times_as_people_say_them(said: str, meant: str) -> None:
    now = datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert moment(said, now) == datetime.fromisoformat(meant).timestamp()


@pytest.mark.parametrize("said", ["", "soon", "h", "5y", "2026-13-01"])
def test_what_is_no_time(said: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - in the words of Python
        moment(said, datetime(2026, 11, 29, tzinfo=UTC))


@pytest.mark.parametrize("said", ["9999999999d", "999999999d"])
def test_a_time_beyond_the_calendar_is_refused_in_words(
    said: str, written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(written(day())), "--since", said], None)
    assert ended.value.code == 2
    assert f"{said!r} is no time" in capsys.readouterr().err


# --- what is written -------------------------------------------------------------------------------------


def test_the_terminal_has_room_at_80_columns(written: Write) -> None:
    long = [each | {"client": (each["client"] or "x") * 9} for each in day()]
    for records in (day(), long):
        said = text(of(written(records), config=config("a", clients=(SHOP,))), 80)
        assert max(map(len, said.splitlines())) <= 80
    said = text(of(written(day()), config=config("a", clients=(SHOP,))), 80)
    assert re.search(r"^Shop +gpt-4o +69 +4 ", said, re.MULTILINE)
    assert "too little" in said
    assert "tokens/min 4" in said


def test_nothing_is_said_of_nothing(written: Write) -> None:
    assert text(of(written([]))) == "No records\n"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t"])
def test_no_name_that_a_client_makes_up_is_a_formula_in_a_spreadsheet(written: Write, begin: str) -> None:
    name = f"{begin}HYPERLINK('http://x')"
    made = of(written([record(deployment=name, status=404, error="DeploymentNotFound")]))
    (row,) = csv.DictReader(io.StringIO(as_csv(made), newline=""))
    assert row["deployment"] == f"'{name}"
    assert row["requests"] == "1"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_no_name_that_a_client_makes_up_begins_a_line(written: Write, end: str) -> None:
    made = of(written([record(deployment=f"a{end}=b", status=404, error="DeploymentNotFound")]))
    (row,) = csv.DictReader(io.StringIO(as_csv(made), newline=""))
    assert row["deployment"] == "a =b"


def test_no_name_of_a_record_moves_the_terminals_cursor(written: Write) -> None:
    said = text(of(written([record(deployment="a\x1b[2J\u202eb", client="c\x07")])), 80)
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("cost", "said"),
    [(0.0, "0.00"), (0.0004, "<0.01"), (0.004999, "<0.01"), (0.005, "0.01"), (1234.5, "1,234.50")],
)
def test_a_small_cost_is_not_none(written: Write, cost: float, said: str) -> None:
    made = of(written([record(cost=cost)]))
    assert text(made).splitlines()[2].endswith(f", cost {said}")
    assert f"<b>{escape(said)}</b>" in page(made)


@pytest.mark.parametrize("minutes", [1, 2, 5, 6, 7, 8, 11, 61, 600])
def test_the_times_below_a_chart_are_as_far_from_each_other(written: Write, minutes: int) -> None:
    begin = datetime(2026, 11, 28, 10, tzinfo=UTC)
    times = [(begin + timedelta(minutes=n)).isoformat() for n in range(minutes)]
    html = page(of(written([record(time=each) for each in times])))
    chart = html[html.index("<svg") : html.index("</svg>")]
    places = [float(x) for x in re.findall(r'<text x="([0-9.]+)" y="[0-9]+">\d\d', chart)]
    steps = [round(after - before, 0) for before, after in itertools.pairwise(places)]
    assert 1 <= len(places) <= 7
    assert max(steps, default=1) - min(steps, default=1) <= 1
    assert min(steps, default=60) >= 60, "they do not stand in each other"


def test_csv_has_a_line_for_each_consumer(written: Write) -> None:
    made = of(written(day()))
    rows = list(csv.DictReader(io.StringIO(as_csv(made))))
    assert [row["client"] for row in rows] == ["Shop", "Batch", "(unknown)"]
    assert rows[0]["refused_by_cause"] == "tokens_per_minute=4"


def test_the_page_is_whole_and_holds_nothing_from_elsewhere(written: Write, tmp_path: Path) -> None:
    odd = [*day(), record(client="<script>alert(1)</script>", time="2026-11-28T11:00:00.000Z")]
    out = tmp_path / "report.html"
    assert main([str(written(odd)), "--format", "html", "-o", str(out)], None) == 0
    html = out.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?://", html)
    assert html.count("<svg") == 2
    assert "prefers-color-scheme: dark" in html


def test_json_can_be_read_again(written: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(written(day())), "--format", "json", "--client", "Shop"], None) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["served"] == 65


def test_a_file_that_is_not_there_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(tmp_path / "none.jsonl")], None) == 1
    assert capsys.readouterr().err.endswith("none.jsonl: No such file or directory\n")


@pytest.mark.parametrize(
    ("number", "written_so"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1k"), (12_345, "12.3k"), (999_700, "1M"), (2.5e9, "2.5G")],
)
def test_numbers_in_few_characters(number: float, written_so: str) -> None:
    assert short(number) == written_so


def test_service_tiers_are_told_as_asked_for_and_as_served(written: Write) -> None:
    asked = [("priority", "priority"), ("priority", "default"), ("priority", "default"), (None, "default")]
    records = [
        record(client="Shop", deployment="gpt", service_tier_requested=one, service_tier=other, cost=0.5)
        for one, other in asked
    ]
    made = of(written(records))
    found = [(row["requested"], row["served"], row["requests"]) for row in made["service_tiers"]]
    assert found == [("priority", "default", 2), ("priority", "priority", 1)]
    assert "Service tiers" in text(made)
    assert "<h2>Service tiers</h2>" in page(made)
    older = {key: value for key, value in record(client="Shop").items() if "tier" not in key}
    assert of(written([older]))["service_tiers"] == []


def test_what_azure_spilled_over_is_spilled(written: Write) -> None:
    spilled = {"from": "ptu", "to": "std", "error": "429"}
    made = of(written([record(client="Shop"), record(client="Shop", spillover=spilled)]))
    assert consumer(made, "Shop")["spill_share"] == 0.5
