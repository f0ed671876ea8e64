"""The solved questions as an artifact, which the data stage reads like a file.

The data artifact is identified by the traces in it and not by the code that chose them: a change of the answer checker
judges the same answers again in seconds, and only if it decides otherwise is anything trained again.
"""

from collections import Counter
from pathlib import Path

from cotpress.answers import checker_fingerprint
from cotpress.data.self_written.config import SelfWrittenDataConfig
from cotpress.data.self_written.selection import SELECTION_VERSION, select
from cotpress.data.self_written.writing import DRAFTS, Draft, write
from cotpress.devices.config import TrainerConfig
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.records import Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records

SOLVED = "solved.parquet"


def solve(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    *,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """What the model wrote and solved (`solved.parquet`: `Trace` records in the questions' order).

    Args:
        config: How it is asked, and what may be kept.
        questions: Artifact with `problems.parquet`.
        model: Who is asked.
        trainer: Hardware.
        store: Where the result goes.

    Raises:
        ConfigError: A value is out of range.
        DataError: Nothing was solved.
        GenerationError: The server fails.
        ModelError: The model or its adapter cannot be loaded.
    """
    drafts = write(config, questions, model=model, trainer=trainer, store=store)
    identity = {
        "written": drafts.key,
        "version": SELECTION_VERSION,
        "checker": checker_fingerprint(),
        "thinking_tags": [model.chat.thinking_open, model.chat.thinking_close],
        "format": config.format,
        "pick": config.pick,
        "max_thinking_tokens": config.max_thinking_tokens,
    }

    def produce(folder: Path) -> Summary:
        asked = read_records(questions.file("problems.parquet"), Problem)
        written = read_records(drafts.file(DRAFTS), Draft)
        found = select(config, asked, written, ChatFormat(load_tokenizer(model, store), model.chat))
        write_records(folder / SOLVED, found.traces, Trace)
        dropped = Counter(questions.manifest["dropped"]) + found.dropped
        return Summary(num_rows=len(found.traces), dropped=dropped, facts=found.facts)

    return store.build("solve", identity, produce)
