"""Problems in, judged answers out, with a model that is loaded already: validation during fine-tuning."""

from collections.abc import Sequence

from cotpress.evaluation.asking import Inquiry, Protocol, ask
from cotpress.evaluation.judging import prediction
from cotpress.generation.base import Backend
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem


def answer_problems(
    backend: Backend, written: ChatFormat, problems: Sequence[Problem], protocol: Protocol, *, system: str, ratio: float
) -> list[Prediction]:
    """Judged answers of a student in the problems' order, the samples of a problem one after the other.

    Args:
        backend: Who writes.
        written: The student's conversation format.
        problems: What is asked.
        protocol: How it is asked.
        system: Name that the predictions carry.
        ratio: Asked kept fraction that the predictions carry.
    """
    by_id = {p.id: p for p in problems}
    (answers,) = ask(backend, written, problems, [Inquiry(protocol=protocol)])
    return [prediction(by_id[a.id], a, written, system=system, ratio=ratio, thinks=True) for a in answers]
