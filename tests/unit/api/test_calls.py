"""Results of the Python API: those of `compress.py`, for one text as for many."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch

import cotpress
from cotpress.errors import ConfigError, DataError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.records import CompressedTrace
from cotpress.scoring import direct, models
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.parts import CHUNK_CHARACTERS
from support.encoder import save_encoder

Settings = dict[str, Any]
Rows = list[dict[str, str]]

CALLS: list[tuple[str, Settings]] = [
    ("scorer=cts ratio=0.5", {}),
    ("scorer=cts scorer.condition=question_answer scorer.baseline=question ratio=0.3 model.context_tokens=100",
     {"condition": "question_answer", "baseline": "question", "ratio": 0.3, "model.context_tokens": 100}),
    ("scorer=llmlingua ratio=0.7 compression.granularity=step", {"ratio": 0.7, "granularity": "step"}),
    ("scorer=random ratio=0.5 seed=3 compression.protection=answer compression.keep_strings=[so]",
     {"seed": 3, "protection": "answer", "keep_strings": ["so"]}),
    ("scorer=gogi ratio=0.4 compression.granularity=token", {"ratio": 0.4, "granularity": "token"}),
    ("scorer=reference_walk ratio=0.5 compression.alignment=next", {"alignment": "next"}),
    ("scorer=mix ratio=0.6", {"ratio": 0.6}),
    ("scorer=cts ratio=0.5 compression.allocation=budget", {"allocation": "budget"}),
    ("scorer=cts ratio=0.5 compression.allocation=threshold", {"allocation": "threshold"}),
    ("scorer=cts ratio=0.5 compression=mixed", {"compression": "mixed"}),
    ("scorer=cts ratio=0.5 compression.mode=mask_loss compression.soft_weights=true",
     {"mode": "mask_loss", "soft_weights": True}),
    ("scorer=cts ratio=0.5 compression.tokens=retokenize", {"tokens": "retokenize"}),
    ("scorer=cts ratio=0.5 compression=llmlingua_compat compression.iterative_size=20",
     {"selection": "llmlingua_compat", "iterative_size": 20}),
    ("scorer=cts compression.mode=first_solution", {"mode": "first_solution"}),
    ("scorer=cts ratio=1", {"ratio": 1}),
]  # fmt: skip


def same(ours: CompressedTrace, theirs: CompressedTrace) -> bool:
    pairs = [(getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(CompressedTrace)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@pytest.mark.parametrize(("overrides", "options"), CALLS, ids=[overrides for overrides, _ in CALLS])
def test_rows_are_those_of_the_command(
    overrides: str, options: Settings, settings: Settings, rows: Rows, command: Callable[..., Any]
) -> None:
    expected, scored = command(*overrides.split())
    scorer = overrides.split()[0].removeprefix("scorer=")
    results = cotpress.compress(rows, scorer, **options, **settings)
    assert [result.row.id for result in results] == [row["id"] for row in rows] == [row.id for row in expected]
    assert all(same(result.row, row) for result, row in zip(results, expected, strict=True))
    for result, row in zip(results, rows, strict=True):
        assert (result.original, result.text) == (row["thinking"], result.row.compressed_thinking)
        assert "".join(np.array(result.tokens)[result.mask]) or result.ratio == 0
    if not scored or options.get("ratio") == 1:
        assert all(result.scores is None for result in results)
    elif "alignment" not in options:
        assert all(np.array_equal(r.scores, s.scores) for r, s in zip(results, scored, strict=True))
    if scored and "selection" not in options:
        known = {"granularity", "protection", "keep_strings", "alignment", "allocation", "compression", "ratio", "mode",
                 "tokens", "soft_weights"}  # fmt: skip
        own = {name: value for name, value in options.items() if name not in known}
        alone = cotpress.score(rows, scorer, **own, **settings)
        assert all(np.array_equal(a.scores, s.scores) for a, s in zip(alone, scored, strict=True))


def test_some_texts_are_longer_than_the_context_of_the_case_with_windows(settings: Settings, rows: Rows) -> None:
    scores = cotpress.score(rows, "cts", **settings)
    assert max(len(own.scores) for own in scores) > 100


def test_texts_of_several_chunks_have_the_scores_of_the_command(
    settings: Settings, rows: Rows, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CHUNK_CHARACTERS > 1000
    monkeypatch.setattr("cotpress.store.parts.CHUNK_CHARACTERS", 200)
    _, scored = command("scorer=cts", "scorer.condition=question", "ratio=0.5")
    chunks, compute = list[int](), direct.computed
    monkeypatch.setattr(direct, "computed", lambda work, traces: chunks.append(len(traces)) or compute(work, traces))
    scores = cotpress.score(rows, "cts", condition="question", **settings)
    assert max(chunks) < len(rows)
    assert all(np.array_equal(own.scores, row.scores) for own, row in zip(scores, scored, strict=True))


def test_classifier_of_a_folder_scores_in_the_tokens_of_the_model(
    settings: Settings, rows: Rows, tmp_path: Any
) -> None:
    encoder = save_encoder(tmp_path, [row["thinking"] for row in rows])
    options = {"path": str(encoder), "train": True, "trained_layers": None, "epochs": 1, "window_tokens": 12}
    options |= settings
    scores = cotpress.score(rows[0], "tokenskip", **options)
    assert len(scores.scores) == len(scores.tokens) != len(scores.record.scores)
    result = cotpress.compress(rows[0], "tokenskip", 0.5, granularity="token", **options)
    assert np.array_equal(result.scores, scores.scores)
    assert result.row.num_kept_tokens == round(0.5 * result.row.num_tokens)


# Forms of the data


@dataclass
class Solved:
    question: str
    thinking: str
    response: str
    answer: str
    other: int = 3


def test_a_text_a_row_and_a_dataclass_give_the_same(settings: Settings, rows: Rows) -> None:
    row = {name: text for name, text in rows[1].items() if name != "id"}
    beside = {name: text for name, text in row.items() if name != "thinking"}
    options = {"condition": "question_answer", "protection": "answer", **settings}
    results = [
        cotpress.compress(row, **options),
        cotpress.compress(row["thinking"], **beside, **options),
        cotpress.compress(Solved(**row), **options),
        *cotpress.compress([row, Solved(**row)], **options),
        *cotpress.compress([row["thinking"]] * 2, **{name: [text] * 2 for name, text in beside.items()}, **options),
    ]
    assert len({(result.text, result.mask.tobytes()) for result in results}) == 1
    assert {result.row.answer for result in results} == {"1"}
    assert [result.row.id for result in results] == ["row-1", "row-1", "row-1", "row-1", "row-2", "row-1", "row-2"]


def test_answer_of_a_text_is_its_response_unless_there_is_one(settings: Settings) -> None:
    text = "so 3 apples plus 4 apples is 7"
    scores = {
        name: cotpress.score(text, **given, **settings).scores.tobytes()
        for name, given in {
            "answer": {"answer": "7"}, "response": {"response": "7"}, "both": {"response": "7", "answer": "8"},
            "other": {"answer": "8"},
        }.items()
    }  # fmt: skip
    assert scores["answer"] == scores["response"] == scores["both"] != scores["other"]


def test_tags_are_no_part_of_a_text(settings: Settings) -> None:
    plain, tagged = (cotpress.compress(t, "random", **settings) for t in ("so 3 apples", "<think>so 3 apples</think>"))
    assert (tagged.original, tagged.text) == (plain.original, plain.text) == ("so 3 apples", plain.text)


def test_no_texts_give_no_results(settings: Settings) -> None:
    assert cotpress.compress([], "random", **settings) == cotpress.score([], "random", **settings) == []


def test_a_dataset_is_mapped_row_by_row_in_batches_and_as_a_whole(settings: Settings, rows: Rows) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")
    data = datasets.Dataset.from_list(rows)
    whole = cotpress.columns(cotpress.compress(data, ratio=0.5, **settings))
    by_row = data.map(lambda row: cotpress.columns(cotpress.compress(row, ratio=0.5, **settings)))
    batched = data.map(
        lambda batch: cotpress.columns(
            cotpress.compress(batch["thinking"], ratio=0.5, response=batch["response"], **settings)
        ),
        batched=True,
        batch_size=5,
    )
    assert set(whole) == {
        "compressed_thinking", "keep_mask", "scores", "num_tokens", "num_kept_tokens", "target_ratio", "actual_ratio",
    }  # fmt: skip
    for name, values in whole.items():
        for mapped in (by_row, batched):
            if name == "scores":  # rounding differs with the texts that are read together
                assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(mapped[name], values, strict=True))
            else:
                assert list(mapped[name]) == values
    assert by_row["question"] == data["question"]


def test_columns_of_scores_are_plain(settings: Settings) -> None:
    scores = cotpress.score("so 3 apples", "random", **settings)
    assert cotpress.columns(scores) == {"scores": scores.scores.tolist(), "offsets": scores.offsets.tolist()}
    assert cotpress.columns([scores, scores])["offsets"] == [scores.offsets.tolist()] * 2
    assert cotpress.columns([]) == {}


# Rows that cannot be used


class Table(list[str]):
    """A table like those of pandas, whose elements are the names of its columns."""

    iterrows = None


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        ("", {}, "the row, thinking: empty thinking"),
        (["fine", " "], {}, r"rows\[1\], thinking: empty thinking"),
        ({"text": "so"}, {}, r"the row: missing column 'thinking'\. Got: the columns text\. .* as data\['COLUMN'\]"),
        (Table(["thinking"]), {}, r"rows: got Table, allowed: .*\. Fix: data\.to_dict\('records'\)"),
        ([{"thinking": "so"}, {"thinking": 3}], {}, r"rows\[1\], thinking: wrong type"),
        ({"thinking": ["a", "b"]}, {}, r"several texts in 'thinking'\..* of a batch its texts, data\['thinking'\]"),
        ([3], {}, r"rows\[0\]: no row\. Got: a number"),
        (3, {}, "rows: got a number, allowed: a text"),
        ("so\0", {}, "NUL character in 'thinking'"),
        ("<think>so", {}, "thinking is not closed"),
        (["a", "b"], {"question": ["?"]}, "question: got 1 of them for 2 texts"),
        ("a", {"question": ["?"]}, "question: got 1 of them for one text"),
        ("a", {"answer": [7]}, "answer: got 1 of them"),
        ("a", {"question": 7}, "the row, question: wrong type"),
        ([{"thinking": "so"}], {"question": "?"}, "question: got one for rows, but"),
    ],
)
def test_unusable_data_is_an_error_that_names_the_row(data: Any, given: Settings, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        cotpress.compress(data, "random", model="tiny", **given)


def test_refused_texts_are_named_before_anything_is_computed(settings: Settings, monkeypatch: Any) -> None:
    monkeypatch.setattr("cotpress.scoring.direct.computed", None)
    with pytest.raises(
        DataError, match=r"^no response to condition on|^the row: no response to condition on\. Fix: answer"
    ):
        cotpress.compress("so 3 apples", **settings)
    with pytest.raises(
        DataError, match=r"2 of 3 rows cannot be scored: rows\[0\]: no question.*; rows\[2\]: no question.*"
    ):
        cotpress.score(["a", "b", "c"], condition="question", question=["", "b?", " "], **settings)
    with pytest.raises(DataError, match=r"7 of 7 .*rows\[4\]: .* and 2 more\. Fix: answer=TEXT"):
        cotpress.score(["a"] * 7, **settings)


# Models


def test_models_are_loaded_once_and_until_they_are_freed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cotpress.free_models()
    loaded, load = list[Any](), models.load_model
    monkeypatch.setattr(models, "load_model", lambda *given, **more: loaded.append(given) or load(*given, **more))
    for ratio in (0.3, 0.5):
        cotpress.compress("so 3 apples", "cts", ratio, answer="7", **settings)
        cotpress.compress("so 3 apples", "gogi", ratio, answer="7", question="3?", **settings)
        cotpress.score("so 3 apples", "llmlingua", **settings)
    assert len(loaded) == 1
    cotpress.free_models()
    cotpress.score("so 3 apples", "llmlingua", **settings)
    assert len(loaded) == 2


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    store = ArtifactStore(tmp_path_factory.mktemp("loaded"))
    config = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    return load_model(config, store), load_tokenizer(config, store)


@pytest.mark.parametrize("scorer", ["cts", "gogi"])
def test_loaded_model_gives_the_same_and_stays_as_it_was(
    loaded: tuple[Any, Any], settings: Settings, rows: Rows, scorer: str
) -> None:
    model, _ = loaded
    model.train()
    weight = next(model.parameters())
    weight.requires_grad_(True)
    with torch.enable_grad():
        given = cotpress.compress(rows, scorer, model=loaded)
    named = cotpress.compress(rows, scorer, **settings)
    assert [(own.text, own.mask.tobytes()) for own in given] == [(own.text, own.mask.tobytes()) for own in named]
    assert all(module.training for module in model.modules())
    assert weight.requires_grad
    assert weight.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float32"}, "dtype has no effect on a loaded model"),
        ({"model.attention": "eager"}, r"model\.attention has no effect on a loaded model"),
        ({"reference": "somewhere"}, "reference: got 'somewhere' with a loaded model"),
    ],
)
def test_settings_of_loading_are_refused_for_a_loaded_model(
    loaded: tuple[Any, Any], options: Settings, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        cotpress.compress("so 3 apples", model=loaded, answer="7", **options)


def test_tuple_without_model_or_with_another_tokenizer_is_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model: got \(str, str\), allowed: a name, a folder, a hub id, or"):
        cotpress.compress("so", model=("a", "b"), answer="7")  # type: ignore[arg-type]
    model, tokenizer = loaded
    for alone, kind in ((model, "LlamaForCausalLM"), (None, "NoneType")):
        with pytest.raises(ConfigError, match=rf"model: got \({kind}\), allowed: .* or a loaded \(model, tokenizer"):
            cotpress.compress("so", model=alone, answer="7")
    from copy import deepcopy

    larger = deepcopy(tokenizer)
    larger.add_tokens([f"word{i}" for i in range(3)])
    larger.eos_token = "word2"
    with pytest.raises(ModelError, match="tokens without an embedding"):
        cotpress.compress("so", model=(model, larger), answer="7")


def test_folder_of_a_model_and_reference_are_read(loaded: tuple[Any, Any], settings: Settings, tmp_path: Any) -> None:
    for part in loaded:
        part.save_pretrained(tmp_path)
    folder = {**settings, "model": tmp_path, "dtype": "float32"}
    named = cotpress.score("so 3 apples", answer="7", **settings)
    assert np.array_equal(cotpress.score("so 3 apples", answer="7", **folder).scores, named.scores)
    itself = cotpress.score("so 3 apples", "rho1_excess", reference=tmp_path, question="3?", **settings)
    assert np.allclose(itself.scores, 0)
    with pytest.raises(ConfigError, match="reference"):
        cotpress.score("so 3 apples", "rho1_excess", question="3?", **settings)


# Selection


@pytest.mark.parametrize(
    "options", [{}, {"granularity": "step", "protection": "math"}, {"max_consecutive_deletions": 3}]
)
def test_selection_of_known_scores_is_the_compression(settings: Settings, rows: Rows, options: Settings) -> None:
    scores = cotpress.score(rows, **settings)
    for ratio in (0.0, 0.3, 0.7, 1.0):
        selected = cotpress.select(scores, ratio, **options)
        compressed = cotpress.compress(rows, ratio=ratio, **options, **settings)
        assert all(same(a.row, b.row) for a, b in zip(selected, compressed, strict=True))
    one = cotpress.select(scores[0], 0.3, **options)
    assert same(one.row, cotpress.select(scores, 0.3, **options)[0].row)


def test_numbers_give_the_mask_of_the_largest() -> None:
    assert cotpress.select([3.0, 1.0, 2.0, 5.0], 0.5).tolist() == [True, False, False, True]
    assert cotpress.select(np.array([3, 1, 2, 5]), 0.75).tolist() == [True, False, True, True]
    assert cotpress.select([3.0, 1.0, 2.0, 5.0], 0.5, alignment="next").tolist() == [False, False, True, True]
    assert cotpress.select([], 0.5).tolist() == []
    limited = cotpress.select(np.arange(9.0), 0.2, max_consecutive_deletions=2)
    assert "000" not in "".join(str(int(kept)) for kept in limited)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([1.0, 2.0], {"granularity": "word"}, r"compression\.granularity: needs the text of the tokens"),
        ([1.0, 2.0], {"protection": "digits"}, r"compression\.protection: needs the text"),
        ([1.0, 2.0], {"keep_strings": ["so"]}, r"compression\.keep_strings: needs the text"),
        ([1.0, float("nan")], {}, "scores: 1 of 2 are not finite; allowed: what cotpress.score returned, or finite"),
        ([[1.0], [2.0]], {}, r"scores: got float64 of the shape \(2, 1\), allowed: what cotpress.score returned"),
        ([[1.0], [2.0, 3.0]], {}, "scores: got a list that is no list of numbers, allowed: what cotpress"),
        (["a"], {}, "scores: got <U1"),
        ("a text", {}, "scores: got a str, allowed: what cotpress.score returned"),
        ([1.0, 2.0], {"selection": "llmlingua_compat"}, "llmlingua_compat"),
        ([1.0, 2.0], {"condition": "question"}, "unknown option 'condition'"),
        ([1.0, 2.0], {"ratio": 2}, r"ratio: got 2\.0, allowed: a number in \[0, 1\]"),
    ],
)
def test_numbers_that_cannot_be_selected_by_are_refused(scores: Any, options: Settings, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        cotpress.select(scores, **{"ratio": 0.5, **options})


# Imports


@pytest.mark.parametrize(
    ("code", "unloaded"),
    [
        ("import cotpress", ("torch", "numpy", "hydra")),
        ("import cotpress; cotpress.evaluate_answers('4', '4')", ("torch", "transformers")),
        ("import cotpress; cotpress.select([1.0, 2.0], 0.5); cotpress.free_models()", ("torch", "transformers")),
    ],
)
def test_only_what_is_needed_is_imported(code: str, unloaded: tuple[str, ...]) -> None:
    check = f"{code}; import sys; print([name for name in {unloaded} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_every_exported_name_is_there_and_others_are_not() -> None:
    assert {"compress", "score", "select", "evaluate_answers", "columns", "free_models"} <= set(dir(cotpress))
    assert all(getattr(cotpress, name) is not None for name in cotpress.__all__)
    with pytest.raises(AttributeError, match="module 'cotpress' has no attribute 'compres'"):
        _ = cotpress.compres  # type: ignore[attr-defined]
