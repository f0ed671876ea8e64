"""Published test sets from a hub cache and from local copies; the rows are made up."""

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors as hub_errors
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from cotpress.answers import Extractor, extract_answer, is_equal
from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.data import stage
from cotpress.data.config import BenchmarkConfig, HubFile, JsonlBenchmarkConfig, PublishedBenchmarkConfig
from cotpress.data.published import lettered, shuffled
from cotpress.errors import ConfigError, DataError
from cotpress.records import Problem
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "out")


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def composed(name: str, *overrides: str) -> BenchmarkConfig:
    config = to_objects(compose("train", overrides=[f"benchmark={name}", *overrides]))
    assert isinstance(config, TrainConfig)
    return config.benchmark


def made(**changes: Any) -> PublishedBenchmarkConfig:
    values = {
        "name": "made", "max_new_tokens": 8, "hub": HubFile(dataset="someone/made", revision="v1", file="test.jsonl"),
        "num_published": 2, "extractor": Extractor.number,
    }  # fmt: skip
    return PublishedBenchmarkConfig(**{**values, **changes})


def read(config: BenchmarkConfig, store: ArtifactStore) -> list[Problem]:
    return read_records(stage.problems(config, store).file("problems.parquet"), Problem)


def jsonl(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def cached(root: Path, hub: HubFile) -> Path:
    """An empty hub cache that holds one file's folder, as huggingface_hub lays it out."""
    repository = root / f"datasets--{hub.dataset.replace('/', '--')}"
    revision = hub.revision or "main"
    commit = revision if len(revision) == 40 else COMMIT
    file = repository / "snapshots" / commit / hub.file
    file.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(commit)
    return file


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants, file_download

    for module in (constants, file_download.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_gsm8k_is_read_from_the_parquet_file_of_the_hub(hub_cache: Path, store: ArtifactStore) -> None:
    config = composed("gsm8k")
    assert isinstance(config, PublishedBenchmarkConfig)
    answers = ["1 + 1 = <<1+1=2>>2\n#### 2", "He has 1,000 of them.\n#### 1,000"]
    pq.write_table(pa.table({"question": ["one?", "two?"], "answer": answers}), cached(hub_cache, config.hub))
    assert [(p.id, p.question, p.answer, p.extractor) for p in read(config, store)] == [
        ("0", "one?", "2", "number"),
        ("1", "two?", "1,000", "number"),
    ]


QUESTIONS = [{"Record ID": f"rec{i}", "Question": f'Which, "{i}"?\nChoose.', "Correct Answer": f"right {i}\n",
              **{f"Incorrect Answer {k}": f"wrong {k}, {i}" for k in (1, 2, 3)}, "Explanation": "secret"}
             for i in range(12)]  # fmt: skip


def gpqa(hub_cache: Path) -> None:
    config = composed("gpqa_diamond")
    assert isinstance(config, PublishedBenchmarkConfig)
    with cached(hub_cache, config.hub).open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, QUESTIONS[0])
        writer.writeheader()
        writer.writerows(QUESTIONS)


def test_gpqa_lists_shuffled_options_and_its_gold_is_the_letter_of_the_right_one(
    hub_cache: Path, store: ArtifactStore
) -> None:
    gpqa(hub_cache)
    problems = read(composed("gpqa_diamond"), store)
    assert {p.extractor for p in problems} == {"letter"}
    for row, problem in zip(QUESTIONS, problems, strict=True):
        options = dict(re.findall(r"^([A-D])\) (.+)$", problem.question, re.MULTILINE))
        assert options[problem.answer] == row["Correct Answer"].strip()
        assert sorted(options.values()) == sorted(str(row[k]).strip() for k in row if "nswer" in k)
        assert f"\n\n{row['Question']}\n\nA) " in problem.question
    assert len({p.answer for p in problems}) > 2


def test_gpqa_options_depend_on_the_seed_not_on_other_rows(hub_cache: Path, store: ArtifactStore) -> None:
    gpqa(hub_cache)
    whole = read(composed("gpqa_diamond"), store)
    assert read(composed("gpqa_diamond", "benchmark.limit=3"), store) == whole[:3]
    other = read(composed("gpqa_diamond", "benchmark.seed=1"), store)
    assert [p.answer for p in other] != [p.answer for p in whole]


def test_local_copy_and_the_hub_give_the_same_artifact(hub_cache: Path, store: ArtifactStore, tmp_path: Path) -> None:
    local = jsonl(tmp_path, {"question": "a", "answer": "1"}, {"problem": "b", "answer": 2, "id": None})
    cached(hub_cache, made().hub).write_bytes(Path(local).read_bytes())
    assert stage.problems(made(), store).key == stage.problems(made(path=local), store).key
    assert [(p.id, p.question, p.answer) for p in read(made(), store)] == [("0", "a", "1"), ("1", "b", "2")]


def test_content_and_reading_are_part_of_the_identity(store: ArtifactStore, tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"question": "a", "answer": "1"}, {"question": "b", "answer": "#2"})
    config = made(path=path)
    changes: list[dict[str, Any]] = [
        {"prompt": "{question}\nBe brief."}, {"extractor": Extractor.integer}, {"answer_after": "#"}, {"limit": 1},
    ]  # fmt: skip
    assert len({stage.problems(made(path=path, **c), store).key for c in [{}, *changes]}) == 5
    assert stage.problems(made(path=path, name="x", max_new_tokens=1), store).key == stage.problems(config, store).key
    assert read(made(path=path, **changes[0]), store)[0].question == "a\nBe brief."


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "a", "answer": "1"}, {"question": "b"}], r"line 2, .* missing field 'answer'. Got: .*question"),
        ([{"question": " ", "answer": "1"}], r"line 1, field 'question': empty question. Got: ' '"),
        ([{"question": "a", "answer": [1.5]}], r"field 'answer': wrong type of 'answer'. Got: a list"),
        ([{"question": "a", "answer": None}], r"field 'answer': wrong type of 'answer'. Got: null"),
        ([{"question": "a", "answer": "blue"}], r"extractor=number cannot read the gold answer. Got: 'blue'"),
        ([{"id": 1, "question": "a", "answer": "1"}] * 2, r"line 2, field 'id': duplicate id. Got: '1'"),
        ([["a"]], r"line 1: not a JSON object. Got: a list"),
        ([], "is empty"),
    ],
)  # fmt: skip
def test_bad_row_of_a_published_set_is_an_error(
    store: ArtifactStore, tmp_path: Path, rows: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        stage.problems(made(path=jsonl(tmp_path, *rows)), store)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "line 1: invalid JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: invalid JSON"),
        ("a.jsonl", b"\xff", "line 1: not UTF-8"),
        ("a.csv", b"question\n\xff", "cannot be read as csv"),
        ("a.parquet", b"PAR", "cannot be read as parquet"),
        ("a.csv", b'question,answer\n"open,1', "cannot be read as csv"),
    ],
)
def test_file_of_another_format_than_its_suffix_is_an_error(
    store: ArtifactStore, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        stage.problems(made(path=str(tmp_path / name)), store)


ODD = [
    b'{"question": "a\\ud800", "answer": "1"}',
    b'{"question": "q", "answer": "\\udfff"}',
    b'{"question": ' + b"[" * 50_000 + b"]" * 50_000 + b', "answer": "1"}',
    b'{"a":' * 100_000,
    b'{"question": "q", "answer": ' + b"9" * 5000 + b"}",
    b'{"question": "q", "answer": NaN}',
    b'{"question": "q", "answer": -Infinity}',
    b'{"question": "q", "answer": 1e999}',
    b'{"question": "q\\u0000", "answer": "1"}',
    b'{"question": "q", "answer": "1"}\x00',
    b'{"question": "q", "answer": {"value": 1}}',
    b'"question"',
    b"null",
    b"\xff\xfe\x00",
    b'{"question": "q" "answer": "1"}',
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_row_of_a_published_file_is_one_message_or_dropped_with_its_reason(
    store: ArtifactStore, tmp_path: Path, odd: bytes
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"question": "a", "answer": 3}\r\n' + odd + b"\n")
    with pytest.raises(DataError, match=r"line 2.*benchmark\.strict=false") as caught:
        stage.problems(made(path=str(path)), store)
    str(caught.value).encode()
    artifact = stage.problems(made(path=str(path), strict=False), store)
    assert (artifact.manifest["num_rows"], sum(artifact.manifest["dropped"].values())) == (1, 1)
    with pytest.raises(DataError, match="line 2"):
        stage.problems(made(path=str(path)), store)  # an artifact of a lenient run is not taken


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n \n",
        b"\xef\xbb\xbf",
        b"\xff\xfe{\x00}\x00",
        b"\xfe\xff\x00{\x00}",
        b"\0" * 100,
        b'{"question": "a"}\r{"b": 1}',
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_published_file_without_a_row_is_one_message(
    store: ArtifactStore, tmp_path: Path, content: bytes, strict: bool
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError):
        stage.problems(made(path=str(tmp_path / "rows.jsonl"), strict=strict), store)


def test_row_with_an_unusable_id_has_its_number_unless_strict(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = jsonl(tmp_path, {"id": "a", "question": "a", "answer": 1}, {"id": "\ud83d", "question": "b", "answer": 2})
    assert [p.id for p in read(made(path=path, strict=False), store)] == ["a", "1"]
    assert "2 of 2 rows are used; cells without text, read as empty: 1 x id" in caplog.text
    with pytest.raises(DataError, match="line 2, field 'id': lone surrogate"):
        stage.problems(made(path=path), store)


def test_published_set_of_unreadable_gold_answers_is_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"question": "a", "answer": "blue"})
    with pytest.raises(DataError, match=r"no usable row \(1 x .*cannot read the gold answer \(first: line 1\)\)"):
        stage.problems(made(path=path, strict=False), store)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.jsonl", r"benchmark\.path: .* does not exist.*someone/made"),
        ("a.txt", r"benchmark\.path: .*allowed: a file that ends in \.jsonl, .* It is a copy of someone/made"),
        ("", r"benchmark\.path: .* is a folder"),
    ],
)
def test_wrong_path_of_a_local_copy_is_a_usage_error(
    store: ArtifactStore, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ConfigError, match=message):
        stage.problems(made(path=str(tmp_path / name)), store)


def test_another_number_of_problems_than_published_is_reported(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = jsonl(tmp_path, {"question": "a", "answer": "1"})
    with caplog.at_level(logging.WARNING):
        stage.problems(made(path=path), store)
    assert "has 1 usable problems, the published set has 2" in caplog.text


def test_error_without_network_and_cache_names_the_fix(hub_cache: Path, store: ArtifactStore) -> None:
    with pytest.raises(DataError) as caught:
        stage.problems(made(), store)
    for part in ("someone/made (revision v1)", "test.jsonl", str(hub_cache), "benchmark.path=FILE", "HF_HUB_OFFLINE=1"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (hub_errors.GatedRepoError, "access is gated.*accept its licence at .*/datasets/someone/made and log in"),
        (hub_errors.RepositoryNotFoundError, "the hub does not know it"),
        (hub_errors.RevisionNotFoundError, "no such revision.*benchmark.hub.revision"),
        (hub_errors.RemoteEntryNotFoundError, "no such file.*benchmark.hub.file"),
    ],
)
def test_refusal_of_the_hub_names_the_fix(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(DataError, match=message):
        stage.problems(made(), store)


def test_name_that_is_no_hub_id_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(DataError, match="not a hub id"):
        stage.problems(made(hub=HubFile(dataset="a b/c/d", file="x.jsonl")), store)


def test_unanswerable_questions_need_no_answer_column(store: ArtifactStore, tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"id": 1, "question": "How old is she?"}, {"id": 2, "question": "?", "answer": "7"})
    config = JsonlBenchmarkConfig(name="mip", path=path, max_new_tokens=8, unanswerable=True)
    assert [(p.id, p.answer, p.unanswerable) for p in read(config, store)] == [("1", "", True), ("2", "", True)]
    config = JsonlBenchmarkConfig(name="mip", path=path, max_new_tokens=8)
    assert [(p.id, p.answer, p.unanswerable) for p in read(config, store)] == [("2", "7", False)]


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no data folder beside the checkout")
@pytest.mark.parametrize(("name", "file", "num"), [("gsm8k", "gsm8k_test", 1319), ("math500", "math500", 500),
                                                   ("aime24", "aime24", 30)])  # fmt: skip
def test_local_copies_of_the_published_sets_are_read_whole(
    store: ArtifactStore, name: str, file: str, num: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = composed(name, f"benchmark.path={SHARED / file}.jsonl")
    problems = read(config, store)
    assert len({p.id for p in problems}) == num
    assert "not comparable" not in caplog.text
    for problem in problems:
        extracted = extract_answer(f"Therefore, the answer is $\\boxed{{{problem.answer}}}$.", config.extractor)
        assert is_equal(problem.answer, extracted), problem


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no data folder beside the checkout")
def test_questions_with_a_missing_premise_are_read_as_unanswerable(store: ArtifactStore) -> None:
    path = str(SHARED / "mip_missing_premise_r1.jsonl")
    problems = read(JsonlBenchmarkConfig(name="mip", path=path, max_new_tokens=8, unanswerable=True), store)
    assert len(problems) == 102
    assert all(p.unanswerable for p in problems)


def test_order_is_the_same_on_every_machine() -> None:
    assert [shuffled(4, 42, f"q{i}") for i in range(4)] == [[2, 1, 0, 3], [2, 0, 1, 3], [1, 2, 0, 3], [2, 1, 0, 3]]


@given(st.integers(2, 10), st.integers(), st.text(max_size=20))
def test_order_is_a_permutation(num: int, seed: int, question: str) -> None:
    assert sorted(shuffled(num, seed, question)) == list(range(num))


def test_another_seed_gives_another_order() -> None:
    orders = [[tuple(shuffled(4, seed, f"q{i}")) for i in range(20)] for seed in range(5)]
    assert len({tuple(o) for o in orders}) == 5


def test_every_order_is_about_equally_likely() -> None:
    counts = Counter(tuple(shuffled(4, 7, f"question {i}")) for i in range(4800))
    assert len(counts) == 24
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


def test_more_options_than_letters_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 9"):
        lettered(["x"] * 11, "({letter}) {option}")


def test_options_are_lines_of_the_given_form() -> None:
    assert lettered(["5 eV", "{letter}"], "{letter}) {option}") == "A) 5 eV\nB) {letter}"


MATH_TEMPLATE = """
Solve the following math problem efficiently and clearly.{blanks}The last line of your response should be of the \
following format: 'Therefore, the final answer is: $\\boxed{{ANSWER}}$. I hope it is correct' (without quotes) where \
ANSWER is just the final number or expression that solves the problem. Think step by step before answering.

{Question}
""".strip()
"""`MATH_QUERY_TEMPLATE` of CTS/test_src/lighteval-llm/src/eval/eval_math500.py and, with two blanks, eval_aime.py."""
GPQA_TEMPLATE = """
Answer the following multiple choice question. The last line of your response should be of the following format: \
'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.

{Question}

A) {A}
B) {B}
C) {C}
D) {D}
""".strip()
"""`GPQA_QUERY_TEMPLATE` of eval_gpqa.py in the same folder."""


@pytest.mark.parametrize(("name", "blanks"), [("math500", " "), ("aime24", "  "), ("aime25", "  "), ("gsm8k", " ")])
def test_mathematics_is_asked_as_in_the_release_of_cts(
    name: str, blanks: str, tmp_path: Path, store: ArtifactStore
) -> None:
    question = "What is {x} for\n$x = 1 + 1$?"
    path = jsonl(tmp_path, {"id": "a", "problem": question, "answer": "2"})
    (problem,) = read(composed(name, f"benchmark.path={path}", "benchmark.protocol=cts"), store)
    assert problem.question == MATH_TEMPLATE.format(blanks=blanks, Question=question)


def test_options_are_asked_as_in_the_release_of_cts(tmp_path: Path, store: ArtifactStore) -> None:
    path = jsonl(tmp_path, QUESTIONS[0])
    config = composed("gpqa_diamond", f"benchmark.path={path}")
    assert config.protocol == "cts"
    (problem,) = read(config, store)
    order = [problem.question.index(option) for option in ("right 0", "wrong 1, 0", "wrong 2, 0", "wrong 3, 0")]
    options = [
        option for _, option in sorted(zip(order, ("right 0", *(f"wrong {k}, 0" for k in (1, 2, 3))), strict=True))
    ]
    expected = GPQA_TEMPLATE.format(Question=QUESTIONS[0]["Question"], **dict(zip("ABCD", options, strict=True)))
    assert problem.question == expected
    (greedy,) = read(composed("gpqa_diamond", f"benchmark.path={path}", "benchmark.protocol=tokenskip"), store)
    assert greedy.question.startswith(f"{QUESTIONS[0]['Question']}\n\n(A) ")
    assert greedy.question.endswith("\n\nAnswer with the letter of the right option, in \\boxed{}.")


@pytest.mark.parametrize(
    ("output", "extractor", "answer"),
    [
        ("A is too large, C too small.\n\nAnswer: B", Extractor.letter, "B"),
        ("The mass is 3, so it is D.\n\n**Answer: C**", Extractor.letter, "C"),
        ("It is D, not A.\n\nAnswer: $D", Extractor.letter, "D"),
        ("1 + 1 = 2.\n\nTherefore, the final answer is: $\\boxed{2}$. I hope it is correct", Extractor.math, "2"),
        (
            "So p = 1/2.\n\nTherefore, the final answer is: $\\boxed{\\frac{1}{2}}$. I hope it is correct.",
            Extractor.math,
            "\\frac{1}{2}",
        ),
        (
            "Hence 7 of 9.\n\nTherefore, the final answer is: $\\boxed{049}$. I hope it is correct",
            Extractor.integer,
            "49",
        ),
        ("Therefore, the final answer is: 12. I hope it is correct", Extractor.number, "12"),
    ],
)
def test_answers_in_the_form_that_cts_asks_for_are_read(output: str, extractor: Extractor, answer: str) -> None:
    assert extract_answer(output, extractor) == answer
