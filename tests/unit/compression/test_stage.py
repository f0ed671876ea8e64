import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cotpress.compression import cutting, stage
from cotpress.compression.config import (
    Alignment,
    Allocation,
    CompressionConfig,
    Mode,
    Protection,
    Selection,
    Statement,
    TrainedTokens,
)
from cotpress.compression.stage import compress, compress_shard, reached_ratio
from cotpress.devices.config import Shard
from cotpress.errors import ArtifactError, ConfigError, DataError
from cotpress.modeling.alignment import decode, tokenize_with_offsets
from cotpress.modeling.segments import character_groups
from cotpress.modeling.selection import PERCENTS, SharedTrace
from cotpress.records import CompressedTrace, ScoredTrace, Trace, Unit
from cotpress.store import parts
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.parts import FinishedRows
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
    "granularity": Unit.step,
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

    def shard(self, number: int, total: int, scores: Artifact, ratio: float = 0.5, **config: Any) -> bool:
        rows = FinishedRows(scores, "scores.parquet", ScoredTrace, self.data().file("traces.parquet"))
        return compress_shard(
            CompressionConfig(**config), Shard(number, total), ratio=ratio, seed=1, traces=self.data(), scores=rows,
            tokenizer=STUDENT, tokenizer_key="student", store=self.store,
        )  # fmt: skip

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
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.77])
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
    for row in rows_of(world.run(scores, granularity=Unit.token)):
        values = by_id[row.id].scores
        assert values[row.keep_mask].min() > values[~row.keep_mask].max()


def test_ratio_one_keeps_the_text_in_one_artifact_for_every_scorer(world: World) -> None:
    original = world.run(None, 1.0)
    assert [r.compressed_thinking for r in rows_of(original)] == TEXTS
    assert all(r.keep_mask.all() for r in rows_of(original))
    assert world.run(world.scores(), 1.0, **EVERY_RULE).key == original.key
    assert world.run(None, 1.0, mixed_ratios=[0.5, 0.9]).key == original.key
    assert world.run(world.scores(), 1.0, allocation=Allocation.threshold).key == original.key


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


def test_openings_of_segments_are_part_of_the_identity_where_segments_are_cut(world: World) -> None:
    scores, starts = world.scores(), ["Hmm", "so"]
    segments = world.run(scores, granularity=Unit.segment)
    own = world.run(scores, granularity=Unit.segment, segment_starts=starts)
    assert (
        own.key == world.run(scores, granularity=Unit.segment, segment_starts=["so", "Hmm", "so"]).key != segments.key
    )
    assert own.manifest["identity"]["plan"]["rules"]["segment_starts"] == starts
    assert "segment_starts" not in world.run(scores).manifest["identity"]["plan"]["rules"]
    with pytest.raises(
        ConfigError, match=r"segment_starts has no effect with c\.granularity=word\. Fix: c\.granularity=seg"
    ):
        CompressionConfig(segment_starts=starts).validate("c")
    with pytest.raises(ConfigError, match=r"c\.segment_starts: got \[\], allowed: at least one text"):
        CompressionConfig(granularity=Unit.segment, segment_starts=[]).validate("c")


PLAIN = [
    Trace(id=f"p{i}", question="", thinking=f"{TEXTS[i % 2 * 3]} {i} + {n} = {i + n}." * n, response="", answer="")
    for i, n in enumerate([1, 5, 2, 9, 1, 3])
]
"""Every token of the student is a character or more."""


@pytest.mark.parametrize("rules", [{}, {"granularity": Unit.token, "protection": Protection.digits}, EVERY_RULE])
@pytest.mark.parametrize("allocation", [Allocation.threshold, Allocation.budget])
def test_traces_that_share_keep_together_what_fixed_keeps(
    world: World, allocation: Allocation, rules: dict[str, Any]
) -> None:
    world.traces = PLAIN
    scores = world.scores()
    for ratio in (0.35, 0.6, 0.85):
        fixed = world.run(scores, ratio, **rules)
        artifact = world.run(scores, ratio, allocation=allocation, **rules)
        assert artifact.facts == fixed.facts
        assert artifact.key != fixed.key
        assert artifact.manifest["identity"]["allocation"] == allocation.value
        assert "allocation" not in fixed.manifest["identity"]
        rows = rows_of(artifact)
        assert {row.target_ratio for row in rows} == {ratio}
        if ratio == 0.85:  # below it, every rule together holds all that is kept
            assert [row.num_kept_tokens for row in rows] != [row.num_kept_tokens for row in rows_of(fixed)]
        shares = read_records(artifact.file("shares.parquet"), SharedTrace)
        place = PERCENTS.index(round(100 * ratio))
        assert [(s.id, s.num_kept[place]) for s in shares] == [(r.id, r.num_kept_tokens) for r in rows]


def test_threshold_parts_the_scores_of_all_traces(world: World) -> None:
    world.traces = PLAIN
    scores = world.scores()
    by_id = {r.id: r.scores for r in read_records(scores.file("scores.parquet"), ScoredTrace)}
    rows = rows_of(world.run(scores, 0.4, allocation=Allocation.threshold, granularity=Unit.token))
    kept, gone = (np.concatenate([by_id[r.id][r.keep_mask == stays] for r in rows]) for stays in (True, False))
    assert kept.min() > gone.max()


def test_shared_masks_are_nested_as_the_ratio_falls(world: World) -> None:
    world.traces = PLAIN
    scores = world.scores()
    for allocation in (Allocation.threshold, Allocation.budget):
        made = [rows_of(world.run(scores, r, allocation=allocation)) for r in (0.9, 0.6, 0.4, 0.01)]
        for larger, smaller in itertools.pairwise(made):
            assert all(not (s.keep_mask & ~b.keep_mask).any() for s, b in zip(smaller, larger, strict=True))
        assert min(row.num_kept_tokens for row in made[-1]) == 1


def test_mixed_ratios_and_other_selections_do_not_share(world: World) -> None:
    for allocation in ("threshold", "budget"):
        config = CompressionConfig(allocation=Allocation(allocation), mixed_ratios=[0.5, 0.9])
        with pytest.raises(ConfigError, match=rf"c\.allocation: got '{allocation}', but with c\.mixed_ratios a marker"):
            config.validate("c")
    compat = CompressionConfig(selection=Selection.llmlingua_compat, allocation=Allocation.budget)
    with pytest.raises(ConfigError, match=r"c\.allocation has no effect with c\.selection=llmlingua_compat"):
        compat.validate("c")


@pytest.mark.parametrize("selection", [Selection.llmlingua_compat, Selection.llmlingua2_compat])
def test_selections_of_releases_go_with_the_default_unit_and_that_of_the_cts_experiment(selection: Selection) -> None:
    for unit in (CompressionConfig().granularity, Unit.token):
        CompressionConfig(selection=selection, granularity=unit).validate("c")
    for unit in (Unit.step, Unit.paragraph, Unit.segment):
        with pytest.raises(ConfigError, match=r"c\.granularity has no effect"):
            CompressionConfig(selection=selection, granularity=unit).validate("c")


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


def test_missing_traces_give_one_warning_in_every_process(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.run(None, 1.0)
    world.run(world.scores(), 0.5)
    assert "traces are left" not in caplog.text
    for _ in range(2):  # the second time the artifact exists
        caplog.clear()
        world.store = ArtifactStore(tmp_path)
        for _ in range(2):  # checks look for it, then the command
            world.run(world.scores(ids=["t0", "t1", "t2"]), 0.5)
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == ["compress: only 3 of 4 traces are left (1 no score)"]


MANY = [Trace(id=f"m{i}", question="q?", thinking=TEXTS[i % 3], response="r", answer="1") for i in range(40)]


def content(artifact: Artifact) -> list[Any]:
    return [artifact.file(name).read_bytes() for name in sorted(artifact.manifest["files"])] + [artifact.manifest]


@pytest.mark.parametrize("allocation", Allocation)
def test_rows_made_in_many_chunks_or_shards_have_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocation: Allocation
) -> None:
    config: dict[str, Any] = {"allocation": allocation}
    ids = [t.id for t in MANY[3:]]
    worlds = [World(tmp_path / name) for name in ("whole", "chunks", "shards")]
    for world in worlds:
        world.traces = MANY
    whole = content(worlds[0].run(worlds[0].scores(ids=ids), **config))
    assert len(whole) == (3 if allocation is Allocation.fixed else 4)
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 300)
    monkeypatch.setattr(stage, "TRACES_RANKED", 1000)
    assert content(worlds[1].run(worlds[1].scores(ids=ids), **config)) == whole
    shared = worlds[2]
    scores = shared.scores(ids=ids)
    assert [shared.shard(number, 3, scores, **config) for number in (2, 3)] == [False, False]
    assert shared.shard(1, 3, scores, **config)
    with monkeypatch.context() as patch:
        # Nothing is left to compute but the cut of traces that share the kept tokens.
        patch.setattr(cutting, "_cut" if allocation is Allocation.fixed else "survey", None)
        assert content(shared.run(scores, **config)) == whole
        assert shared.shard(1, 3, scores, **config)


def test_interrupted_compression_goes_on_from_its_finished_chunks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 300)
    world.traces, cut, computed = MANY, cutting._cut, list[str]()
    scores = world.scores()

    def dies(*arguments: Any) -> list[CompressedTrace]:
        if len(computed) > 10:
            raise KeyboardInterrupt
        rows = cut(*arguments)
        computed.extend(row.id for row in rows)
        return rows

    monkeypatch.setattr(cutting, "_cut", dies)
    with pytest.raises(KeyboardInterrupt):
        world.run(scores)
    assert 10 < len(computed) < 40
    monkeypatch.setattr(
        cutting, "_cut", lambda *arguments: computed.extend(t.trace.id for t in arguments[2]) or cut(*arguments)
    )
    artifact = world.run(scores)
    assert computed == [t.id for t in MANY] == [row.id for row in rows_of(artifact)]
    assert not (artifact.path / "scratch").exists()


@pytest.mark.usefixtures("usual_garbage_collection")
@pytest.mark.parametrize("allocation", Allocation)
def test_memory_does_not_grow_with_the_number_of_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocation: Allocation
) -> None:
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 10_000)
    monkeypatch.setattr(stage, "TRACES_RANKED", 10)
    monkeypatch.setattr("cotpress.store.tables.ROWS_AT_ONCE", 8)
    monkeypatch.setattr("cotpress.store.tables.ROW_GROUP_BYTES", 30_000)
    monkeypatch.setattr("cotpress.compression.allocation._NUMBERS_AT_ONCE", 1)

    def peak(number: int) -> int:
        world = World(tmp_path / str(number))
        world.traces = [
            Trace(id=f"t{i}", question="q", thinking=f"{i} {TEXTS[0] * 8}", response="", answer="")
            for i in range(number)
        ]
        data, scores = world.data(), world.scores()
        world.traces = []
        tracemalloc.start()
        assert world.run(scores, data=data, allocation=allocation).manifest["num_rows"] == number
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(20)  # what is made once
    # A trace alone has 560 characters, with its scores over 2,500 bytes; of traces that share there are some numbers.
    assert peak(240) - peak(90) < 150 * (400 if allocation is Allocation.fixed else 1000)


def test_scores_in_another_order_than_the_traces_are_refused(world: World) -> None:
    world.traces.reverse()
    scores = world.scores()
    world.traces.reverse()
    with pytest.raises(ArtifactError, match="belongs to no training trace"):
        world.run(scores)


def test_retokenized_rows_have_the_tokens_of_their_text_and_the_ratio_of_the_whole_one(world: World) -> None:
    text = "4x2 eggs 8x0"
    world.traces = [Trace(id="t0", question="", thinking=text, response="", answer="")]
    _, offsets = tokenize_with_offsets(STUDENT, text)
    scores = world.scores(scores=np.array([text[a:b] != "x" for a, b in offsets], dtype=np.float32))
    ratio = 1 - 2 / len(offsets)
    unit: dict[str, Any] = {"granularity": Unit.token}
    spliced = world.run(scores, ratio, **unit)
    artifact = world.run(scores, ratio, tokens=TrainedTokens.retokenize, **unit)
    ((row,), (other,)) = rows_of(artifact), rows_of(spliced)
    assert row.compressed_thinking == other.compressed_thinking == "42 eggs 80"
    assert [STUDENT.decode([id_]) for id_ in row.token_ids[[0, -1]]] == ["42", " 80"]
    assert [STUDENT.decode([id_]) for id_ in other.token_ids[[0, 1]]] == ["4", "2"]
    assert (row.num_kept_tokens, row.actual_ratio) == (other.num_kept_tokens, other.actual_ratio)
    assert artifact.facts == spliced.facts | {"num_training_tokens": len(row.token_ids)}
    assert artifact.manifest["identity"]["tokens"] == "retokenize"
    assert "tokens" not in spliced.manifest["identity"]
    assert world.run(scores, 1.0, tokens=TrainedTokens.retokenize).key == world.run(None, 1.0).key


def test_ratio_zero_leaves_no_thinking(world: World) -> None:
    artifact = world.run(world.scores(), 0.0)
    assert [(row.compressed_thinking, len(row.token_ids)) for row in rows_of(artifact)] == [("", 0)] * len(TEXTS)
    assert (artifact.facts["num_kept_tokens"], artifact.facts["actual_ratio"]) == (0, 0.0)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.77])
def test_masked_rows_are_whole_and_have_a_loss_on_the_tokens_that_deletion_keeps(world: World, ratio: float) -> None:
    scores = world.scores()
    masked, cut = world.run(scores, ratio, mode=Mode.mask_loss), world.run(scores, ratio)
    for row, kept, whole in zip(rows_of(masked), rows_of(cut), rows_of(world.run(None, 1.0)), strict=True):
        assert row.loss_weights is not None
        assert row.loss_weights.tolist() == kept.keep_mask.tolist()
        assert (row.target_ratio, row.actual_ratio, row.num_kept_tokens) == (ratio, 1.0, row.num_tokens)
        assert (row.compressed_thinking, row.token_ids.tolist()) == (
            whole.compressed_thinking,
            whole.token_ids.tolist(),
        )
    assert masked.facts["actual_ratio"] == 1.0
    assert masked.facts["loss_share"] == pytest.approx(cut.facts["actual_ratio"])
    assert "ranking.parquet" not in masked.manifest["files"]
    assert "loss_share" not in cut.facts


def test_settings_of_other_modes_are_no_part_of_the_identity_of_deletion(world: World) -> None:
    identity = world.run(world.scores()).manifest["identity"]
    assert set(identity) == {"traces", "scores", "tokenizer", "plan", "code", "stage", "format"}
    assert not any(name.startswith("cotpress.answers") for name in identity["code"])
    masked = world.run(world.scores(), mode=Mode.mask_loss).manifest["identity"]
    assert {key: masked[key] for key in identity} | {"loss": {"soft": False}} == masked


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.77])
def test_soft_weights_follow_the_scores_and_have_the_ratio_as_their_mean(world: World, ratio: float) -> None:
    scores = world.scores()
    by_id = {r.id: r for r in read_records(scores.file("scores.parquet"), ScoredTrace)}
    by_token = {"granularity": Unit.token, "mode": Mode.mask_loss}
    artifact = world.run(scores, ratio, **by_token, soft_weights=True)
    for row in rows_of(artifact):
        weights, places = row.loss_weights, np.argsort(by_id[row.id].scores)
        assert weights is not None
        if ratio and len(
            np.unique(character_groups(tokenize_with_offsets(STUDENT, row.compressed_thinking)[1]))
        ) == len(weights):
            assert (np.diff(weights[places]) > 0).all()
        assert weights.mean() == pytest.approx(ratio, abs=1e-6)
    assert artifact.facts["loss_share"] == pytest.approx(ratio, abs=1e-6)
    assert artifact.key != world.run(scores, ratio, **by_token).key


def test_ratio_one_with_a_loss_everywhere_is_the_artifact_of_whole_traces(world: World) -> None:
    scores, original = world.scores(), world.run(None, 1.0)
    assert world.run(scores, 1.0, mode=Mode.mask_loss).key == original.key
    assert world.run(scores, 1.0, mode=Mode.mask_loss, soft_weights=True).key == original.key


SOLVED = "The answer is 42. Let me check: 12 + 30 is 42. So the answer is 42."


def test_thinking_ends_with_its_first_solution_and_traces_without_one_are_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.traces.append(Trace(id="s0", question="q?", thinking=SOLVED, response="r", answer="42"))
    caplog.set_level("INFO")
    data = world.data()
    artifact = world.run(None, 1.0, data, mode=Mode.first_solution)
    *others, solved = rows_of(artifact)
    assert [row.compressed_thinking for row in others] == TEXTS
    assert [row.solution_found for row in others] == [False] * len(TEXTS)
    assert (solved.compressed_thinking, solved.solution_found) == ("The answer is 42.", True)
    ids, _ = tokenize_with_offsets(STUDENT, SOLVED)
    assert solved.token_ids.tolist() == ids[: solved.num_kept_tokens].tolist()
    assert solved.keep_mask.tolist() == [i < solved.num_kept_tokens for i in range(len(ids))]
    assert (solved.target_ratio, solved.marker_ratio) == (1.0, None)
    facts = artifact.facts
    assert (facts["num_unstated"], facts["num_shortened"]) == (len(TEXTS), 1)
    assert (
        f"compress: 1 of {len(TEXTS) + 1} traces are shortened to their first right solution; "
        f"{100 * facts['actual_ratio']:.1f} % of the thinking tokens are kept" in caplog.messages
    )
    assert facts["actual_ratio"] == pytest.approx(facts["num_kept_tokens"] / facts["num_tokens"])
    assert facts["actual_ratio"] < 1
    assert any(name.startswith("cotpress.answers") for name in artifact.manifest["identity"]["code"])
    assert artifact.key != world.run(None, 1.0, data, mode=Mode.first_solution, statement=Statement.concluded).key


def test_first_solutions_that_shorten_nothing_are_a_warning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.traces = [Trace(id="s0", question="q?", thinking="30 + 12. The answer is 42.", response="r", answer="42")]
    artifact = world.run(None, 1.0, mode=Mode.first_solution)
    assert artifact.facts["num_shortened"] == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(
        "compress: 0 of 1 traces are shortened to their first right solution; 100.0 % of the thinking tokens are kept, "
        "so the student is that of whole traces. Fix: compression.statement=concluded"
    )


def test_shards_of_first_solutions_are_compressed_without_scores(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 40)
    world.traces.append(Trace(id="s0", question="q?", thinking=SOLVED, response="r", answer="42"))
    config = CompressionConfig(mode=Mode.first_solution)
    done = [
        compress_shard(
            config, Shard(number, 2), ratio=1.0, seed=1, traces=world.data(), scores=None, tokenizer=STUDENT,
            tokenizer_key="student", store=world.store,
        )
        for number in (1, 2)
    ]  # fmt: skip
    assert done == [False, True]
    shared = rows_of(world.run(None, 1.0, mode=Mode.first_solution))
    whole = World(tmp_path / "other")
    whole.traces = world.traces
    assert repr(shared) == repr(rows_of(whole.run(None, 1.0, mode=Mode.first_solution)))


@pytest.mark.parametrize("tokens", TrainedTokens)
def test_tokens_of_a_row_decode_to_its_text(world: World, tokens: TrainedTokens) -> None:
    texts = ["🙂🤔 5 × 16 ≤ 80 🎉", "首先，12 加 30 等于 42。", "nai\u0308ve cafe\u0301 x\u0302 ½ 𝒳 👩‍👩‍👧"]  # noqa: RUF001
    world.traces = [Trace(id=f"t{i}", question="", thinking=t, response="", answer="") for i, t in enumerate(texts)]
    for key in ("student", "scorer"):
        for ratio in (0.3, 0.5, 0.7):
            for row in rows_of(world.run(world.scores(key=key), ratio, tokens=tokens)):
                assert decode(STUDENT, row.token_ids) == row.compressed_thinking
                assert "\ufffd" not in row.compressed_thinking
