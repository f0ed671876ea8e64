r"""Questions that training traces and the benchmark share.

Every question of a trace is compared with those of all problems, strictest first:

- exact: the same text;
- normalized: the same words, numbers and operators, whatever their case, white space, punctuation, `$` signs and
  typographic variants (Unicode NFKC);
- wrapped: a problem that is too short for ngram is the same, normalized, as whole sentences or lines of the question,
  which has others around it, such as "Put your answer in a box.";
- ngram: 13 words in a row are the same, as in GPT-3 (arXiv 2005.14165, appendix C). A run of words in several problems
  is a phrase ("where m and n are relatively prime positive integers ...") and counts for none of them; GPT-3 leaves out
  runs that occur more than ten times in its training data;
- numbers: a built-in trace with the start, operators and operands of a built-in problem. Built-in questions are made
  from templates, which have runs of 13 words in common for other numbers, so `ngram` is not tried between two of them.
  The generator makes no such pair (`planted.half_of`); it is looked for all the same.
"""

import dataclasses
import itertools
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.data.losses import empty_fields
from cotpress.data.planted import FAMILIES, calculation
from cotpress.errors import DataError
from cotpress.records import PROBLEMS_FILE, TRACES_FILE, Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import identified
from cotpress.store.tables import RecordWriter, iter_records, read_records, write_records

log = logging.getLogger(__name__)

NGRAM_WORDS = 13
PHRASE_PROBLEMS = 3
"""Number of problems from which on a run of words is a phrase."""
MIN_WRAPPED_TOKENS = 3
"""Words, numbers and operators of the shortest problem that is looked for among the sentences of a question."""
EXACT, NORMALIZED, WRAPPED, NGRAM, NUMBERS = "exact", "normalized", "wrapped", "ngram", "numbers"
KINDS = (EXACT, NORMALIZED, WRAPPED, NGRAM, NUMBERS)
"""Kinds of matches, the strictest first."""
MATCHES_FILE = "matches.parquet"

_TOKEN = re.compile(
    r"\d+(?:[.,]\d+)*"  # number
    r"|[^\W\d_\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]+"  # letters; Chinese, Japanese and Korean ones stand alone
    r"|[^\W\d_]"
    r"|[^\w\s.,;:!?'\"`$\\{}_\u2018-\u201d\u3001\u3002]"  # operators and brackets
)
_SENTENCE_END = re.compile(r"[.!?:][)\"'*]*(?=\s)|[\u3002\uff01\uff1f\uff1a\n]")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|[,;!:()\[\]\s])|~|\\(?=[dt]?frac)")
_VARIANTS = str.maketrans({"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A trace and a problem with the same question, by the strictest kind that holds for the trace."""

    trace: str
    problem: str
    kind: str


def tokens(question: str) -> list[str]:
    """Words, numbers and operators of a question, normalized."""
    text = unicodedata.normalize("NFKC", question).casefold().translate(_VARIANTS)
    parts: list[str] = _TOKEN.findall(_THOUSANDS.sub("", _LAYOUT.sub(" ", text)))
    return ["frac" if part in ("dfrac", "tfrac") else part for part in parts]


def _words(parts: Sequence[str]) -> list[str]:
    return [part for part in parts if part[0].isalnum()]


def _ngrams(words: Sequence[str]) -> Iterator[str]:
    return (" ".join(words[i : i + NGRAM_WORDS]) for i in range(len(words) - NGRAM_WORDS + 1))


def _short_runs(question: str) -> Iterator[str]:
    """Whole sentences in a row of a question, normalized, that have too few words for an n-gram; not all of them."""
    bounds = [0, *(end.end() for end in _SENTENCE_END.finditer(question)), len(question)]
    sentences = [tokens(question[start:end]) for start, end in itertools.pairwise(bounds)]
    num_tokens = sum(map(len, sentences))
    for first in range(len(sentences)):
        run: list[str] = []
        for sentence in sentences[first:]:
            run += sentence
            if len(run) == num_tokens or len(_words(run)) >= NGRAM_WORDS:
                break
            if len(run) >= MIN_WRAPPED_TOKENS:
                yield " ".join(run)


def matches(traces: Iterable[Trace], problems: Sequence[Problem]) -> list[Match]:
    """The pairs of a trace and a problem with the same question, in the order of the traces, which are read once."""
    index: dict[str, dict[Any, list[str]]] = {kind: defaultdict(list) for kind in KINDS}
    first_words: set[str] = set()
    for problem in problems:
        parts = tokens(problem.question)
        words = _words(parts)
        index[EXACT][problem.question.strip()].append(problem.id)
        index[NORMALIZED][" ".join(parts)].append(problem.id)
        if len(parts) >= MIN_WRAPPED_TOKENS and len(words) < NGRAM_WORDS:
            index[WRAPPED][" ".join(parts)].append(problem.id)
        for run in set(_ngrams(words)):
            index[NGRAM][run].append(problem.id)
        first_words.update(words[: max(len(words) - NGRAM_WORDS + 1, 0)])
        if problem.family in FAMILIES:
            index[NUMBERS][calculation(problem.family, problem.question)].append(problem.id)
    built_in = all(problem.family in FAMILIES for problem in problems)

    def matched(trace: Trace) -> tuple[str, Iterable[str]]:
        if ids := index[EXACT].get(trace.question.strip()):
            return EXACT, ids
        parts = tokens(trace.question)
        if ids := index[NORMALIZED].get(" ".join(parts)):
            return NORMALIZED, ids if parts else ()
        if built_in and trace.family in FAMILIES:
            return NUMBERS, index[NUMBERS].get(calculation(trace.family, trace.question), ())
        short = _short_runs(trace.question) if index[WRAPPED] else ()
        if wrapped := dict.fromkeys(id_ for run in short for id_ in index[WRAPPED].get(run, ())):
            return WRAPPED, wrapped
        words = _words(parts)
        starts = [i for i in range(len(words) - NGRAM_WORDS + 1) if words[i] in first_words]
        runs = [index[NGRAM].get(" ".join(words[i : i + NGRAM_WORDS]), ()) for i in starts]
        return NGRAM, dict.fromkeys(id_ for ids in runs if len(ids) < PHRASE_PROBLEMS for id_ in ids)

    found = ((trace.id, *matched(trace)) for trace in traces if trace.question.strip())
    return [Match(trace=trace, problem=problem, kind=kind) for trace, kind, ids in found for problem in ids]


def decontaminated(
    traces: Artifact, found: Artifact, store: ArtifactStore, *, group: str, name: str, benchmark: str, remove: bool
) -> Artifact:
    """The traces without those that show a problem of the benchmark, if `remove`; all matches are one warning.

    Without a match to remove it is the same artifact, whatever the benchmark. `group` and `name` are those of the data.

    Raises:
        DataError: No trace is left for training.
    """
    matched = read_records(found.file(MATCHES_FILE), Match)
    if matched and store.first_time(f"{group}: {found.key}"):
        log.warning("%s=%s: %s", group, name, _told(matched, found.facts, benchmark, group, remove=remove))
    if not (matched and remove):
        return traces
    left_out = {match.trace: match.kind for match in matched}

    def produce(folder: Path) -> Summary:
        splits, empty = Counter[str](), Counter[str]()

        def kept() -> Iterator[Trace]:
            for trace in iter_records(traces.file(TRACES_FILE), Trace):
                if trace.id not in left_out:
                    splits[trace.split] += 1
                    empty.update(empty_fields([trace]))
                    yield trace

        with RecordWriter(folder / TRACES_FILE, Trace) as writer:
            writer.write(kept())
        if not splits["train"]:
            raise DataError(
                f"{group}={name}: every trace for training has a question of benchmark={benchmark}. Fix: other traces, "
                f"another benchmark, or {group}.decontaminate=false"
            )
        reasons = Counter(f"question of the benchmark ({kind})" for kind in left_out.values())
        facts = {k: v for k, v in traces.facts.items() if k != "empty"}
        facts |= {"train": splits["train"], "validation": splits["validation"]}
        facts |= {"empty": dict(empty)} if empty else {}
        return Summary(num_rows=splits.total(), dropped=Counter(traces.manifest["dropped"]) + reasons, facts=facts)

    return store.build("data", identified({"data": traces.key, "without": sorted(left_out)}, decontaminated), produce)


def _told(matched: Sequence[Match], facts: Mapping[str, Any], benchmark: str, group: str, *, remove: bool) -> str:
    """The matches in one line: numbers by kind, an example of each, and what becomes of them."""
    counts = {}
    for match in matched:
        if match.kind not in counts:
            num_traces, num_problems = (facts[f"matched_{name}s"].get(match.kind, 0) for name in ("trace", "problem"))
            example = f"{match.trace!a} and {match.problem!a}"
            counts[match.kind] = f"{match.kind} {num_traces} with {num_problems} problems (e.g. {example})"
    shown = ", ".join(counts[kind] for kind in KINDS if kind in counts)
    fate = f"left out; {group}.decontaminate=false keeps them" if remove else "kept"
    num_traces = len({match.trace for match in matched})
    return (
        f"{num_traces} of {facts['traces']} traces overlap with the {facts['problems']} problems of "
        f"benchmark={benchmark}: {shown}: {fate}"
    )


def _without(problem: Problem, before: str, after: str) -> Problem:
    question = problem.question.removeprefix(before).removesuffix(after)
    return dataclasses.replace(problem, question=question)


def overlap(traces: Artifact, problems: Artifact, prompt: str, store: ArtifactStore) -> Artifact:
    """Matches of traces and problems: an artifact with `matches.parquet` (`Match` records).

    The facts count traces and problems, and the matched ones of both by kind. `prompt` is the text around the questions
    of the problems, which is not compared.
    """
    before, _, after = prompt.partition("{question}")

    def produce(folder: Path) -> Summary:
        asked = [_without(problem, before, after) for problem in read_records(problems.file(PROBLEMS_FILE), Problem)]
        found = matches(iter_records(traces.file(TRACES_FILE), Trace), asked)
        write_records(folder / MATCHES_FILE, found, Match)
        facts: dict[str, Any] = {"traces": traces.manifest["num_rows"], "problems": len(asked)}
        for name in ("trace", "problem"):
            strictest = sorted(found, key=lambda match: KINDS.index(match.kind), reverse=True)
            kinds = {getattr(match, name): match.kind for match in strictest}
            facts[f"matched_{name}s"] = dict(Counter(kinds.values()))
        return Summary(num_rows=len(found), facts=facts)

    identity = identified({"traces": traces.key, "problems": problems.key, "prompt": prompt}, overlap)
    return store.build("overlap", identity, produce)
