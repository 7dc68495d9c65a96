"""The screen of `workerkit top`, drawn from a fixed snapshot: what must be seen at which size, and what keys do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from workerkit.api.warmup import WarmStatus
from workerkit.cache.ledger import CacheStats
from workerkit.cli.live import text
from workerkit.cli.live.frame import Scene, frame, page
from workerkit.cli.live.keys import Keys
from workerkit.cli.live.layout import columns, shares
from workerkit.cli.live.panes import PANES, all_panes
from workerkit.cli.live.table import Cell, Column, Table, fitted, row
from workerkit.cli.live.view import View
from workerkit.errors import StoreUnavailable
from workerkit.jobs.index import BANDS
from workerkit.jobs.record import Failure, JobInfo, Progress
from workerkit.limits.tally import LimitStats
from workerkit.limits.usage import RateUsage, Usage
from workerkit.top.change import change
from workerkit.top.news import news
from workerkit.top.snapshot import JobBoard, Limit, LimitKey, Parked, Snapshot, Store, Warm, as_json
from workerkit.top.watch import Watch
from workerkit.warming.run import Outcome

NOW = 1_700_000_000.0
SIZES = [(80, 24), (200, 60), (40, 10), (120, 30), (20, 5), (1, 1), (300, 100)]


def usage(limit: int, left: int, *, paused: float = 0.0, holders: int = 0, learned: float = 1.0) -> Usage:
    rate = RateUsage(f"{limit}/s", limit, left, 0.5, 0, learned, None, 0.0)
    return Usage((rate,), holders, 5, paused, False)


def job(job_id: str, status: Any, *, task: str = "shop.load", **more: Any) -> JobInfo:
    fields: dict[str, Any] = {
        "progress": Progress(30, 100, "reading", 12.5, 5.6),
        "attempt": 1,
        "fence": 1,
        "version": 1,
        "heartbeat": 1.5,
        "created": NOW - 60,
        "started": NOW - 60,
        "ended": None,
        "owner": None,
        "tags": (),
        "root_id": None,
        "error": None,
        "cached": False,
        "cancelling": False,
        "stuck": False,
        **more,
    }
    return JobInfo(id=job_id, status=status, task=task, **fields)


def warm(name: str, *, debt: int = 0, late: float = 0.0, **more: Any) -> Warm:
    outcome = Outcome(30, 4, 0, debt)
    fields = {"running": None, "paused": False, "reason": "", **more}
    status = WarmStatus(name, "every 5m", NOW + 42, fields.pop("running"), NOW - 250, fields.pop("paused"), 9, 0, 0, outcome, fields.pop("reason"))  # fmt: skip # noqa: E501 - its fields in their order
    return Warm("price", status, late)


def made(at: float = NOW, scale: int = 1, **more: Any) -> Snapshot:
    """A fleet; what it counted is `scale` times so much."""
    store = Store(
        ("cache", "guard"), "redis://db:6379/1", 0.0002, "", False, "valkey 9.1.2", 90_000, 52_400_000, 100_000_000,
        "noeviction", 41, 10_000, 812,
    )  # fmt: skip
    failed = job("dead-beef", "FAILURE", ended=NOW - 30, error=Failure("ValueError", "no such row"))
    fields: dict[str, Any] = {
        "functions": {
            "shop.tasks.price": CacheStats(
                hits=9000 * scale, misses=1000 * scale, computations=900, saved=4500.0 * scale
            ),
            "shop.tasks.weight": CacheStats(hits=1, misses=9),
        },
        "limits": (
            Limit("stripe", ("50/s",), 5, LimitStats(100 * scale, 7 * scale), (
                LimitKey("acct_7", 90 * scale, 7 * scale, usage(50, 0, holders=5), ("host:1 shop.pay",), 12, "50/s"),
                LimitKey("acct_8", 10, 0, usage(50, 48)),
            )),
            Limit("github", ("5000/h",), None, LimitStats(3), (LimitKey("", 3, 0, usage(5000, 4000, paused=90.0)),)),
            Limit("idle", ("1/s",), None, LimitStats(), ()),
        ),
        "parked": Parked(12, 1, 2),
        "jobs": JobBoard(
            {**dict.fromkeys(BANDS, 0), "RUNNING": 2, "FAILURE": 1},
            (job("cafe", "RUNNING"),), (job("f00d", "RUNNING", stuck=True, heartbeat=900.0, task="shop.stuck"),),
            (failed,), more=False,
        ),
        "warmups": (warm("prices"), warm("weights", debt=17), warm("news", late=75.0)),
        **more,
    }  # fmt: skip
    return Snapshot(at, 0.002, "wk", (store,), **fields)


def watching(*snapshots: Snapshot) -> Watch:
    watch = Watch()
    for number, each in enumerate(snapshots):
        watch.took(each, float(number))
    return watch


def drawn(watch: Watch, width: int, height: int, view: View | None = None, now: float = 1.0) -> list[str]:
    lines = frame(Scene("shop wk redis://db:6379/1", watch, now, NOW), view or View(1.0), width, height)
    return [line.plain for line in lines]


@pytest.fixture
def watch() -> Watch:
    return watching(made(), made(NOW + 10, 2))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("zoom", [False, True])
def test_a_frame_fills_its_screen_and_no_more(watch: Watch, width: int, height: int, zoom: bool) -> None:
    for focus in range(len(PANES)):
        for chosen in (False, True):
            lines = drawn(watch, width, height, View(1.0, focus=focus, chosen=chosen, zoom=zoom))
            assert len(lines) == height
            assert {cell_len(line) for line in lines} == {width}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
def test_what_is_urgent_is_seen_at_both_sizes(watch: Watch, width: int, height: int) -> None:
    seen = "\n".join(drawn(watch, width, height))
    for what in (
        "shop wk redis://db:6379/1", "every 1s",
        "0.20ms round trip", "52 MB of 100 MB", "41/10,000 clients", "812 cmd/s",
        "2h30m of work", "18,001 calls", "90% hits", "450 s/s", "900 calls/s",
        "12 parked", "github", "stripe acct_7", "0/50",
        "2 running, 1 STUCK", "shop.stuck", "stuck", "15m00s", "shop.load", "30%",
        "3 Cache", "shop.tasks.price", "1,000",
        "debt 17, 1 late", "late 1m15s", "in 32s",
        "5 Events", "FAILURE: ValueError",
        "q end", "? help",
    ):  # fmt: skip
        assert what in seen, what


def test_what_presses_most_comes_first(watch: Watch) -> None:
    lines = drawn(watch, 200, 60, View(1.0, zoom=True))
    order = [next(i for i, line in enumerate(lines) if name in line) for name in ("github", "acct_7", "acct_8", "idle")]
    assert order == sorted(order)
    assert "paused for 1m30s" in lines[order[0]]
    assert "host:1 shop.pay waits" in lines[order[1]]
    jobs = [line for line in drawn(watch, 200, 60, View(1.0, focus=1, zoom=True)) if "shop." in line]
    assert ["stuck" in jobs[0], "running" in jobs[1], "failure" in jobs[2]] == [True, True, True]
    warmups = [line.split()[0] for line in drawn(watch, 200, 60, View(1.0, focus=3, zoom=True)) if "every 5m" in line]
    assert warmups == ["news", "weights", "prices"]


def test_figures_are_aligned_at_their_right(watch: Watch) -> None:
    lines = drawn(watch, 80, 24, View(1.0, focus=2, zoom=True))
    (head,) = [line for line in lines if "3 Cache" in line]
    (price,) = [line for line in lines if "shop.tasks.price" in line]
    for title, figure in (("calls/s", "1,000"), ("  hits", "  90%"), ("   saved", "   2h30m")):
        assert head.index(title) + len(title) == price.index(figure) + len(figure)


def test_rates_are_those_between_snapshots(watch: Watch) -> None:
    lines = drawn(watch, 200, 60)
    (acct,) = [line for line in lines if "stripe acct_7" in line]
    assert re.search(r" 0/50 +5/5 +9\.0 +0\.7 +13 ", acct), acct
    assert "10.0 ok/s, 0.7 no/s" in "\n".join(drawn(watch, 200, 60, View(1.0, zoom=True)))
    # With one snapshot alone nobody knows them.
    (price,) = [line for line in drawn(watching(made()), 80, 24) if "shop.tasks.price" in line]
    assert price.split()[1:] == ["-", "90%", "90%", "-", "-", "1h15m"], price


def test_small_screens_keep_what_matters_most(watch: Watch) -> None:
    seen = "\n".join(drawn(watch, 40, 10))
    assert "0.20ms round trip" in seen
    assert "github" in seen
    assert "shop.stuck" in seen
    # The pane that was chosen is never the one that is left out.
    assert "Events" in "\n".join(drawn(watch, 40, 8, View(1.0, focus=4, chosen=True)))


def test_text_of_the_users_cannot_move_the_cursor_or_be_markup(watch: Watch) -> None:
    evil = "a\x1b[2J\n\r\x07[bold]b\u202e\u2028[/]"
    found = made(
        functions={evil: CacheStats(hits=5)},
        limits=(Limit("x", (), None, LimitStats(), (LimitKey(evil, 1, 0, None, (evil,), 1, evil),)),),
        jobs=JobBoard(
            dict.fromkeys(BANDS, 0), (job(evil, "RUNNING", task=evil, progress=Progress(1, 2, evil)),), (),
            (job("b", "FAILURE", ended=NOW, error=Failure(evil, evil)),), more=False,
        ),
        warmups=(warm(evil, reason=evil),),
    )  # fmt: skip
    shown = watching(found)
    for zoom, focus in ((False, 0), *((True, focus) for focus in range(5))):
        lines = drawn(shown, 200, 60, View(1.0, focus=focus, zoom=zoom))
        assert all(line.isprintable() for line in lines)
        assert "[bold]b" in "\n".join(lines)
    shown.failed(StoreUnavailable(evil), 5.0, NOW)
    assert all(line.isprintable() for line in drawn(shown, 200, 60))


def test_wide_letters_take_two_cells(watch: Watch) -> None:
    found = made(functions={"商店.任务.价格" * 12: CacheStats(hits=5), "b": CacheStats(hits=5)})
    for width in (40, 79, 80, 200):
        assert {cell_len(line) for line in drawn(watching(found), width, 24)} == {width}


def test_redis_being_down_is_said_with_the_reason_and_the_age_of_the_figures(watch: Watch) -> None:
    watch.failed(StoreUnavailable("redis://db:6379/1 cannot be reached: refused", call="x"), 3.0, NOW)
    watch.failed(StoreUnavailable("it is tried again within a second"), 4.0, NOW)
    seen = "\n".join(drawn(watch, 80, 24, now=9.0))
    assert "Redis DOWN for 6.0s, the figures are 8.0s old" in seen
    assert "redis://db:6379/1 cannot be reached: refused" in seen
    assert "tried again" not in seen  # which is no reason
    assert "stripe acct_7" in seen
    assert "round trip" not in seen
    watch.took(made(NOW + 20, 3), 10.0)
    seen = "\n".join(drawn(watch, 80, 24, now=10.5))
    assert "DOWN" not in seen
    told = [(each.name, each.level) for each in watch.news if each.name.startswith("store")]
    assert told == [("store.down", "bad"), ("store.up", "good")]


def test_without_any_snapshot_the_screen_says_why() -> None:
    watch = Watch()
    assert "reading ..." in "\n".join(drawn(watch, 80, 24))
    watch.failed(StoreUnavailable("nobody listens there", call="x"), 3.0, NOW)
    seen = "\n".join(drawn(watch, 80, 24, now=3.0))
    assert "nobody listens there" in seen
    assert "q end" in seen


def test_figures_that_come_late_are_marked(watch: Watch) -> None:
    assert "old" not in "\n".join(drawn(watch, 80, 24, now=3.9))
    assert "the figures are 4.0s old" in "\n".join(drawn(watch, 80, 24, now=5.0))
    assert "paused; the figures are 4.0s old" in "\n".join(drawn(watch, 80, 24, View(1.0, paused=True), now=5.0))


def test_a_store_that_cannot_be_read_leaves_the_other_to_be_seen() -> None:
    stores = (Store(("cache",), "redis://a", 0.001, hidden=True), Store(("guard",), "redis://b", error="refused"))
    found = replace(made(), stores=stores, limits=None, parked=None, jobs=None, warmups=None)
    seen = "\n".join(drawn(watching(found), 80, 24))
    assert re.search(r"Cache +1\.00ms round trip, the rest is hidden", seen)
    assert re.search(r"Guard +refused", seen)
    for title in ("Limits", "Jobs", "Warmups"):
        assert f"{title}: not known" in seen
    assert "shop.tasks.price" in seen


def test_an_idle_app_says_what_there_is_not() -> None:
    board = JobBoard(dict.fromkeys(BANDS, 0), (), (), (), more=False)
    found = made(functions={}, limits=(), parked=Parked(), jobs=board, warmups=())
    seen = "\n".join(drawn(watching(found), 80, 24))
    for what in ("no limiter", "0 running, 0 stuck", "no memoized function", "no warmup", "none yet"):
        assert what in seen


def test_a_page_has_all_there_is_and_no_keys(watch: Watch) -> None:
    lines = [line.plain for line in page(Scene("shop", watch, 1.0, NOW), 80)]
    assert {cell_len(line) for line in lines} == {80}
    seen = "\n".join(lines)
    assert "q end" not in seen
    for pane in all_panes(watch, watch.snapshot or made(), full=True):
        for cells in pane.table.rows:
            assert any(cells[0].text.strip()[:8] in line for line in lines)


def test_a_snapshot_is_json(watch: Watch) -> None:
    found = json.loads(json.dumps(as_json(made()), allow_nan=False))
    assert found["functions"]["shop.tasks.price"]["hit_rate"] == 0.9
    assert found["limits"][0]["keys"][0]["usage"]["rates"][0]["remaining"] == 0
    assert found["warmups"][1]["debt"] == 17
    assert found["jobs"]["failed"][0]["error"] == {"type": "ValueError", "message": "no such row"}


# News


def test_what_goes_on_is_one_piece_of_news() -> None:
    def at(moment: float, failures: int) -> Snapshot:
        return made(moment, functions={"f": CacheStats(hits=1, failures=failures)})

    watch = watching(at(NOW, 0), at(NOW + 1, 2), at(NOW + 2, 5), at(NOW + 100, 6))
    told = [each.said for each in watch.news if each.name == "cache.refresh_failed"]
    assert told == ["f: old values served instead (5)", "f: old values served instead (1)"]


def test_nothing_new_is_no_news() -> None:
    assert news(made(), made(NOW + 1)) == []
    assert change(made(), made(NOW + 1)).all_functions == CacheStats()


# Layout


@pytest.mark.parametrize("height", range(1, 70))
@pytest.mark.parametrize("focus", [None, 0, 4])
def test_panes_share_the_lines_there_are(height: int, focus: int | None) -> None:
    wanted = [7, 0, 30, 3, 200]
    found = shares(wanted, height, focus)
    assert sum(found) <= max(height, 2)
    assert all(got <= want + 1 for got, want in zip(found, wanted, strict=True))
    if height >= 9:
        assert all(found)
        assert sum(found) == min(height, sum(wanted) + 5)  # nothing is left empty while there is something to show
    assert focus is None or found[focus]


def test_the_chosen_pane_gets_up_to_half() -> None:
    assert shares([20, 20, 20], 30, None) == [10, 10, 10]
    assert shares([20, 20, 20], 30, 1) == [8, 15, 7]
    assert shares([20, 3, 20], 30, 1) == [13, 4, 13]


def test_panes_stand_in_two_columns_where_there_is_room() -> None:
    assert [numbers for numbers, _, _ in columns(149)] == [(0, 1, 2, 3, 4)]
    left, right = columns(200)
    assert left[0] + right[0] == (0, 1, 2, 3, 4)
    assert left[2] < right[1]
    assert right[1] + right[2] == 200


def test_columns_that_matter_least_go_first() -> None:
    table = Table(
        (Column("", least=6, right=False, grows=True), Column("aaaa"), Column("bbbb", rank=1), Column("cccc", rank=2)),
        [[Cell("a-very-long-name"), Cell("1"), Cell("2"), Cell("3")]],
    )
    shown = {width: [i for i, _ in fitted(table, width)] for width in (60, 24, 23, 18, 17, 12, 5)}
    assert shown == {
        60: [0, 1, 2, 3],
        24: [0, 1, 2, 3],
        23: [0, 1, 2],
        18: [0, 1, 2],
        17: [0, 1],
        12: [0, 1],
        5: [0, 1],
    }
    assert row(table, fitted(table, 14), table.rows[0], 14).plain == "a-ve…ame     1"


# Text


@pytest.mark.parametrize(
    ("given", "width", "cut"),
    [("abcdef", 6, "abcdef"), ("abcdef", 5, "ab…ef"), ("abcdef", 2, "a…"), ("abcdef", 1, "…"), ("abcdef", 0, "")],
)
def test_names_are_cut_in_the_middle(given: str, width: int, cut: str) -> None:
    assert text.cut(given, width) == cut


def test_wide_names_are_never_wider_than_their_room() -> None:
    for width in range(30):
        assert cell_len(text.cut("日本語a日本語b日本語", width)) <= width


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0ms"), (0.25, "250ms"), (0.9999, "1.0s"), (4.25, "4.2s"), (59.6, "1m00s"), (80, "1m20s"), (3600, "1h00m"),
     (11_111, "3h05m"), (86_399.9, "1d0h"), (1_000_000, "11d13h"), (-1, "0ms")],
)  # fmt: skip
def test_times_are_short(seconds: float, said: str) -> None:
    assert text.span(seconds) == said


def test_figures_are_short() -> None:
    assert [text.count(each) for each in (0, 999, 54_321, 123_456, 1.5e6, 2e9, 3e12)] == [
        "0", "999", "54,321", "123k", "1.5M", "2.0G", "3.0T",
    ]  # fmt: skip
    assert [text.rate(each) for each in (None, 0, 0.25, 99.9, 100, 1234)] == ["-", "0", "0.2", "99.9", "100", "1,234"]
    assert [text.percent(each) for each in (0, 0.5, 0.9951, 0.99999, 1)] == ["0%", "50%", "99%", "99%", "100%"]
    assert [text.size(each) for each in (0, 999, 1000, 52_400_000, 3e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "52 MB",
        "3.0 GB",
    ]
    assert [text.bar(each, 4) for each in (-1, 0, 0.5, 0.53, 1, 9)] == ["    ", "    ", "██  ", "██▏ ", "████", "████"]


# Keys


def pressed(view: View, *keys: str) -> View:
    for key in keys:
        view.press(key)
    return view


def test_q_and_ctrl_c_end_it() -> None:
    assert [pressed(View(1.0), key).over for key in ("q", "Q", "ctrl-c", "x")] == [True, True, True, False]


def test_tab_and_arrows_move_the_focus_round() -> None:
    view = View(1.0)
    seen = []
    for _ in range(6):
        view.press("tab")
        seen.append(view.focus)
    assert seen == [0, 1, 2, 3, 4, 0]  # the first press shows where it is
    assert pressed(view, "left").focus == 4
    assert pressed(view, "backtab", "right", "right").focus == 0


def test_digits_show_one_pane_alone_and_all_again() -> None:
    view = pressed(View(1.0), "3")
    assert (view.focus, view.zoom) == (2, True)
    assert (pressed(view, "4").focus, view.zoom) == (3, True)
    assert (pressed(view, "4").focus, view.zoom) == (3, False)
    assert pressed(view, "enter").zoom
    assert not pressed(view, "esc").zoom
    assert pressed(View(1.0), "9", "0").focus == 0


def test_scrolling_ends_at_both_ends(watch: Watch) -> None:
    view = View(1.0, focus=1, zoom=True)
    drawn(watch, 80, 6, view)  # a heading and one of three rows
    assert (view.page, view.rows) == (1, 3)
    offsets = []
    for key in ("down", "j", "pgdn", "pgdn", "up", "g", "G", "k"):
        view.press(key)
        offsets.append(view.offsets[1])
    assert offsets == [1, 2, 2, 2, 1, 0, 2, 1]
    assert "2 Jobs 2-2/3: 2 running" in "\n".join(drawn(watch, 80, 6, view))
    pressed(view, "G")
    drawn(watch, 80, 24, view)  # a larger screen: nothing to scroll any more
    assert view.offsets[1] == 0


def test_plus_and_minus_change_the_interval() -> None:
    view = View(1.0)
    assert [pressed(view, key).interval for key in ("+", "+", "-", "-", "-", "-", "-")] == [2, 5, 2, 1, 0.5, 0.25, 0.25]
    assert pressed(View(300.0), "+").interval == 300.0
    assert pressed(View(300.0), "-").interval == 60.0
    assert pressed(View(0.1), "-").interval == 0.1


def test_help_is_closed_by_any_key(watch: Watch) -> None:
    view = pressed(View(1.0), "?")
    assert "one pane alone" in "\n".join(drawn(watch, 80, 24, view))
    assert not pressed(view, "p").help
    assert not view.paused
    assert pressed(view, "p").paused
    assert pressed(view, "?", "q").over


def test_n_goes_on_to_the_next_kit() -> None:
    view = View(1.0, kits=2)
    assert (pressed(view, "n").kit, view.refresh) == (1, True)
    assert pressed(view, "n").kit == 0


def test_keys_are_named_however_they_come() -> None:
    assert Keys().feed(b"q\t\r\x1b[A\x1bOB\x1b[Z\x1b[5~\x1b[1;5C\x1b[6~G\x03") == [
        "q", "tab", "enter", "up", "down", "backtab", "pgup", "right", "pgdn", "G", "ctrl-c",
    ]  # fmt: skip
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.waiting
    assert keys.feed(b"[") == []
    assert keys.feed(b"Bx") == ["down", "x"]
    assert not keys.waiting
    assert keys.feed(b"\x1b") == []
    assert keys.end() == ["esc"]
    assert keys.feed(b"\x1b[9999z") == []  # no key that is known
    assert Keys().feed("é\xff".encode("latin-1")) != []
