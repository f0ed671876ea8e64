"""The task of `compress.py`: data to compressed training data."""

import shutil
import sys
from pathlib import Path

from cotpress.compression.config import ExportFormat
from cotpress.compression.export import export, warn_of_template
from cotpress.config import CompressConfig
from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.scoring.config import Shard
from cotpress.store.tables import read_records
from cotpress.tasks.flow import Compression
from cotpress.tasks.run_directory import tracked_job
from cotpress.tracking import open_tracker


def compress(config: CompressConfig, folder: Path) -> tuple[None, Path]:
    """Compress training data and export it below `output`; no student is trained.

    With `shard=K/N`, score that share of the traces and compress only if all other shares are scored.
    """
    output = Path(config.output)
    job = tracked_job(config, folder, folder, config.scorer.name, config.data.name)
    with open_tracker(config.tracker, job) as tracker:
        flow = Compression(config, tracker)
        if config.shard is not None and not flow.shard(Shard.parse(config.shard)):
            sys.stdout.write(f"shard {config.shard} is scored; the command that scores the last shard compresses\n")
            return None, output
        compressed = flow.compressed()
    rows = read_records(compressed.file(COMPRESSED_FILE), CompressedTrace)
    if config.export is not ExportFormat.parquet:
        warn_of_template(rows[0], config.model.chat, flow.tokenizer)
    path = export(rows, config.export, output, config.model.chat)
    shutil.copyfile(compressed.path / "manifest.json", output / "manifest.json")
    facts = compressed.facts
    sys.stdout.write(
        f"{len(rows)} traces, asked ratio {config.ratio:g}, actual {facts['actual_ratio']:.3f} "
        f"({facts['num_kept_tokens']} of {facts['num_tokens']} tokens): {path}\n"
    )
    return None, output
