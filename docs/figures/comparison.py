"""Write the tables of published numbers into docs/comparison.md.

python docs/figures/comparison.py

The rows of TokenSkip and CTS come from `published.csv`, which reports compare with; those of other methods from
`docs/comparison.csv`, which names where each number was read.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/comparison.md"
PUBLISHED = ROOT / "src/cotpress/report/published.csv"
OTHERS = ROOT / "docs/comparison.csv"
ANCHORS = [
    ("tokenskip", "Qwen2.5-14B-Instruct", "gsm8k", "0.6"),
    ("tokenskip", "Qwen2.5-7B-Instruct", "gsm8k", "0.6"),
    ("tokenskip", "Llama-3.1-8B-Instruct", "gsm8k", "0.6"),
    ("cts", "Qwen2.5-7B-Instruct", "math500", "0.9"),
    ("cts", "Qwen2.5-7B-Instruct", "math500", "0.7"),
    ("cts", "Qwen2.5-7B-Instruct", "math500", "0.5"),
    ("cts", "Llama-3.1-8B-Instruct", "math500", "0.7"),
    ("tokenskip", "Qwen2.5-7B-Instruct", "math500", "0.7"),
    ("llmlingua", "Qwen2.5-7B-Instruct", "math500", "0.7"),
]
"""System, model, benchmark and asked ratio of the rows that the page shows of `published.csv`."""
NAMES = {"tokenskip": "TokenSkip", "cts": "CTS", "llmlingua": "LLMLingua"}
BENCHMARKS = {"gsm8k": "GSM8K", "math500": "MATH500"}


def tables() -> dict[str, str]:
    """Return the Markdown tables by the names of their markers."""
    own = ["method", "ratio", "model", "benchmark", "before", "after", "tokens saved, %", "source"]
    others = ["method", "training", "model", "benchmark", "before", "after", "tokens saved, %", "source"]
    return {
        "methods here": _table(own, list(_anchors())),
        "other methods": _table(others, [_other(row) for row in _rows(OTHERS)]),
    }


def written(text: str) -> str:
    """Return the page with its tables replaced."""
    for name, table in tables().items():
        head, start, rest = text.partition(f"<!-- table: {name} -->\n")
        text = f"{head}{start}\n{table}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _anchors() -> Iterator[list[str]]:
    printed = [row for row in _rows(PUBLISHED) if "rerun" not in row["source"]]
    for system, model, benchmark, ratio in ANCHORS:
        here = [row for row in printed if (row["model"], row["benchmark"]) == (model, benchmark)]
        (after,) = [row for row in here if (row["system"], row["ratio"]) == (system, ratio)]
        (before,) = [row for row in here if row["system"] == "Original" and row["protocol"] == after["protocol"]]
        saved = _saved(before["tokens"], after["tokens"])
        pair = [_cell(row["accuracy"], row["tokens"]) for row in (before, after)]
        yield [NAMES[system], ratio, model, BENCHMARKS[benchmark], *pair, saved, after["source"]]


def _other(row: Mapping[str, str]) -> list[str]:
    before = _cell(row["accuracy_before"], row["tokens_before"])
    after = _cell(row["accuracy_after"], row["tokens_after"]) or row["accuracy_as_stated"]
    saved = row["saved_percent"] or _saved(row["tokens_before"], row["tokens_after"])
    method = f"{row['method']} ({row['arxiv']})"
    return [method, row["training"], row["model"], row["benchmark"], before, after, saved, _linked(row)]


def _linked(row: Mapping[str, str]) -> str:
    return f"[{row['source']}]({row['link']})"


def _cell(accuracy: str, tokens: str) -> str:
    return f"{accuracy}@{round(float(tokens)):,}" if tokens else accuracy


def _saved(before: str, after: str) -> str:
    return f"{100 * (1 - float(after) / float(before)):.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if name in ("ratio", "before", "tokens saved, %") else "---" for name in head]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
