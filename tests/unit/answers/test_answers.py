import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cotpress import answers
from cotpress.answers import extract_answer, is_equal

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CASES = [json.loads(line) for line in (Path(__file__).parent / "answers_cases.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['text'][-30:]}~{case['gold']}")
def test_case_is_extracted_and_judged_as_written(case: dict[str, str]) -> None:
    assert extract_answer(case["text"]) == case["answer"]
    assert is_equal(case["gold"], case["answer"]) is case["equal"]


@given(st.integers(-(10**12), 10**12))
def test_integer_survives_every_way_of_stating_it(number: int) -> None:
    for text in (f"\\boxed{{{number:,}}}", f"The final answer is: {number}", f"#### {number:,}", f"it is {number}."):
        assert is_equal(str(number), extract_answer(text))
        assert not is_equal(str(number + 1), extract_answer(text))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
@example("\\boxed{" * 30)
@example("1e999 \ud800 \x00")
@example("1/0")
def test_any_text_is_extracted_and_numbers_compared_without_raising(text: str) -> None:
    found = extract_answer(text)
    assert isinstance(is_equal("18", found), bool)


@given(st.text(alphabet="ab{}\\ 1", max_size=20))
def test_box_content_with_balanced_braces_comes_back_whole(text: str) -> None:
    content = f"x{{{text.replace(chr(92), '').replace('{', '').replace('}', '').strip()}}}"
    assert extract_answer(f"so \\boxed{{{content}}} it is") == content


def test_hostile_expression_does_not_hang_and_the_next_comparison_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answers, "TIMEOUT_S", 0.7)
    answers._symbolically_equal("x", "y")  # the start of the process is not what is measured
    started = time.monotonic()
    assert not is_equal("2", "10^{10^{10^{10}}}")
    assert time.monotonic() - started < 3
    assert "could not be compared" in caplog.text
    monkeypatch.undo()
    assert is_equal("2\\sqrt{3}", "\\sqrt{12} ")


def test_symbolic_comparison_works_in_threads() -> None:
    verdicts: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: verdicts.append(is_equal(f"x+{i}", f"{i} + x"))) for i in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_process_compares_for_itself_and_leaves_its_parent_able_to() -> None:
    assert is_equal("a+b", "b+a")
    child = os.fork()
    if child == 0:
        os._exit(0 if is_equal("c+d", "d+c") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert is_equal("e+f", "f+e")


def test_plain_numbers_are_compared_by_the_thousand_per_second() -> None:
    started = time.monotonic()
    for number in range(3000):
        assert is_equal(f"{number}", f"${number}.00")
    assert time.monotonic() - started < 3


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no data folder beside the checkout")
def test_verdicts_agree_with_the_labels_of_four_published_systems() -> None:
    rows = [
        json.loads(line) for line in (SHARED / "gsm8k_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    ][::4]
    systems = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    pairs = [(row["answer"], row[system]) for row in rows for system in systems]
    agree = [is_equal(gold, extract_answer(s["solution"])) is s["is_correct"] for gold, s in pairs]
    assert sum(agree) / len(agree) >= 0.995


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no data folder beside the checkout")
def test_verdicts_agree_with_the_published_tokenskip_replication() -> None:
    rows = [
        json.loads(line)
        for line in (SHARED / "tokenskip_replication_gsm8k.jsonl").read_text(encoding="utf-8").splitlines()
    ][::4]
    agree = [is_equal(row["answer"], extract_answer(row["model_output"])) is row["accuracy"] for row in rows]
    assert sum(agree) / len(agree) >= 0.995
