"""The report in a real browser: slider, search, filter, keyboard, and texts with markup."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotpress.compression.config import Allocation, Protection
from cotpress.data import planted
from cotpress.records import CompressedTrace, Trace, Unit
from cotpress.report.stage import report_collection, report_run
from cotpress.store.artifacts import Artifact
from cotpress.store.tables import read_records
from cotpress.terminal import escaped
from support.browser import Browser, find_browser
from support.reported import World

NASTY = (
    "a<b </script><script>document.title='owned'</script> &amp; \u2028 \u2029 🙂 \ud55c\uad6d\uc5b4 \u0627\u0644 "
    "<!-- x\n\nSo 3 > 2."
)
RULES = {
    "granularity": Unit.step, "protection": Protection.math, "max_consecutive_deletions": 5,
    "allocation": Allocation.budget,
}  # fmt: skip
RATIOS = (1.0, 0.9, 0.7, 0.57, 0.5, 0.3)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    opened = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


class Sweep:
    """Two scorers over planted traces and one trace with markup, their compressed rows, and the page."""

    def __init__(self, root: Path) -> None:
        traces = list(planted.traces(num_traces=12, families=[], length=planted.Length.short, seed=1))
        nasty = Trace(id="<b>nasty</b>", question="<i>q</i>", thinking=NASTY, response="", answer="2", family="<u>")
        self.traces = [*traces, nasty]
        self.world = World(root, self.traces)
        self.compressed: dict[tuple[str, float], Artifact] = {}
        for scorer, settings in (("cts", {}), ("tokenskip", RULES)):
            for ratio in RATIOS[1:]:
                made = self.world.compressed(scorer, ratio, settings)
                self.compressed[scorer, ratio] = made
                self.world.run(scorer, ratio, made)
        report_collection(root / "runs", root / "out")
        self.page = root / "out" / "report.html"

    def masks(self, scorer: str, ratio: float) -> dict[str, list[bool]]:
        if ratio == 1:
            return {id_: [True] * len(mask) for id_, mask in self.masks(scorer, 0.9).items()}
        rows = read_records(self.compressed[scorer, ratio].file("compressed.parquet"), CompressedTrace)
        return {row.id: row.keep_mask.tolist() for row in rows}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def page(browser: Browser, sweep: Sweep) -> Iterator[Browser]:
    browser.open(sweep.page)
    yield browser
    assert browser.problems == []


SHOWN = (
    "[...document.querySelectorAll('.pane')]"
    ".map(pane => [...pane.querySelectorAll('.t')].map(token => !token.classList.contains('dropped')))"
)


def slide(page: Browser, ratio: float) -> None:
    page.js(f"(() => {{ const r = document.getElementById('ratio'); r.value = {round(100 * ratio)}; "
            "r.dispatchEvent(new Event('input')); })()")  # fmt: skip


def choose(page: Browser, number: int) -> None:
    page.js(f"document.querySelectorAll('#list button')[{number}].click()")


def listed(page: Browser) -> list[str]:
    ids: list[str] = page.js("[...document.querySelectorAll('#list button b')].map(b => b.textContent)")
    return ids


def test_every_position_of_the_slider_keeps_what_compression_keeps(page: Browser, sweep: Sweep) -> None:
    for number in (0, 5, len(sweep.traces) - 1):
        choose(page, number)
        for ratio in (*RATIOS, 0.9, 0.3, 1.0):  # down, and up again
            slide(page, ratio)
            masks = [sweep.masks(s, ratio)[sweep.traces[number].id] for s in ("cts", "tokenskip")]
            assert page.js(SHOWN) == masks, (number, ratio)
    header = page.js("document.querySelector('.pane .counts').textContent")
    assert header.startswith(f"{len(masks[0])} of {len(masks[0])} kept (1.00)")


def test_arrow_key_on_the_slider_moves_it_by_one_hundredth(page: Browser) -> None:
    page.js("document.getElementById('ratio').focus()")
    before = page.js("document.querySelector('.ratio-shown').textContent")
    page.press("ArrowLeft")
    after = page.js("document.querySelector('.ratio-shown').textContent")
    assert round(float(before) - float(after), 4) == 0.01


def test_tokens_joined_are_the_text_and_markup_stays_text(page: Browser) -> None:
    choose(page, 12)
    slide(page, 0.5)
    texts = page.js("[...document.querySelectorAll('.tokens')].map(p => p.textContent)")
    assert texts == [escaped(NASTY), escaped(NASTY)]
    assert page.js("document.querySelector('#problem p').textContent") == "<i>q</i>"
    assert page.js("document.querySelectorAll('#viewer script, #viewer u, #list i, #problem i, #panes i').length") == 0
    assert page.js("document.title").startswith("Results")
    assert listed(page)[12] == "<b>nasty</b>"


def test_search_and_family_filter_the_problems_and_mark_matches(page: Browser, sweep: Sweep) -> None:
    assert len(listed(page)) == 13
    page.js("document.getElementById('search').focus()")
    page.type("WAIT")
    matching = [t.id for t in sweep.traces if "wait" in "\n".join((t.id, t.question, t.answer, t.thinking)).lower()]
    assert 0 < len(matching) < 13
    assert listed(page) == matching
    assert page.js("document.getElementById('count').textContent").startswith(f"{len(matching)} found in 13")
    page.press("Enter")
    marked = page.js("[...document.querySelector('.tokens').querySelectorAll('.hit')].map(t => t.textContent).join('')")
    assert "wait" in marked.lower()
    page.js(
        "(s => { s.value = 'nothing like it'; s.dispatchEvent(new Event('input')) })(document.getElementById('search'))"
    )
    assert listed(page) == []
    assert "Nothing found" in page.js("document.getElementById('list').textContent")
    page.js("(s => { s.value = ''; s.dispatchEvent(new Event('input')) })(document.getElementById('search'))")
    family = sweep.traces[3].family
    page.js(
        f"(s => {{ s.value = '{family}'; s.dispatchEvent(new Event('change')) }})(document.getElementById('family'))"
    )
    assert listed(page) == [t.id for t in sweep.traces if t.family == family]


def test_hover_and_focus_show_the_tooltip_of_a_token(page: Browser, sweep: Sweep) -> None:
    choose(page, 0)
    page.hover(".tokens .t[data-i='3']")
    assert page.js("document.getElementById('tip').hidden") is False
    text = page.js("document.getElementById('tip').textContent")
    for part in ("token 4 of", "planted:", "score", "rank", "kept from", "cts", "tokenskip"):
        assert part in text
    page.js("document.querySelector('.tokens .t').focus()")
    assert "token 1 of" in page.js("document.getElementById('tip').textContent")
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.js("document.activeElement.dataset.i") == "2"
    assert "token 3 of" in page.js("document.getElementById('tip').textContent")
    page.press("End")
    last = len(sweep.masks("cts", 0.9)[sweep.traces[0].id]) - 1
    assert page.js("document.activeElement.dataset.i") == str(last)
    page.press("ArrowUp")
    assert 0 < int(page.js("document.activeElement.dataset.i")) < last
    page.press("Escape")
    assert page.js("document.getElementById('tip').hidden") is True


def test_rank_in_the_tooltip_is_the_order_of_deletion(page: Browser, sweep: Sweep) -> None:
    choose(page, 0)
    kept = sweep.masks("cts", 0.5)[sweep.traces[0].id]
    page.js(f"document.querySelector('.tokens .t[data-i=\"{kept.index(False)}\"]').focus()")
    rank, _, n = page.js("document.querySelector('#tip tbody tr').cells[2].textContent").partition(" of ")
    assert int(rank) > sum(kept)
    assert int(n) == len(kept)


def test_theme_button_and_system_decide_the_colours(page: Browser) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.js(colour)
    page.scheme("dark")
    dark = page.js(colour)
    assert dark != light
    page.js("document.getElementById('theme').click()")
    assert (page.js("document.getElementById('theme').textContent"), page.js(colour)) == ("Theme: light", light)
    page.scheme("light")
    page.js("document.getElementById('theme').click()")
    assert page.js(colour) == dark
    page.js("document.getElementById('theme').click()")


def test_first_stop_of_the_keyboard_skips_to_the_results(page: Browser) -> None:
    page.press("Tab")
    assert page.js("document.activeElement.textContent") == "Skip to the results"
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.js("document.querySelectorAll('.tokens .t[tabindex=\"0\"]').length") == 2  # one stop per scorer


def test_nothing_is_wider_than_a_telephone(browser: Browser, sweep: Sweep) -> None:
    browser.open(sweep.page, width=400, height=800)
    assert browser.js("document.documentElement.scrollWidth") == 400
    assert browser.problems == []


HEADINGS = (
    "[...document.querySelectorAll('#results-1 table thead')[0].querySelectorAll('th')]"
    ".filter(cell => cell.offsetParent).map(cell => cell.innerText.replace('\\n', ' '))"
)


def test_narrow_page_shows_accuracy_and_tokens_and_the_other_columns_on_demand(browser: Browser, sweep: Sweep) -> None:
    browser.open(sweep.page, width=420, height=800)
    table = "document.querySelector('#results-1 .scroll')"
    assert browser.js(HEADINGS) == ["System", "asked ratio", "accuracy % [95 % CI]", "generated tokens [CI]"]
    assert browser.js(f"{table}.scrollWidth <= {table}.clientWidth")
    assert browser.js("[...document.querySelectorAll('.drawing')].every(box => box.scrollWidth <= box.clientWidth)")
    browser.js("document.querySelector('#results-1 .all-columns input').click()")
    every = browser.js(HEADINGS)
    assert len(every) == 11
    browser.open(sweep.page, width=1280)
    assert browser.js(HEADINGS) == every
    assert not browser.js("document.querySelector('.all-columns').offsetParent")
    assert browser.problems == []


def test_tables_of_deletions_follow_the_slider(page: Browser) -> None:
    share = "document.querySelector('table.deletions tbody tr').cells[2].textContent"
    slide(page, 1.0)
    assert page.js(share) == "0 %"
    slide(page, 0.3)
    assert int(page.js(share).removesuffix(" %")) > 40


def test_run_without_artifacts_says_why_there_is_no_viewer(browser: Browser, tmp_path: Path, sweep: Sweep) -> None:
    world = World(tmp_path, sweep.traces[:2])
    run = world.run("cts", 0.5, world.compressed("cts", 0.5))
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    browser.open(report_run(run))
    assert "is not on disk any more" in browser.js("document.querySelector('#tokens .empty').textContent")
    assert browser.js("document.getElementById('viewer')") is None
    assert browser.problems == []


@pytest.mark.slow
def test_200_traces_of_3000_tokens_open_in_under_3_seconds(browser: Browser, tmp_path: Path) -> None:
    parts = [t.thinking for t in planted.traces(num_traces=400, families=[], length=planted.Length.short, seed=2)]
    world = World(tmp_path, _long_traces(parts))
    for scorer in ("cts", "tokenskip", "random"):
        world.run(scorer, 0.5, world.compressed(scorer, 0.5))
    report_collection(tmp_path / "runs")
    page = tmp_path / "runs" / "report.html"
    seconds = min(browser.open(page) for _ in range(3))  # other work of the machine only ever adds
    counts: list[Any] = browser.js("[...document.querySelectorAll('.pane')].map(p => p.querySelectorAll('.t').length)")
    assert len(counts) == 3
    assert min(counts) >= 3000
    moved = browser.js("(() => { const t = performance.now(); for (const p of [30, 100, 65]) setPercent(p); "
                       "document.body.offsetHeight; return (performance.now() - t) / 3 })()")  # fmt: skip
    size = page.stat().st_size / 1e6
    print(f"{size:.1f} MB open in {seconds:.2f} s, the slider moves in {moved:.0f} ms")
    assert seconds < 3
    assert moved < 300
    assert size < 25
    assert browser.problems == []


def _long_traces(parts: list[str]) -> list[Trace]:
    """200 traces of about 3,000 tokens in the small vocabulary of these tests."""
    return [
        Trace(
            id=f"long-{i}",
            question=f"Question {i}?",
            thinking="\n".join(parts[(i * 7 + k) % len(parts)] for k in range(34)),
            response="",
            answer="1",
        )
        for i in range(200)
    ]
