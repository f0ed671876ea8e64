import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cotpress.compression.config import Alignment, CompressionConfig, Protection
from cotpress.compression.stage import compress, reached_ratio
from cotpress.errors import ArtifactError, ConfigError, DataError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.segments import character_groups
from cotpress.records import CompressedTrace, ScoredTrace, Trace, Unit
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records

TEXTS = [
    "First, 12 + 30 = 42 apples. Wait, let me check: 12 + 30 is 42, yes.",
    "She has 5 crates 🙂 of 16 eggs; 5 * 16 = 80 — so 80 eggs in all.",
    "Hmm.\n\nThe train takes 3 hours, so 3 * 60 = 180 minutes.",
    "I do not know yet",
]


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core)


STUDENT, SCORER = tokenizer(340), tokenizer(270)
EVERY_RULE: dict[str, Any] = {
    "granularity": Unit.word,
    "alignment": Alignment.next,
    "protection": Protection.math,
    "keep_strings": ["Wait", "\n"],
    "max_consecutive_deletions": 5,
}


class World:
    """Artifacts of a few traces, with the stage to run over them."""

    def __init__(self, root: Path) -> None:
        self.store = ArtifactStore(root)
        self.traces = [
            Trace(id=f"t{i}", question="q?", thinking=text, response="r", answer="1") for i, text in enumerate(TEXTS)
        ]

    def data(self, *more: Trace) -> Artifact:
        return self._artifact("data", "traces.parquet", [*self.traces, *more], Trace)

    def scores(
        self,
        *,
        key: str = "student",
        ids: list[str] | None = None,
        refused: dict[str, int] | None = None,
        **change: Any,
    ) -> Artifact:
        rng = np.random.default_rng(0)
        rows = []
        for trace in self.traces:
            tokens, offsets = tokenize_with_offsets(STUDENT if key == "student" else SCORER, trace.thinking)
            values = rng.standard_normal(len(tokens)).astype(np.float32)
            row = {"id": trace.id, "token_ids": tokens, "offsets": offsets, "scores": values} | change
            rows.append(ScoredTrace(**row, tokenizer=key, scorer="random"))
        given = [r for r in rows if ids is None or r.id in ids]
        return self._artifact("score", "scores.parquet", given, ScoredTrace, refused)

    def _artifact(
        self, stage: str, name: str, rows: list[Any], record: type, dropped: dict[str, int] | None = None
    ) -> Artifact:
        def produce(folder: Path) -> Summary:
            write_records(folder / name, rows, record)
            return Summary(num_rows=len(rows), dropped=dropped or {})

        return self.store.build(stage, {"rows": repr(rows), "dropped": dropped}, produce)

    def run(self, scores: Artifact | None, ratio: float = 0.5, data: Artifact | None = None, **config: Any) -> Artifact:
        return compress(
            CompressionConfig(**config), ratio=ratio, seed=1, traces=data or self.data(), scores=scores,
            tokenizer=STUDENT, tokenizer_key="student", store=self.store,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def rows_of(artifact: Artifact) -> list[CompressedTrace]:
    return read_records(artifact.file("compressed.parquet"), CompressedTrace)


def is_subsequence(short: str, long: str) -> bool:
    letters = iter(long)
    return all(letter in letters for letter in short)


@pytest.mark.parametrize("key", ["student", "scorer"])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77])
def test_every_row_keeps_exactly_the_ratio_in_tokens_of_the_student(world: World, key: str, ratio: float) -> None:
    artifact = world.run(world.scores(key=key), ratio)
    for row, trace in zip(rows_of(artifact), world.traces, strict=True):
        ids, offsets = tokenize_with_offsets(STUDENT, trace.thinking)
        assert row.num_tokens == len(ids) == len(row.keep_mask)
        pieces = np.bincount(character_groups(offsets)).max() - 1  # 0 unless a character is several tokens
        assert abs(row.num_kept_tokens - round(ratio * len(ids))) <= pieces
        assert row.num_kept_tokens == row.keep_mask.sum()
        assert row.token_ids.tolist() == ids[row.keep_mask].tolist()
        assert is_subsequence(row.compressed_thinking, trace.thinking)
        assert (row.target_ratio, row.marker_ratio, row.protection_exceeded) == (ratio, None, False)
        assert row.actual_ratio == row.num_kept_tokens / row.num_tokens
    kept, total = artifact.facts["num_kept_tokens"], artifact.facts["num_tokens"]
    assert artifact.facts["actual_ratio"] == kept / total


def test_scores_in_the_students_tokens_select_the_best_ones(world: World) -> None:
    scores = world.scores()
    by_id = {r.id: r for r in read_records(scores.file("scores.parquet"), ScoredTrace)}
    for row in rows_of(world.run(scores)):
        values = by_id[row.id].scores
        assert values[row.keep_mask].min() > values[~row.keep_mask].max()


def test_ratio_one_keeps_the_text_in_one_artifact_for_every_scorer(world: World) -> None:
    original = world.run(None, 1.0)
    assert [r.compressed_thinking for r in rows_of(original)] == TEXTS
    assert all(r.keep_mask.all() for r in rows_of(original))
    assert world.run(world.scores(), 1.0, **EVERY_RULE).key == original.key
    assert world.run(None, 1.0, mixed_ratios=[0.5, 0.9]).key == original.key


def test_mixed_ratios_state_the_drawn_ratio_and_ignore_the_single_one(world: World) -> None:
    extra = [Trace(id=f"x{i}", question="", thinking=TEXTS[0], response="", answer="") for i in range(40)]
    world.traces += extra
    scores = world.scores()
    artifact = world.run(scores, 0.3, mixed_ratios=[0.5, 1.0, 0.7])
    rows = rows_of(artifact)
    assert all(r.marker_ratio == r.target_ratio for r in rows)
    assert {r.target_ratio for r in rows} == {0.5, 0.7, 1.0}
    assert world.run(scores, 0.9, mixed_ratios=[0.5, 0.7, 1.0]).key == artifact.key
    assert artifact.facts["actual_ratio_by_marker"] == {
        str(ratio): sum(r.num_kept_tokens for r in rows if r.marker_ratio == ratio)
        / sum(r.num_tokens for r in rows if r.marker_ratio == ratio)
        for ratio in (0.5, 0.7, 1.0)
    }
    assert reached_ratio(artifact, 1.0) == 1.0
    assert reached_ratio(artifact, 0.5) == pytest.approx(0.5, abs=0.05)
    assert reached_ratio(artifact, None) == artifact.facts["actual_ratio"]
    assert reached_ratio(artifact, 0.6) is None, "no trace drew it"
    assert "actual_ratio_by_marker" not in world.run(scores, 0.5).facts
    assert reached_ratio(world.run(scores, 0.5), 0.5) is None, "as in artifacts of earlier releases"
    world.traces = extra[:5]
    alone = rows_of(world.run(world.scores(), mixed_ratios=[0.5, 0.7, 1.0]))
    assert {r.id: r.target_ratio for r in alone}.items() <= {r.id: r.target_ratio for r in rows}.items()


def test_protected_digits_stay_and_rows_above_the_ratio_are_marked(world: World) -> None:
    artifact = world.run(world.scores(), 0.1, protection=Protection.digits)
    rows = rows_of(artifact)
    for row, text in zip(rows, TEXTS, strict=True):
        assert [c for c in row.compressed_thinking if c.isdigit()] == [c for c in text if c.isdigit()]
    assert [r.protection_exceeded for r in rows] == [True, True, True, False]
    assert artifact.facts["num_exceeded"] == 3


def test_every_rule_is_part_of_the_identity_and_changes_the_selection(world: World) -> None:
    scores = world.scores()
    plain = world.run(scores)
    for name, value in EVERY_RULE.items():
        changed = world.run(scores, **{name: value})
        assert changed.key != plain.key
        assert [r.compressed_thinking for r in rows_of(changed)] != [r.compressed_thinking for r in rows_of(plain)]
    again = world.run(scores, **EVERY_RULE | {"keep_strings": [r"\n", "Wait", "Wait"]})
    assert world.run(scores, **EVERY_RULE).key == again.key


def test_answer_of_the_row_is_protected(world: World) -> None:
    world.traces = [
        Trace(id="t0", question="", thinking=TEXTS[0], response="", answer="42"),
        Trace(id="t1", question="", thinking=TEXTS[1], response="", answer=""),
    ]
    protected, empty = rows_of(world.run(world.scores(), 0.2, protection=Protection.answer))
    assert protected.compressed_thinking.count("42") == 2
    assert protected.num_kept_tokens == round(0.2 * protected.num_tokens)
    assert not any(row.protection_exceeded for row in (protected, empty))


def test_rows_above_the_ratio_by_a_limit_on_deletions_are_marked(world: World) -> None:
    artifact = world.run(world.scores(), 0.1, max_consecutive_deletions=1)
    for row in rows_of(artifact):
        assert row.protection_exceeded
        assert (row.keep_mask[1:] | row.keep_mask[:-1]).all()
    assert artifact.facts["num_exceeded"] == len(TEXTS)


def test_masks_are_nested_over_the_artifacts_of_falling_ratios(world: World) -> None:
    scores = world.scores(key="scorer")
    for larger, smaller in itertools.pairwise(rows_of(world.run(scores, r)) for r in (0.9, 0.6, 0.4)):
        assert all(not (s.keep_mask & ~b.keep_mask).any() for s, b in zip(smaller, larger, strict=True))


def test_drops_are_counted_and_validation_rows_are_not_compressed(world: World) -> None:
    data = world.data(
        Trace(id="v", question="", thinking="held out", response="", answer="", split="validation"),
        Trace(id="e", question="", thinking="", response="", answer=""),
    )
    artifact = world.run(world.scores(ids=["t0", "t1"]), data=data)
    assert [r.id for r in rows_of(artifact)] == ["t0", "t1"]
    assert artifact.manifest["dropped"] == {"no score": 3}
    assert world.run(None, 1.0, data=data).manifest["dropped"] == {"no tokens": 1}


def test_a_refused_trace_is_dropped_with_the_reason_of_the_score_stage(world: World) -> None:
    refused = {"question over the context": 1, "no response to condition on": 1}
    artifact = world.run(world.scores(ids=["t0", "t1"], refused=refused))
    assert artifact.manifest["dropped"] == refused
    partly = world.run(world.scores(ids=["t0"], refused={"no response to condition on": 1}))
    assert partly.manifest["dropped"] == {"no response to condition on": 1, "no score": 2}


def test_no_remaining_trace_is_an_error_with_reasons(world: World) -> None:
    with pytest.raises(DataError, match=r"no trace is left of 4 .*4 no score"):
        world.run(world.scores(ids=[]))


def test_ratio_below_one_without_scores_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=r"ratio: got 0\.5"):
        world.run(None)


def test_scores_of_other_tokens_or_texts_are_refused(world: World) -> None:
    two = {"token_ids": np.array([1, 2], np.int32), "offsets": np.array([[0, 1], [1, 2]], np.int32)}
    with pytest.raises(ArtifactError, match="other tokens"):
        world.run(world.scores(**two, scores=np.zeros(2, np.float32)))
    with pytest.raises(ArtifactError, match="do not fit"):
        world.run(world.scores(**two, scores=np.array([0, np.nan], np.float32)))


def test_missing_traces_give_a_warning_each_time(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.run(None, 1.0)
    world.run(world.scores(), 0.5)
    assert "training traces are left" not in caplog.text
    for _ in range(2):  # the second time it exists
        caplog.clear()
        world.run(world.scores(ids=["t0", "t1", "t2"]), 0.5)
        assert "only 3 of 4 training traces are left (1 no score)" in caplog.text
