# ruff: noqa: RUF001 - full-width signs are what is tested
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.distill.config import DistillConfig, Extractor
from cotpress.distill.stage import distill, overlapping_steps
from cotpress.errors import DataError
from cotpress.records import Span, Trace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records

THINKING = "Okay. 8 - 3 = 5. Good."
LABELS = (
    Span(start=0, end=5, kind="hesitation", essential=False),
    Span(start=5, end=9, kind="operand", essential=True),
    Span(start=9, end=15, kind="result", essential=True),
    Span(start=15, end=22, kind="connective", essential=False),
)


def trace(id_: str, *, spans: tuple[Span, ...] = (), response: str = "8 - 3 = 5", split: str = "train") -> Trace:
    return Trace(id=id_, question="q", thinking=THINKING, response=response, answer="5", split=split, spans=spans)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def data(store: ArtifactStore, *traces: Trace) -> Artifact:
    def produce(folder: Path) -> Summary:
        write_records(folder / "traces.parquet", traces, Trace)
        return Summary(num_rows=len(traces))

    return store.build("data", {"ids": [t.id for t in traces]}, produce)


def valuable(artifact: Artifact) -> dict[str, list[str]]:
    rows = read_records(artifact.file("valuable.parquet"), ValuableTrace)
    return {row.id: [row.thinking[start:end] for start, end in row.valuable] for row in rows}


def test_labels_give_the_essential_text_of_training_traces_only(store: ArtifactStore) -> None:
    traces = data(store, trace("a", spans=LABELS), trace("b", spans=LABELS, split="validation"))
    artifact = distill(DistillConfig(), traces, store)
    assert valuable(artifact) == {"a": [" 8 - 3 = 5"]}
    assert artifact.facts == {"valuable_fraction": round(10 / 22, 4)}


def test_overlap_gives_the_steps_of_the_response(store: ArtifactStore) -> None:
    artifact = distill(DistillConfig(extractor=Extractor.overlap), data(store, trace("a")), store)
    assert valuable(artifact) == {"a": [" 8 - 3 = 5."]}


def test_traces_without_a_valuable_part_are_dropped_and_counted(store: ArtifactStore) -> None:
    traces = data(store, trace("a", spans=LABELS), trace("b", spans=LABELS[:1]))
    artifact = distill(DistillConfig(), traces, store)
    assert list(valuable(artifact)) == ["a"]
    assert artifact.manifest["dropped"] == {"no valuable part": 1}


def test_labels_without_labelled_data_names_the_other_extractor(store: ArtifactStore) -> None:
    with pytest.raises(DataError, match=r"Fix: distill=overlap"):
        distill(DistillConfig(), data(store, trace("a")), store)


def test_overlap_without_responses_is_an_error(store: ArtifactStore) -> None:
    with pytest.raises(DataError, match="every response is empty"):
        distill(DistillConfig(extractor=Extractor.overlap), data(store, trace("a", response="")), store)


def test_nothing_valuable_at_all_is_an_error_that_names_the_threshold(store: ArtifactStore) -> None:
    with pytest.raises(DataError, match=r"lower distill\.min_overlap, got 0\.5"):
        distill(DistillConfig(extractor=Extractor.overlap), data(store, trace("a", response="other words")), store)


def test_min_overlap_is_part_of_the_identity_only_where_it_is_used(store: ArtifactStore) -> None:
    traces = data(store, trace("a", spans=LABELS))
    labels = [distill(DistillConfig(min_overlap=share), traces, store).key for share in (0.4, 0.5)]
    overlap = [
        distill(DistillConfig(extractor=Extractor.overlap, min_overlap=share), traces, store).key
        for share in (0.4, 0.5)
    ]
    assert labels[0] == labels[1]
    assert len({*labels, *overlap}) == 3


def overlapping(thinking: str, response: str, min_overlap: float = 0.5) -> list[str]:
    trace = Trace(id="a", question="q", thinking=thinking, response=response, answer="")
    return [thinking[start:end].strip() for start, end in overlapping_steps(trace, min_overlap)]


def test_steps_that_reappear_in_the_response_are_valuable_and_fillers_are_not() -> None:
    thinking = "Okay, let me see. Tom has 8 apples. Hmm, what about pears? So 8 - 3 = 5. Yes."
    assert overlapping(thinking, "Tom has 8 - 3 = 5 apples.") == ["Tom has 8 apples.", "So 8 - 3 = 5."]


@pytest.mark.parametrize(
    ("thinking", "response", "valuable"),
    [
        ("嗯，让我想想。小明有8个苹果。等等，我再检查一遍。是的。", "小明有8个苹果。", ["小明有8个苹果。"]),
        ("嗯。這個正方形的邊長是五。等等。", "正方形邊長五。", ["這個正方形的邊長是五。"]),
        ("所以总共是６０元，对吧？嗯，再想想。", "总共60元", ["所以总共是６０元，对吧？"]),
        (
            "ええと、ちょっと待ってください。りんごが8個あります。確認します。",
            "りんごは8個あります。",
            ["りんごが8個あります。"],
        ),
        ("アップルは30円です。ﾊﾞﾅﾅは50円です。", "バナナは50円。", ["ﾊﾞﾅﾅは50円です。"]),
        ("음, 잠깐만. 사과가 8개 있습니다. 다시 확인해 보자.", "사과는 8개가 있습니다.", ["사과가 8개 있습니다."]),
        ("อืม ขอคิดดูก่อน\nแอปเปิลมี 8 ลูก\nตรวจสอบอีกครั้ง", "แอปเปิล 8 ลูก", ["แอปเปิลมี 8 ลูก"]),
        ("ဟုတ်ကဲ့ စဉ်းစားပါရစေ။\nပန်းသီး ရှစ်လုံး", "ပန်းသီး ရှစ်လုံး ရှိသည်", ["ပန်းသီး ရှစ်လုံး"]),
        ("हम्म, मुझे सोचने दो।\nराम के पास सेब हैं", "राम के पास सेब थे", ["राम के पास सेब हैं"]),
        ("Hmm, 不对. 我们有 8 apples in 盒子. Wait.", "盒子 has 8 apples.", ["我们有 8 apples in 盒子."]),
        ("Ça va. Le cafe\u0301 coûte 3 euros.", "le café coûte 3 euros", ["Le cafe\u0301 coûte 3 euros."]),
    ],
)
def test_overlap_finds_steps_of_scripts_without_spaces(thinking: str, response: str, valuable: list[str]) -> None:
    assert overlapping(thinking, response) == valuable


def test_plain_repeat_is_valuable_once() -> None:
    assert overlapping("8 - 3 = 5. Wait. 8 - 3 = 5.", "8 - 3 = 5") == ["8 - 3 = 5."]


def test_decimals_do_not_end_a_step_and_thousands_separators_do_not_matter() -> None:
    assert overlapping("It costs 1,250.5 dollars. Hmm.", "1250.5 dollars") == ["It costs 1,250.5 dollars."]


def test_lines_are_steps() -> None:
    assert overlapping("alpha beta\ngamma delta\n\nalpha", "gamma delta") == ["gamma delta"]


@pytest.mark.parametrize(("min_overlap", "expected"), [(0.5, ["red blue."]), (0.51, [])])
def test_min_overlap_is_an_inclusive_share_of_distinct_items(min_overlap: float, expected: list[str]) -> None:
    assert overlapping("red blue.", "red", min_overlap) == expected


def test_nothing_overlaps_with_an_empty_response() -> None:
    assert overlapping("8 - 3 = 5.", "") == []


@given(thinking=st.text(alphabet="ab 12.,!?\n-é", max_size=60), response=st.text(alphabet="ab 12.", max_size=30))
def test_ranges_are_sorted_disjoint_and_inside_the_text(thinking: str, response: str) -> None:
    trace = Trace(id="a", question="q", thinking=thinking, response=response, answer="")
    ranges = overlapping_steps(trace, 0.3)
    flat = [position for pair in ranges for position in pair]
    assert flat == sorted(set(flat))
    assert all(0 <= position <= len(thinking) for position in flat)


def test_long_text_takes_linear_time() -> None:
    thinking = "word " * 40_000 + "\n" * 40_000
    assert overlapping(thinking, "word")
