"""Self-written data: the model answers training questions, and its right answers become traces.

There are two artifacts before the data itself. `write` holds the answers, so other filters generate nothing. `solve`
holds the traces made of the right ones. The data artifact is identified by the content of the traces, not by the code
that selected them: after a change of the answer checker the same answers are judged again in seconds, and students are
trained again only if the traces differ.
"""

import dataclasses
from collections import Counter
from pathlib import Path

from cotpress.answers import checker_fingerprint
from cotpress.data.config import SelfWrittenDataConfig
from cotpress.data.selection import SELECTION_VERSION, Draft, distinct, select
from cotpress.devices.config import TrainerConfig
from cotpress.generation.asking import Request, ask, journal
from cotpress.generation.backends import CTS_TEMPERATURE, CTS_TOP_P, generation_identity, open_backend, sampling_of
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.prompts import ChatFormat
from cotpress.records import Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, fingerprint
from cotpress.store.tables import read_records, write_records

DRAFTS = "drafts.parquet"
SOLVED = "solved.parquet"


def solve(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    *,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """Traces of the questions that the model solved (`solved.parquet`: `Trace` records in the order of the questions).

    Args:
        config: Settings of the prompts and of the selection.
        questions: Artifact with `problems.parquet`.
        model: Model that answers.
        trainer: Hardware.
        store: Destination of the artifacts.

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
        selected = select(
            config,
            read_records(questions.file("problems.parquet"), Problem),
            read_records(drafts.file(DRAFTS), Draft),
            ChatFormat(load_tokenizer(model, store), model.chat),
        )
        write_records(folder / SOLVED, selected.traces, Trace)
        dropped = Counter(questions.manifest["dropped"]) + selected.dropped
        return Summary(num_rows=len(selected.traces), dropped=dropped, facts=selected.facts)

    return store.build("solve", identity, produce)


def write(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    *,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """The model's answers (`drafts.parquet`: `Draft` records in the order of the questions, then of the samples).

    The prompt is that of a student without a ratio marker. Of equal questions only the first is answered. A server has
    to serve the same model, because it gets the prompts as token ids. An interrupted call continues where it stopped,
    and a sampled answer depends on its question and index alone. Arguments and errors as for `solve`.
    """
    tokenizer, generation = load_tokenizer(model, store), config.generation
    if config.samples > 1:
        generation = dataclasses.replace(
            generation,
            temperature=CTS_TEMPERATURE if generation.temperature is None else generation.temperature,
            top_p=CTS_TOP_P if generation.top_p is None else generation.top_p,
        )
    identity = {
        "questions": questions.key,
        "prompt": {
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "template": fingerprint({"template": tokenizer.chat_template}),
            "system": model.chat.system,
        },
        "max_new_tokens": config.max_new_tokens,
        "samples": config.samples,
        **generation_identity(generation, model, trainer, store, adapter=config.adapter),
    }

    def produce(folder: Path) -> Summary:
        problems = distinct(read_records(questions.file("problems.parquet"), Problem))
        chat, done, requests = ChatFormat(tokenizer, model.chat), journal(folder), dict[str, Request]()
        for problem in problems:
            prompt = chat.prompt_ids(problem.question)
            for key in (f"{problem.id}/{k}" for k in range(config.samples)):
                requests[key] = Request(prompt=prompt, max_new_tokens=config.max_new_tokens, stream=key)
        ask(
            [(requests, done)],
            lambda: open_backend(generation, model, trainer, store, adapter=config.adapter),
            label="write",
            unit="answers",
            sampling=sampling_of(generation),
        )
        drafts = [
            Draft(id=p.id, sample=k, text=g.text, num_tokens=g.num_tokens, finish_reason=g.finish_reason)
            for p in problems
            for k in range(config.samples)
            for g in [done[f"{p.id}/{k}"]]
        ]
        write_records(folder / DRAFTS, drafts, Draft)
        return Summary(num_rows=len(drafts), facts={"questions": len(problems)})

    return store.build("write", identity, produce)
