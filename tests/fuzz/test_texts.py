"""Any text as thinking, answer, name or output: valid offsets, exact counts, complete JSON, nothing added to a page."""

import copy
import functools
import json
import tempfile
from pathlib import Path

import datasets
import numpy as np
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from cotpress.answers import Extractor, declines_to_answer, extract_answer, final_statement, is_equal
from cotpress.compression.config import ExportFormat, Protection
from cotpress.compression.export import FILES, export
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces
from cotpress.modeling.alignment import decoded_text, kept_text, project_scores, tokenize_with_offsets
from cotpress.modeling.segments import character_groups, step_ranges, unit_ids, word_ranges
from cotpress.modeling.selection import RankedTrace, num_to_keep
from cotpress.prompts import ChatConfig, ChatFormat
from cotpress.records import CompressedTrace, Trace, Unit
from cotpress.report.page import Page, Table, json_in_html, render
from cotpress.report.token_kinds import token_kinds
from cotpress.report.tokens import Ranker, ViewedData, encoded
from cotpress.store.grid import Grid, markdown_cell
from cotpress.store.paths import safe_name
from cotpress.store.redaction import without_secrets
from cotpress.store.tables import read_records
from cotpress.tasks.run_directory import write_config
from fuzz.cases import any_text, cases, odd_text
from support.pages import Parsed, token_lengths
from support.reported import tokenizer

nonempty = odd_text.filter(lambda text: bool(text.strip()))


@functools.cache
def splitter() -> PreTrainedTokenizerFast:
    return tokenizer(["some words and 12 numbers, so that merges are learnt", "<script> \\boxed{1}"])


@functools.cache
def ending() -> PreTrainedTokenizerFast:
    """The same with an end token, as a chat needs it."""
    found = copy.deepcopy(splitter())
    found.eos_token = "."
    return found


def tokens_of(text: str, scores: list[float], answer: str = "") -> TokenizedTrace:
    ids, offsets = tokenize_with_offsets(splitter(), text)
    trace = Trace(id=text[:5] or "x", question=text, thinking=text, response=answer, answer=answer)
    values = np.resize(np.array(scores or [0.0], dtype=np.float32), len(ids))
    return TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=values)


@cases(60)
@given(odd_text)
def test_words_steps_and_tokens_cover_any_text(text: str) -> None:
    for ranges in (word_ranges(text), step_ranges(text)):
        assert "".join(text[a:b] for a, b in ranges) == text
    tokens = tokens_of(text, [])
    assert ((tokens.offsets >= 0) & (tokens.offsets <= len(text))).all()
    assert (tokens.offsets[:, 0] <= tokens.offsets[:, 1]).all()
    assert kept_text(text, tokens.offsets, np.ones(len(tokens.ids), dtype=bool)) == text
    for unit in Unit:
        assert (np.diff(unit_ids(unit, text, tokens.offsets)) >= 0).all()
    assert len(token_kinds(text, tokens.offsets)) == len(tokens.ids)
    if len(tokens.ids):
        same = project_scores(tokens.offsets, tokens.scores, tokens.offsets, len(text))
        assert np.isfinite(same).all()


scores = st.lists(st.floats(-1e6, 1e6, width=32), max_size=30)
rules = st.builds(
    Rules,
    granularity=st.sampled_from(Unit),
    protection=st.sampled_from(Protection),
    keep_strings=st.lists(nonempty, max_size=2).map(tuple),
    max_consecutive_deletions=st.one_of(st.none(), st.integers(1, 5)),
)


@cases(60)
@given(nonempty, odd_text, scores, st.floats(0.01, 1.0), rules)
def test_of_any_text_the_asked_number_of_tokens_is_kept_in_whole_characters(
    text: str, answer: str, values: list[float], ratio: float, chosen: Rules
) -> None:
    tokens = tokens_of(text, values, answer)
    ranking = rank_traces(chosen, [tokens])
    keep = ranking.cut(np.array([ratio]))
    groups = character_groups(tokens.offsets)
    pieces = int(np.bincount(groups).max())  # most tokens of a character, which stay or go together
    assert abs(keep.sum() - max(num_to_keep(len(tokens.ids), ratio), ranking.held.sum())) <= pieces // 2
    assert all(len(set(keep[groups == group])) == 1 for group in groups)
    if pieces == 1:
        assert sorted(ranking.places.tolist()) == list(range(len(tokens.ids)))
    rest = iter(text)
    assert all(character in rest for character in kept_text(text, tokens.offsets, keep))
    row = decoded_text(splitter(), text, tokens.ids, tokens.offsets, keep)
    assert splitter().decode(tokens.ids[keep].tolist(), clean_up_tokenization_spaces=False) == row


@cases(60)
@given(any_text)
def test_any_output_has_an_answer_or_none(text: str) -> None:
    for extractor in Extractor:
        assert isinstance(extract_answer(text, extractor), str)
    place = final_statement(text)
    assert place is None or 0 <= place[0] < place[1] <= len(text)
    assert declines_to_answer(text) in (True, False)


@cases(8)
@given(odd_text, odd_text)
def test_any_two_answers_are_equal_or_not(gold: str, predicted: str) -> None:
    assert is_equal(gold, predicted) in (True, False)


@cases(40)
@given(odd_text, odd_text, odd_text)
def test_any_output_is_split_into_thinking_and_response(text: str, open_tag: str, close_tag: str) -> None:
    chat = ChatConfig(thinking_open=open_tag, thinking_close=close_tag or "\n\n")
    thinking, response, closed = ChatFormat(ending(), chat).split_output(text)
    assert thinking in text
    assert response in text
    assert closed or not response


def viewed(tokens: TokenizedTrace, name: str) -> ViewedData:
    n = len(tokens.ids)
    rank = RankedTrace(
        id=tokens.trace.id,
        offsets=tokens.offsets,
        scores=tokens.scores,
        places=np.arange(n, dtype=np.int32),
        num_held=0,
    )
    return ViewedData(
        label=name, traces=(tokens.trace,), num_traces=1,
        rankers=(Ranker(label=name, ratios=(0.5,), rows={tokens.trace.id: rank}),),
    )  # fmt: skip


EMPTY = Parsed(render(Page(title="", note="", viewer={"percent": 50, "data": []}, missing=("",), texts=(("", ""),))))


@cases(40)
@given(nonempty, odd_text, any_text, scores)
def test_no_text_adds_anything_to_a_page(text: str, answer: str, name: str, values: list[float]) -> None:
    data = {"percent": 50, "data": [encoded(viewed(tokens_of(text, values, answer), name))]}
    table = Table(name, Grid((name,), ((name, text),)), kind="words")
    page = render(Page(title=name, note=text, viewer=data, missing=(name,), texts=((name, text),), unfinished=table))
    page.encode()
    parsed = Parsed(page)
    assert parsed.open == []
    assert len(parsed.scripts) == len(EMPTY.scripts) == 2
    assert parsed.scripts[1] == EMPTY.scripts[1]
    assert set(parsed.elements) <= {*EMPTY.elements, "section", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert not [a for a in parsed.attributes if a.startswith("on")]
    (trace,) = parsed.viewer["data"][0]["traces"]
    assert trace["text"] == text
    assert sum(token_lengths(trace)) == len(text.encode("utf-16-le")) // 2
    assert json.loads(json_in_html({name: text})) == {name: text}
    cell = markdown_cell(name)
    assert not {"\n", "<"} & set(cell)
    assert "|" not in cell.replace("\\|", "")


@cases(25)
@given(
    st.lists(st.tuples(nonempty, odd_text, odd_text), min_size=1, max_size=4), st.sampled_from(ExportFormat), odd_text
)
def test_every_row_is_exported_whole(found: list[tuple[str, str, str]], kind: ExportFormat, system: str) -> None:
    rows = [
        CompressedTrace(
            id=str(i), question=question, compressed_thinking=text, response=answer, answer=answer, split="train",
            token_ids=np.zeros(1, dtype=np.int32), keep_mask=np.ones(1, dtype=bool), num_tokens=1, num_kept_tokens=1,
            target_ratio=0.5, actual_ratio=1.0,
        )
        for i, (text, answer, question) in enumerate(found)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        path = export(rows, kind, Path(place), ChatConfig(system=system))
        if kind is ExportFormat.datasets:
            assert list(datasets.load_from_disk(str(path))["compressed_thinking"]) == [t for t, _, _ in found]
            return
        assert path.name == FILES[kind]
        if kind is ExportFormat.parquet:
            assert [r.compressed_thinking for r in read_records(path, CompressedTrace)] == [t for t, _, _ in found]
            return
        lines = path.read_bytes().decode().split("\n")
        assert lines.pop() == ""
        shown = [json.loads(line) for line in lines]
        turns = [(r.get("completion") or r["messages"])[-1]["content"] for r in shown]
        assert len(turns) == len(found)
        assert all(text in turn and answer in turn for turn, (text, answer, _) in zip(turns, found, strict=True))


@cases(40)
@given(any_text, odd_text)
def test_any_name_is_one_part_of_a_path_and_any_setting_is_read_back(name: str, text: str) -> None:
    made = f"{safe_name(name)}-12345678"
    assert Path(made).name == made
    assert len(made.encode()) < 255
    with tempfile.TemporaryDirectory() as place:
        write_config(Path(place), {"text": text})
        found = yaml.safe_load(Path(place, "config.yaml").read_text(encoding="utf-8"))
        assert found == {"text": without_secrets(text)}
