"""Scores are projected from one published tokenizer to another through characters."""
# ruff: noqa: RUF001 - characters that look like others are what is tested

import itertools
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cotpress.compression.config import Alignment, CompressionConfig, Protection, Selection, TrainedTokens
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces, student_scores
from cotpress.compression.stage import compress
from cotpress.modeling.alignment import (
    decode,
    decoded_text,
    kept_text,
    project_scores,
    retokenized,
    tokenize_with_offsets,
)
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.segments import character_groups
from cotpress.modeling.selection import rank_many
from cotpress.records import CompressedTrace, ScoredTrace, Trace, Unit
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records
from support.real_tokenizers import NAMES, real_tokenizer

TEXTS = {
    "latex": r"So \frac{48}{2} = 24, hence \(x^{2} \leq 1{,}200\) and $\sqrt{576}=24$. Wait, double-check: \boxed{24}.",
    "chinese": "首先，12 加 30 等于 42。等一下，让我再检查一遍：答案是 42。So the answer is 42 (四十二)。",
    "emoji": "Hmm 🤔 let me see 👩‍👩‍👧‍👦: 5 * 16 = 80 🎉🎉 — naïve café, 🇫🇷 x² ≤ ∑ ½ 𝒳.",
    "code": "def f(x):\n\tif x >= 10:\n\t\treturn x**2  # 1234567\n\n    return None\r\nprint(f(12_000))",
    "spaces": "  two  spaces \t\ttabs\n\n\n   lines \u00a0no-break \u3000wide\u2003em  end   \n ",
    "one": "7",
}
PAIRS = list(itertools.product(NAMES, NAMES))


def largest(offsets: NDArray[np.int32]) -> int:
    """Most tokens of one character; most texts have only whole ones, and their number is exact."""
    return int(np.bincount(character_groups(offsets)).max())


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(pair))
def pair(request: pytest.FixtureRequest) -> tuple[object, object]:
    """Return tokenizers of a scorer and of a student."""
    scorer, student = request.param
    return real_tokenizer(scorer), real_tokenizer(student)


@pytest.mark.parametrize(
    ("name", "ids"),
    [("qwen", [9707, 1879]), ("llama3", [9906, 1917]), ("deepseek", [19923, 2058]), ("minilm", [7592, 2088])],
)
def test_tokenizers_are_the_published_ones(name: str, ids: list[int]) -> None:
    assert tokenize_with_offsets(real_tokenizer(name), "Hello world")[0].tolist() == ids


@pytest.mark.parametrize("name", NAMES)
def test_offsets_of_published_tokenizers_cover_every_text(name: str) -> None:
    for text in TEXTS.values():
        ids, offsets = tokenize_with_offsets(real_tokenizer(name), text)
        assert kept_text(text, offsets, np.ones(len(ids), dtype=bool)) == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Digit by digit, by threes, by threes from the left, whole: why tokens cannot be matched one to one.
        ("qwen", ["x", " =", " ", "1", "2", "3", "4", "5"]),
        ("llama3", ["x", " =", " ", "123", "45"]),
        ("deepseek", ["x", " =", " ", "123", "45"]),
        ("minilm", ["x", " =", " 123", "45"]),
    ],
)
def test_published_tokenizers_split_numbers_differently(name: str, expected: list[str]) -> None:
    text = "x = 12345"
    _, offsets = tokenize_with_offsets(real_tokenizer(name), text)
    assert [text[a:b] for a, b in offsets] == expected


def test_constant_scores_stay_constant_and_finite(pair: tuple[object, object]) -> None:
    for text in TEXTS.values():
        (_, source), (ids, target) = (tokenize_with_offsets(t, text) for t in pair)  # type: ignore[arg-type]
        constant = project_scores(source, np.full(len(source), 0.7, np.float32), target, len(text))
        assert constant.shape == (len(ids),)
        np.testing.assert_allclose(constant, 0.7, rtol=1e-6)
        noise = np.random.default_rng(0).standard_normal(len(source)).astype(np.float32)
        projected = project_scores(source, noise, target, len(text))
        assert np.isfinite(projected).all()
        assert projected.min() >= noise.min() - 1e-6
        assert projected.max() <= noise.max() + 1e-6


def test_order_of_characters_is_preserved(pair: tuple[object, object]) -> None:
    for text in TEXTS.values():
        (_, source), (_, target) = (tokenize_with_offsets(t, text) for t in pair)  # type: ignore[arg-type]
        rising = project_scores(source, np.arange(len(source), dtype=np.float32), target, len(text))
        assert (np.diff(rising) >= -1e-4).all()


def test_step_at_a_word_border_is_reproduced_away_from_the_border(pair: tuple[object, object]) -> None:
    for text in TEXTS.values():
        (_, source), (_, target) = (tokenize_with_offsets(t, text) for t in pair)  # type: ignore[arg-type]
        for border in (i for i in range(1, len(text)) if text[i - 1].isspace() != text[i].isspace()):
            scores = (source[:, 1] > border).astype(np.float32)
            straddling = source[(source[:, 0] < border) & (source[:, 1] > border)]
            low, high = min([border, *straddling[:, 0]]), max([border, *straddling[:, 1]])
            projected = project_scores(source, scores, target, len(text))
            assert (projected[target[:, 1] <= low] == 0).all()
            assert (projected[target[:, 0] >= high] == 1).all()


@pytest.mark.parametrize("alignment", Alignment)
def test_ratio_is_exact_in_tokens_of_the_student(pair: tuple[object, object], alignment: Alignment) -> None:
    scorer, student = pair
    for text in TEXTS.values():
        trace = Trace(id="t", question="", thinking=text, response="", answer="42")
        source_ids, source = tokenize_with_offsets(scorer, text)  # type: ignore[arg-type]
        ids, offsets = tokenize_with_offsets(student, text)  # type: ignore[arg-type]
        noise = np.random.default_rng(1).standard_normal(len(source_ids)).astype(np.float32)
        by = ScoredTrace(
            id="t", token_ids=source_ids, offsets=source, scores=noise, tokenizer="scorer", scorer="random"
        )
        scores = student_scores(alignment, by, trace, ids, offsets, "student")
        tokens = TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=scores)
        for unit in Unit:
            ranking = rank_traces(Rules(alignment=alignment, granularity=unit), [tokens])
            for ratio in (0.3, 0.5, 0.77):
                kept = int(ranking.cut(np.array([ratio])).sum())
                asked = max(round(ratio * len(ids)), int(ranking.held.sum()))
                assert abs(kept - asked) <= largest(offsets) // 2
            assert kept_text(text, offsets, ranking.cut(np.array([1.0]))) == text


@pytest.mark.parametrize("name", NAMES)
def test_math_protection_keeps_every_number_and_command_of_every_tokenizer(name: str) -> None:
    text = TEXTS["latex"]
    ids, offsets = tokenize_with_offsets(real_tokenizer(name), text)
    trace = Trace(id="t", question="", thinking=text, response="", answer="")
    tokens = TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=np.zeros(len(ids), np.float32))
    kept = kept_text(text, offsets, rank_traces(Rules(protection=Protection.math), [tokens]).cut(np.array([0.01])))
    for whole in (r"\frac{48}{2}", "24", r"\(", "^{2}", r"\leq", "1{,}200", r"\)", r"$\sqrt{576}=24$", r"\boxed{24}"):
        assert whole in kept
    assert "hence" not in kept
    assert "check" not in kept


def artifact(store: ArtifactStore, stage: str, name: str, rows: list[Trace] | list[ScoredTrace]) -> Artifact:
    def produce(folder: Path) -> Summary:
        write_records(folder / name, rows, type(rows[0]))
        return Summary(num_rows=len(rows))

    return store.build(stage, {"stage": stage}, produce)


def test_scores_of_a_qwen_reference_model_compress_for_a_llama_student(tmp_path: Path) -> None:
    qwen, llama, store = real_tokenizer("qwen"), real_tokenizer("llama3"), ArtifactStore(tmp_path)
    traces = [Trace(id=name, question="q", thinking=text, response="r", answer="42") for name, text in TEXTS.items()]
    scored = []
    for trace in traces:
        ids, offsets = tokenize_with_offsets(qwen, trace.thinking)
        digits = [any(c.isdigit() for c in trace.thinking[a:b]) for a, b in offsets]
        scored.append(
            ScoredTrace(
                id=trace.id, token_ids=ids, offsets=offsets, scores=np.array(digits, np.float32),
                tokenizer=tokenizer_fingerprint(qwen), scorer="digits",
            )
        )  # fmt: skip
    made = compress(
        CompressionConfig(), ratio=0.6, seed=0, traces=artifact(store, "data", "traces.parquet", traces),
        scores=artifact(store, "score", "scores.parquet", scored), tokenizer=llama,
        tokenizer_key=tokenizer_fingerprint(llama), store=store,
    )  # fmt: skip
    rows = read_records(made.file("compressed.parquet"), CompressedTrace)
    assert [r.id for r in rows] == list(TEXTS)
    for row, text in zip(rows, TEXTS.values(), strict=True):
        ids, offsets = tokenize_with_offsets(llama, text)
        assert abs(row.num_kept_tokens - round(0.6 * len(ids))) <= largest(offsets) // 2
        assert row.num_kept_tokens == len(row.token_ids)
        assert row.token_ids.tolist() == ids[row.keep_mask].tolist()
        # What the Qwen tokens said, digit by digit, decides about Llama's tokens of up to three.
        assert [c for c in row.compressed_thinking if c.isdigit()] == [c for c in text if c.isdigit()]


SIGNS = [
    "so", " 12", "🙂", " 🤔", "👩‍👩‍👧‍👦", "🇫🇷", "❤️", "🏽", "中文", " 四十二", "龘", "é", "e\u0301",
    "a\u0338\u0301", "각", "\u1100\u1161",
    "∑", " ≤", "𝒳", "½", "ท", "ที่", "हिन्दी", "\u200d", "\u3000", "\n", " — ", "\U00020000", "𓀀", "ﷺ",
]  # fmt: skip
"""Characters of one to four bytes, alone and joined, composed and decomposed."""
BYTE_LEVEL = ["qwen", "llama3", "deepseek"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(SIGNS), min_size=1, max_size=14).map("".join),
    st.sampled_from(BYTE_LEVEL),
    st.builds(
        Rules,
        granularity=st.sampled_from(Unit), alignment=st.sampled_from(Alignment), protection=st.sampled_from(Protection),
        keep_strings=st.sampled_from([(), ("🙂", "∑")]), max_consecutive_deletions=st.sampled_from([None, 1, 4]),
    ),
    st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.integers(0, 99),
)  # fmt: skip
def test_kept_ids_decode_to_the_text_of_the_row(
    text: str, name: str, rules: Rules, a: float, b: float, seed: int
) -> None:
    tokenizer = real_tokenizer(name)
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    trace = Trace(id="t", question="", thinking=text, response="", answer="12")
    scores = np.random.default_rng(seed).standard_normal(len(ids)).astype(np.float32)
    ranking = rank_traces(rules, [TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=scores)])
    smaller, larger = (ranking.cut(np.array([ratio])) for ratio in sorted((a, b)))
    assert not (smaller & ~larger).any()
    for ratio, keep in ((min(a, b), smaller), (max(a, b), larger)):
        row_text = decoded_text(tokenizer, text, ids, offsets, keep)
        assert tokenizer.decode(ids[keep].tolist()) == row_text
        assert "\ufffd" not in row_text
        again, new_ids = retokenized(tokenizer, row_text)
        assert decode(tokenizer, new_ids) == again
        assert unicodedata.normalize("NFC", again) == unicodedata.normalize("NFC", row_text)
        asked = max(round(ratio * len(ids)), int(ranking.held.sum()))
        assert abs(int(keep.sum()) - asked) <= largest(offsets) // 2
    whole = decoded_text(tokenizer, text, ids, offsets, np.ones(len(ids), dtype=bool))
    assert unicodedata.normalize("NFC", whole) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_no_row_of_the_compress_stage_has_half_a_character(name: str, tmp_path: Path) -> None:
    tokenizer, store = real_tokenizer(name), ArtifactStore(tmp_path)
    key, rng = tokenizer_fingerprint(tokenizer), np.random.default_rng(0)
    traces = [
        Trace(id=f"t{i}", question="q", thinking="".join(rng.choice(SIGNS, 40)), response="", answer="")
        for i in range(6)
    ]
    source = artifact(store, "data", "traces.parquet", traces)

    def scores(decisions: bool) -> Artifact:
        rows = []
        for trace in traces:
            ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
            values = rng.integers(0, 2, len(ids)) if decisions else rng.standard_normal(len(ids))
            rows.append(
                ScoredTrace(id=trace.id, token_ids=ids, offsets=offsets, scores=values.astype(np.float32),
                            tokenizer=key, scorer="random")
            )  # fmt: skip
        return artifact(store, "decide" if decisions else "score", "scores.parquet", rows)

    made = scores(decisions=False)
    for config, by in [
        (CompressionConfig(), made),
        (CompressionConfig(granularity=Unit.word, protection=Protection.math), made),
        (CompressionConfig(mixed_ratios=[0.3, 0.7]), made),
        (CompressionConfig(tokens=TrainedTokens.retokenize), made),
        (CompressionConfig(selection=Selection.llmlingua_compat), scores(decisions=True)),
    ]:
        compressed = compress(
            config, ratio=0.7, seed=0, traces=source, scores=by, tokenizer=tokenizer, tokenizer_key=key, store=store
        )
        for row in read_records(compressed.file("compressed.parquet"), CompressedTrace):
            assert row.compressed_thinking == decode(tokenizer, row.token_ids)
            assert "\ufffd" not in row.compressed_thinking


TRACES = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.mark.shared
@pytest.mark.skipif(not TRACES.is_dir(), reason="no data folder beside the checkout")
def test_no_real_trace_has_half_a_character() -> None:
    texts = []
    for file in (TRACES / "crest_math_traces.jsonl", *sorted(TRACES.glob("mip_*.jsonl"))):
        with file.open(encoding="utf-8") as lines:
            texts += [json.loads(line)["thinking"] for line in itertools.islice(lines, 38)]
    assert len(texts) >= 150
    num_divided = 0
    for tokenizer in map(real_tokenizer, BYTE_LEVEL):
        rng = np.random.default_rng(0)
        for text in texts:
            ids, offsets = tokenize_with_offsets(tokenizer, text)
            scores = rng.standard_normal(len(ids)).astype(np.float32)
            keep = rank_many(scores, offsets, np.array([len(ids)])).cut(np.array([0.7]))
            decoded = tokenizer.decode(ids[keep].tolist())
            assert decoded == decoded_text(tokenizer, text, ids, offsets, keep)
            assert "\ufffd" not in decoded
            num_divided += "\ufffd" in tokenizer.decode(ids[scores > np.quantile(scores, 0.3)].tolist())
    assert num_divided > 50, "a selection of single tokens divides characters of many traces"
