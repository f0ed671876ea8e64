"""The task of `compress.py`: data to compressed training data."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.compression.config import ROWS_FORMATS, Mode
from cotpress.compression.export import (
    CARD,
    Account,
    Portion,
    check_folder,
    check_repository,
    export,
    is_own_card,
    warn_of_template,
    write_card,
    write_manifest,
)
from cotpress.compression.stage import LOSS_SHARE, NUM_SHORTENED, NUM_UNSTATED
from cotpress.config import CompressConfig
from cotpress.data.provenance import Provenance, provenance
from cotpress.data.stage import is_text
from cotpress.devices.config import Shard
from cotpress.modeling.upload import Repository
from cotpress.prompts import ChatFormat
from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.store.artifacts import MANIFEST, Artifact, plain
from cotpress.store.redaction import masked, print_lines
from cotpress.store.sweeps import read_note
from cotpress.store.tables import iter_records
from cotpress.tasks.data_card import data_card
from cotpress.tasks.flow import Export
from cotpress.tasks.run_directory import export_path, export_settings, tracked_job
from cotpress.tracking import open_tracker


def compress(config: CompressConfig, folder: Path) -> tuple[None, Path]:
    """Compress every usable row of the data and export it; no student is trained.

    An export for the hub is made in a folder and then uploaded. With `shard=K/N`, score and compress that share of the
    traces, and export only if all other shares are compressed.

    Raises:
        ConfigError: The folder or data set `output` holds another export.
        HubError: The hub refuses the upload or cannot be reached; the folder is complete.
    """
    output, settings = export_path(config), export_settings(config)
    job = tracked_job(config, folder, folder, config.selector)
    with open_tracker(config.tracker, job) as tracker:
        flow = Export(config, tracker)
        if config.shard is not None and not flow.shard(Shard.parse(config.shard)):
            print_lines(f"shard {config.shard} is compressed; the command that compresses the last shard exports")
            return None, output
        compressed = flow.compressed()
    account = Account()
    rows = account.counting(iter_records(compressed.file(COMPRESSED_FILE), CompressedTrace))
    with flow.store.exclusive("export", str(output.resolve())):  # two machines may both have made the last shard
        check_folder(output, config.export, settings)
        (output / MANIFEST).unlink(missing_ok=True)  # an interrupted export is none
        masks = config.compression.mode is Mode.mask_loss
        masking = ChatFormat(flow.tokenizer, config.model.chat) if masks else None
        path = export(rows, config.export, output, config.model.chat, masking)
        source = provenance(plain(config.data))
        about = _about(config, flow, compressed, account, source)
        note = read_note(folder)
        write_card(output, masked(data_card(config, about, path, source, note.overrides if note else ())))
        write_manifest(path, settings, about)
    if config.export not in ROWS_FORMATS and not masks and account.longest is not None:
        warn_of_template(account.longest, config.model.chat, flow.tokenizer)
    print_lines(*_shown(about, path))
    if config.repository is not None:
        print_lines(*_uploaded(config.repository, output, settings, private=config.private))
    return None, output


def _uploaded(repository: Repository, folder: Path, settings: Mapping[str, Any], *, private: bool) -> list[str]:
    """Upload an export; lines for the terminal. A card that was edited on the hub stays there."""
    check_repository(repository, settings)
    edited = CARD in (files := repository.files()) and MANIFEST in files and not is_own_card(repository.read(CARD))
    own = {CARD, MANIFEST, *json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]}
    others = [path.name for path in folder.iterdir() if path.name not in own]
    address = repository.upload(
        folder, private=private, message="Compressed chains of thought from cotpress",
        leave_out=[*others, *([CARD] if edited else [])],
    )  # fmt: skip
    lines = [f"uploaded: {address}"]
    return [*lines, f"{CARD} was edited on the hub and stays; the new one is '{folder / CARD}'"] if edited else lines


def _about(
    config: CompressConfig, flow: Export, compressed: Artifact, account: Account, source: Provenance
) -> dict[str, Any]:
    """Description of an export: each row of the data is exported or counted as dropped with its reason."""
    dropped = Counter(flow.traces.manifest["dropped"]) + Counter(compressed.manifest["dropped"])
    scores = None if compressed.manifest["identity"]["scores"] is None else flow.selected_by
    return {
        "export": config.export,
        "mode": config.compression.mode,
        "scorer": config.scorer.name if config.uses_scorer else None,
        "ratio": None if config.compression.mixed_ratios or config.compression.has_own_length else config.ratio,
        "ratios": account.portions,
        "num_input_rows": account.num_rows + dropped.total(),
        "num_rows": account.num_rows,
        "dropped": dropped,
        # The texts of a column are no answers to anything.
        "num_empty_responses": 0 if is_text(config.data) else account.num_empty_responses,
        "source": source,
        "data": {"artifact": flow.traces.key, "facts": flow.traces.facts},
        "scores": None if scores is None else {"artifact": scores.key, "facts": scores.facts},
        "compressed": {"artifact": compressed.key, "facts": compressed.facts},
        "identity": compressed.manifest["identity"],
    }


def _shown(about: Mapping[str, Any], path: Path) -> list[str]:
    """Lines about a finished export for the terminal."""
    parts: Sequence[Portion] = about["ratios"]
    kept, total = sum(part.num_kept_tokens for part in parts), sum(part.num_tokens for part in parts)
    facts = about["compressed"]["facts"]
    own = about["mode"] is Mode.first_solution
    asked = f"asked ratio {about['ratio']:g}" if about["ratio"] is not None else "own length" if own else "mixed ratios"
    lines = [
        f"{about['num_rows']} of {about['num_input_rows']} rows, {asked}, actual {kept / total:.3f} "
        f"({kept} of {total} tokens): {path}"
    ]
    if (share := facts.get(LOSS_SHARE)) is not None:
        lines.append(f"  the thinking is whole; mean weight of the loss over its tokens: {share:.3f}")
    if (num := facts.get(NUM_UNSTATED)) is not None:
        lines.append(f"  {num} of {about['num_rows']} rows never state the right answer and stay whole")
    if (num := facts.get(NUM_SHORTENED)) is not None:
        lines.append(f"  {num} of {about['num_rows']} rows are shortened to their first right solution")
    if about["ratio"] is None and not own:
        lines += [f"  ratio {part.asked:g}: {part.num_rows} rows, actual {part.actual:.3f}" for part in parts]
    if about["dropped"]:
        reasons = ", ".join(f"{num} {reason}" for reason, num in about["dropped"].most_common())
        lines.append(f"left out: {reasons}")
    if num := about["num_empty_responses"]:
        lines.append(f"empty responses: {num} of {about['num_rows']} rows end after the thinking")
    return lines
