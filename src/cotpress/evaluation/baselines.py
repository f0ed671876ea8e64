"""Ways to shorten answers that need no training (the baselines of TokenSkip, arXiv 2502.12067, section 4.1)."""

from dataclasses import dataclass

from cotpress.evaluation.config import Baseline, Instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortening:
    """What a baseline changes about how a model is asked.

    Attributes:
        name: Row of the results table.
        ratio: Kept fraction that is asked for; 1 where nothing is asked in numbers.
        instruction: Said after the question; empty says nothing.
        truncates: The token budget is multiplied by the ratio.
    """

    name: str
    ratio: float = 1.0
    instruction: str = ""
    truncates: bool = False


def shortening(kind: Baseline, ratio: float, instructions: Instructions) -> Shortening | None:
    """What `kind` changes; None if it is no such baseline, or if at ratio 1 there is nothing to shorten.

    Args:
        kind: The baseline.
        ratio: Asked kept fraction of the run, in (0, 1].
        instructions: What is said.
    """
    match kind:
        case Baseline.be_concise:
            return Shortening(name="BeConcise", instruction=instructions.be_concise)
        case Baseline.only_numbers:
            return Shortening(name="OnlyNumbers", instruction=instructions.only_numbers)
        case Baseline.abbre_words:
            return Shortening(name="AbbreWords", instruction=instructions.abbre_words)
        case Baseline.lc_prompt if ratio < 1:
            text = instructions.lc_prompt.replace("{percent}", f"{100 * (1 - ratio):g}")
            return Shortening(name="LC-Prompt", ratio=ratio, instruction=text)
        case Baseline.truncation if ratio < 1:
            return Shortening(name="Truncation", ratio=ratio, truncates=True)
    return None
