"""Tokens on a page: their kinds, deleted shares, and the packed data of the viewer."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.modeling.selection import PERCENTS, RankedTrace, num_to_keep
from cotpress.records import Span, Trace
from cotpress.report.page import json_in_html
from cotpress.report.results import Sources, collect
from cotpress.report.token_kinds import TokenKind, token_kinds
from cotpress.report.tokens import Ranker, ViewedData, by_kind, by_label, encoded, token_labels, viewed
from cotpress.store.artifacts import content_checksum
from cotpress.store.tables import read_records
from support.reported import World


def words_of(text: str) -> np.ndarray:
    """Return offsets of pieces that begin with a blank, as in most tokenizers."""
    starts = [0, *(i for i, c in enumerate(text) if c == " ")]
    return np.array(list(zip(starts, [*starts[1:], len(text)], strict=True)), dtype=np.int32)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (r"Wait 12, + \frac 3.5 = the apples .", "hesitations punctuation operators latex digits operators stop_words "
                                                 "words punctuation"),
        ("hmm so let me check it", "hesitations stop_words hesitations hesitations hesitations stop_words"),
        ("two well-known x \u2264 $5 5$", "words words words operators digits latex"),
        ("\uff15 \u00d7 \ud55c\uad6d", "digits operators words"),
    ],
)  # fmt: skip
def test_kind_of_a_token(text: str, kinds: str) -> None:
    assert [TokenKind(k).name for k in token_kinds(text, words_of(text))] == kinds.split()


def test_last_visible_character_decides_about_kind_and_label() -> None:
    text = "ab+ \n12"
    offsets = np.array([(0, 5), (5, 7)], dtype=np.int32)
    assert [TokenKind(k).name for k in token_kinds(text, offsets)] == ["operators", "digits"]
    spans = [Span(start=0, end=2, kind="a", essential=True), Span(start=2, end=4, kind="b", essential=True)]
    labels = token_labels(text, spans, offsets)
    assert [None if span is None else span.kind for span in labels] == ["b", None]


@settings(deadline=None)  # the first word imports the list of stop words
@given(st.text(max_size=60))
def test_every_text_has_a_kind_for_every_token(text: str) -> None:
    offsets = np.array([(i, i + 1) for i in range(len(text))], dtype=np.int32).reshape(-1, 2)
    assert len(token_kinds(text, offsets)) == len(text)


def ranked(places: list[int], num_held: int = 0, id_: str = "t") -> RankedTrace:
    n = len(places)
    return RankedTrace(
        id=id_,
        offsets=np.array([(i, i + 1) for i in range(n)], dtype=np.int32).reshape(-1, 2),
        scores=-np.array(places, dtype=np.float32),
        places=np.array(places, dtype=np.int32),
        num_held=num_held,
    )


def data_of(text: str, row: RankedTrace, spans: tuple[Span, ...] = ()) -> ViewedData:
    trace = Trace(id="t", question="q", thinking=text, response="", answer="", spans=spans)
    ranker = Ranker(label="cts", ratios=(0.5,), rows={"t": row})
    return ViewedData(label="x", traces=(trace,), num_traces=1, rankers=(ranker,))


@settings(deadline=None)
@given(st.permutations(range(23)), st.integers(0, 23))
def test_counted_deletions_are_those_of_the_masks(places: list[int], num_held: int) -> None:
    row = ranked(places, num_held)
    data = data_of("ab 12 + 34 = x. Wait, a", row)
    deletions = by_kind(data)
    assert deletions.totals.sum() == 23
    for percent in (30, 37, 50, 99, 100):
        dropped = ~row.kept(percent / 100)
        for name, deleted in zip(deletions.names, deletions.deleted[0, :, PERCENTS.index(percent)], strict=True):
            code = next(k for k in TokenKind if k.label == name)
            assert deleted == (dropped & (data.kinds["t"] == code)).sum()


def test_planted_labels_are_counted_with_the_essential_ones_first() -> None:
    spans = (
        Span(start=0, end=2, kind="dead_end", essential=False),
        Span(start=2, end=4, kind="result", essential=True),
    )
    deletions = by_label(data_of("abcd", ranked([3, 2, 1, 0]), spans))
    assert deletions is not None
    assert deletions.names == ("result *", "dead end")
    assert deletions.share(50).tolist() == [[0.0, 1.0]]
    assert by_label(data_of("abcd", ranked([3, 2, 1, 0]))) is None


@given(st.integers(0, 5000), st.integers(1, 100), st.integers(0, 50))
def test_ranked_trace_keeps_the_ratio_or_all_held_tokens(n: int, percent: int, held: int) -> None:
    row = ranked(list(range(n)), min(held, n))
    assert row.kept(percent / 100).sum() == max(num_to_keep(n, percent / 100), min(held, n))


def test_packed_numbers_are_restored() -> None:
    text = "a🙂b"  # the second character is two UTF-16 units, and two tokens share it
    row = RankedTrace(
        id="t",
        offsets=np.array([(0, 1), (1, 2), (1, 2), (2, 3)], dtype=np.int32),
        scores=np.array([0.5, -1.5, 2.5, 0.0], dtype=np.float32),
        places=np.array([1, 3, 0, 2], dtype=np.int32),
        num_held=1,
    )
    (trace,) = encoded(data_of(text, row))["traces"]
    assert list(base64.b64decode(trace["lengths"])) == [1, 2, 0, 1]
    (rank,) = trace["ranks"]
    assert np.frombuffer(base64.b64decode(rank["places"]), dtype="<u2").tolist() == [1, 3, 0, 2]
    steps = np.frombuffer(base64.b64decode(rank["scores"]), dtype="<u2")
    assert rank["low"] + steps / 65535 * (rank["high"] - rank["low"]) == pytest.approx(row.scores, abs=1e-4)
    assert rank["held"] == 1


def test_json_in_a_page_cannot_end_the_script_and_keeps_every_character() -> None:
    text = "</script><!-- & \u2028 \u2029 \ud800 \x00 🙂"
    packed = json_in_html({"text": text})
    assert packed.isascii()
    assert not set("<>&") & set(packed)
    assert json.loads(packed)["text"] == text


TRACES = [
    Trace(id=f"t{i}", question="q?", thinking=f"First, {i} + 30 = {i + 30} apples. Wait, yes.", response="", answer="1")
    for i in range(4)
]


def test_ratios_of_one_scorer_share_an_order_and_other_rules_are_named(tmp_path: Path) -> None:
    from cotpress.compression.config import Protection

    world = World(tmp_path, TRACES)
    for ratio in (0.5, 0.7):
        world.run("cts", ratio, world.compressed("cts", ratio))
    world.run("cts", 0.6, world.compressed("cts", 0.6, {"protection": Protection.math}))
    (data,), missing = viewed(collect(tmp_path / "runs").runs, Sources(), limit=3)
    assert missing == []
    assert [(r.label, r.ratios) for r in data.rankers] == [("cts", (0.5, 0.7)), ("cts, protection=math", (0.6,))]
    assert (len(data.traces), data.num_traces) == (3, 4)


def test_shares_of_a_page_are_those_of_the_compression_at_its_ratio(tmp_path: Path) -> None:
    from cotpress.compression.config import Allocation
    from cotpress.records import CompressedTrace

    world = World(tmp_path, [replace(t, thinking=t.thinking * (1 + 2 * i)) for i, t in enumerate(TRACES)])
    made = {ratio: world.compressed("cts", ratio, {"allocation": Allocation.budget}) for ratio in (0.4, 0.7)}
    for ratio, compressed in made.items():
        world.run("cts", ratio, compressed)
    world.run("cts", 0.6, world.compressed("cts", 0.6))
    (data,), missing = viewed(collect(tmp_path / "runs").runs, Sources())
    assert missing == []
    (shared, fixed) = data.rankers
    assert [(r.label, r.ratios, bool(r.shares)) for r in data.rankers] == [
        ("cts, allocation=budget", (0.4, 0.7), True), ("cts", (0.6,), False),
    ]  # fmt: skip
    for ratio, compressed in made.items():
        for row in read_records(compressed.file("compressed.parquet"), CompressedTrace):
            order, place = shared.rows[row.id], PERCENTS.index(round(100 * ratio))
            assert (order.places < shared.kept(order)[place]).tolist() == row.keep_mask.tolist()
            assert order.places.tolist() == fixed.rows[row.id].places.tolist()
    ranks = encoded(data)["traces"][3]["ranks"]
    assert np.frombuffer(base64.b64decode(ranks[0]["kept"]), dtype="<u4").tolist() == shared.shares["t3"].tolist()
    assert "kept" not in ranks[1]
    deleted = by_kind(data).deleted.sum(axis=1)
    lengths = sum(len(row.places) for row in shared.rows.values())
    assert deleted[0].tolist() == [lengths - sum(s[i] for s in shared.shares.values()) for i in range(len(PERCENTS))]


def test_compressions_without_an_order_have_a_reason(tmp_path: Path) -> None:
    world = World(tmp_path, TRACES)
    compressed = world.compressed("cts", 0.5)
    world.run("cts", 0.5, compressed)
    world.run("old", 1.0, world.compressed("cts", 1.0))
    manifest = compressed.path / "manifest.json"
    content = json.loads(manifest.read_text().replace("ranking.parquet", "compressed.parquet"))
    del content["checksum"]
    manifest.write_text(json.dumps({**content, "checksum": content_checksum(content)}))
    data, missing = viewed(collect(tmp_path / "runs").runs, Sources())
    assert not data
    assert [m.partition(": ")[2].partition(",")[0] for m in missing] == [
        f"artifact {compressed.key} was made by an earlier release", "it keeps every token",
    ]  # fmt: skip


def test_stored_order_gives_the_masks_of_the_compression(tmp_path: Path) -> None:
    from cotpress.records import CompressedTrace

    made = World(tmp_path, TRACES).compressed("cts", 0.57, {"max_consecutive_deletions": 2})
    rows = read_records(made.file("compressed.parquet"), CompressedTrace)
    orders = read_records(made.file("ranking.parquet"), RankedTrace)
    assert [r.id for r in orders] == [r.id for r in rows]
    for order, row in zip(orders, rows, strict=True):
        assert order.kept(0.57).tolist() == row.keep_mask.tolist()
        assert sorted(order.places.tolist()) == list(range(row.num_tokens))
