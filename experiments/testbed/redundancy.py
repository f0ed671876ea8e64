"""Redundancy of answers to built-in problems: python -m experiments.testbed.redundancy RUN [SYSTEM].

RUN is a run directory of train.py or evaluate.py. A thinking token is essential if it belongs to the first right
statement of a step's equation; all others are redundant, as in the labels of the built-in traces.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.data.planted import Step, calculation
from cotpress.modeling.alignment import spans_to_mask, tokenize_with_offsets
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.records import PREDICTIONS_FILE, Prediction
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redundancy:
    """Counts over the answers of one system."""

    num_answers: int
    num_tokens: int
    num_essential: int

    @property
    def share(self) -> float:
        """Share of redundant tokens."""
        return 1 - self.num_essential / max(self.num_tokens, 1)


def equations(family: str, question: str) -> Iterator[str]:
    """The equations that lead to the answer of a built-in question, in order."""
    start, *rest = calculation(family, question)
    left = int(start)
    for operator, right in zip(rest[::2], rest[1::2], strict=True):
        step = Step(left, operator, int(right), "", "")
        yield step.equation
        left = step.result


def essential(prediction: Prediction, thinking: str) -> list[tuple[int, int]]:
    """Character ranges of the first statement of each equation, each after the one before it."""
    found, place = [], 0
    for equation in equations(prediction.family, prediction.question):
        if (start := thinking.find(equation, place)) >= 0:
            place = start + len(equation)
            found.append((start, place))
    return found


def redundancy(predictions: Sequence[Prediction], chat: ChatFormat, tokenizer: Any) -> Redundancy:
    """Count the tokens of the right answers; wrong ones state other equations."""
    num_answers, num_tokens, num_essential = 0, 0, 0
    for prediction in predictions:
        if prediction.correct:
            thinking, _, _ = chat.split_output(prediction.output)
            _, offsets = tokenize_with_offsets(tokenizer, thinking)
            num_answers += 1
            num_tokens += len(offsets)
            num_essential += int(spans_to_mask(offsets, essential(prediction, thinking)).sum()) if len(offsets) else 0
    return Redundancy(num_answers=num_answers, num_tokens=num_tokens, num_essential=num_essential)


def default_config() -> TrainConfig:
    """The settings of the embedded default."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = to_objects(compose("train", overrides=["model=smollm2"]))
    assert isinstance(config, TrainConfig)
    return config


def main(run: Path, system: str = "Original") -> None:
    """Print the share for one system of a run."""
    config = default_config()
    tokenizer: Any = load_tokenizer(config.model, ArtifactStore(Path(config.output_root)))
    rows = [p for p in read_records(run / PREDICTIONS_FILE, Prediction) if p.system == system]
    found = redundancy(rows, ChatFormat(tokenizer, config.model.chat), tokenizer)
    sys.stdout.write(
        f"{system}: {found.share:.1%} of {found.num_tokens} thinking tokens of {found.num_answers} right answers are "
        "redundant\n"
    )


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
