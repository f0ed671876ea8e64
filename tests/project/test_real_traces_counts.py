"""Counts of experiments/real_traces over training sequences and tokens, and the pages that quote them."""

import csv
import json
from pathlib import Path

import pytest

from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.records import Trace, Unit
from cotpress.store.artifacts import ArtifactStore
from experiments.real_traces import ablation, overlong, retokenized
from support.commands import ROOT

FOLDER = ROOT / "experiments/real_traces"


def _lines(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_modes_are_counted_for_traces_that_all_one_or_no_student_can_hold(tmp_path: Path) -> None:
    lengths = {"all": 20, "compressed": 120, "none": 400}
    rows = [
        {"id": name, "question": "How many?", "thinking": " book" * n, "response": "Two.", "answer": "2"}
        for name, n in lengths.items()
    ]
    traces = tmp_path / "traces.jsonl"
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = overlong.configured(
        traces, tmp_path / "outputs", ["model=tiny", "ratio=0.5", "sft.tune.max_tokens=110", "trainer=cpu"]
    )
    made = {
        (line["overlong"], line["system"]): [line[name] for name in ("trained", "left_out", "cut", "shared")]
        for line in (dict(zip(overlong.COLUMNS, row, strict=True)) for row in overlong.counts(config))
    }
    assert made == {
        ("common", "Original"): [1, 2, 0, 1], ("common", "random"): [1, 2, 0, 1],
        ("drop", "Original"): [1, 2, 0, 1], ("drop", "random"): [2, 1, 0, 1],
        ("cut", "Original"): [3, 0, 2, 3], ("cut", "random"): [3, 0, 1, 3],
    }  # fmt: skip


def test_tokens_are_counted_anew_where_a_deletion_joins_what_was_apart(tmp_path: Path) -> None:
    tiny = ModelConfig(name="tiny", source=ModelSource.tiny)
    text = "we get that gives quixotic zebras how many apples " * 20
    rows = [Trace(id=name, question="", thinking=text, response="", answer="") for name in "ab"]
    made = [
        dict(zip(retokenized.COLUMNS, row, strict=True))
        for row in retokenized.counts(rows, tiny, ArtifactStore(tmp_path))
    ]
    assert [(m["unit"], m["ratio"]) for m in made] == [(u.value, r) for u in Unit for r in retokenized.RATIOS]
    for line in made:
        low, relative, high, changed = (float(str(line[n])) for n in ("lowest", "relative", "highest", "changed"))
        assert low <= relative <= high
        assert (changed > 0) is (line["unit"] == "token")


@pytest.mark.parametrize("mode", ["common", "drop", "cut"])
def test_quoted_numbers_of_training_traces_equal_the_csv(mode: str) -> None:
    original, other = [line for line in _lines("overlong.csv") if line["overlong"] == mode]
    assert (original["system"], other["ratio"], original["traces"]) == ("Original", "0.7", "200")
    cells = [
        trained if not int(num_cut) else f"{trained}, {num_cut} of them cut"
        for trained, num_cut in ((line["trained"], line["cut"]) for line in (original, other))
    ]
    if mode == "common":
        assert original["trained"] == other["trained"] == other["shared"]
        cells[1] += ", the same ones"
    assert f"\n| `{mode}` | {cells[0]} | {cells[1]} |\n" in (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", _lines("retokenized.csv"), ids=lambda line: f"{line['unit']}-{line['ratio']}")
def test_quoted_changes_of_tokens_equal_the_csv(line: dict[str, str]) -> None:
    cells = (line["unit"], line["ratio"], f"{100 * float(line['changed']):.1f}", line["relative"], line["lowest"])
    row = f"\n| {' | '.join(cells)} to {line['highest']} |\n"
    assert row in (ROOT / "docs/releases.md").read_text(encoding="utf-8")


def test_steps_are_left_out_of_the_trace_of_the_asked_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ModelConfig(name="tiny", source=ModelSource.tiny, dtype=Dtype.float32)
    tokenizer = load_tokenizer(tiny, ArtifactStore(tmp_path))
    texts = {n: "".join(f"\n{i + 1} apples plus 3" for i in range(n)) for n in (3, 9, 30)}
    rows = [Trace(id=str(n), question="How many?", thinking=texts[n], response="So 5.", answer="5") for n in texts]
    monkeypatch.setattr(ablation, "TOKENS", len(tokenizer(texts[9])["input_ids"]) + 2)
    exact, hidden = (
        dict(zip(ablation.COLUMNS, row, strict=True))
        for row in ablation.measured(rows, tiny, ArtifactStore(tmp_path), every=2)
    )
    assert (exact["ablation"], hidden["ablation"], exact["rank_correlation"]) == ("text", "attention", "1.000")
    same = ("thinking_tokens", "response_tokens", "steps", "measured_steps", "anew_tokens")
    n, m, steps, measured, anew = (int(str(exact[name])) for name in same)
    assert [hidden[name] for name in same] == [n, m, steps, measured, anew]
    assert (steps, measured, n % steps) == (9, 4, 0)
    size, whole = n // steps, (anew + n) // steps  # tokens of a step and of all that the model reads
    rest = m + len(tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"])
    ends = [whole - rest - n + size * (i + 1) for i in range(steps)]
    assert exact["all_read_tokens"] == ends[-2] + sum(whole - end for end in ends)
    assert exact["read_tokens"] == ends[6] + sum(whole - ends[i] for i in (1, 3, 5, 7))
    assert hidden["all_read_tokens"] == ends[-1] + steps * rest
    assert hidden["read_tokens"] == ends[-1] + measured * rest
