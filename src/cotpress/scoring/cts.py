"""CTS, Conditional Token Selection: how much easier a thinking token becomes once the condition is known.

Computes  s_i = log p_RM(x_i | c, x_<i) - log p_RM(x_i | x_<i)      for thinking tokens x_i, reference model RM
Source    arXiv 2505.17827, section 3.2 (Score(x_i^thk | x^ans, x_<i^thk)); the paper's figure conditions on the
          written answer, texts about it on question and answer, so c is a setting: answer | question |
          question_answer (question, blank line, response).

How the two contexts are written (`template`):
    chat   the format the reference model was trained in, in both passes: chat prompt, then the opening of the
           thinking, then x. The condition is the content of the user's turn; without condition that turn is empty.
           So the two passes differ in the condition and in nothing else.
    plain  bos, then c and a blank line, then x; without condition bos alone.

The released code (LLMLingua 0.2.2, rank_method=longllmlingua, condition_compare=True) deviates: it keeps a token by
the score of the NEXT token, scores later windows on a prefix that is already compressed, uses no chat template
although its reference model was trained with one, no bos, and cuts the thinking at 5,000 tokens silently. Here
every token has its own score on the full text, and what does not fit is refused and counted.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from cotpress.errors import ModelError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.logprobs import ScoreInput, token_logprobs
from cotpress.modeling_config import ModelConfig
from cotpress.prompts import ChatFormat
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.config import Condition, CtsConfig, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "longer than the model's context"
NO_RESPONSE = "no response to condition on"


class CtsScorer:
    """Log-probability ratio of the reference model with and without the condition."""

    def __init__(
        self,
        config: CtsConfig,
        model: torch.nn.Module,
        tokenizer: "PreTrainedTokenizerBase",
        base: ModelConfig,
        tokens_per_batch: int,
    ) -> None:
        """Raises ModelError if `template=plain` meets a tokenizer without bos token."""
        self.name = config.name
        self._config, self._model, self._tokenizer = config, model, tokenizer
        self._chat = ChatFormat(tokenizer, base.chat)
        self._context_tokens, self._tokens_per_batch = base.context_tokens, tokens_per_batch
        self._fingerprint = tokenizer_fingerprint(tokenizer)
        if config.template is Template.plain and tokenizer.bos_token_id is None:
            raise ModelError(
                f"scorer.template=plain starts with the bos token, which the tokenizer of '{base.name}' does not have. "
                "Fix: scorer.template=chat"
            )
        self._unconditioned = self._context_ids("")

    def num_tokens(self, trace: Trace) -> int:
        """See `Scorer`."""
        return len(tokenize_with_offsets(self._tokenizer, trace.thinking)[0])

    def refusal(self, trace: Trace) -> str | None:
        """Refuses traces over the model's context and traces without the condition that is asked for."""
        if self._config.condition is not Condition.question and not trace.response.strip():
            return NO_RESPONSE
        length = len(self._context_ids(self._condition(trace))) + self.num_tokens(trace)
        return TOO_LONG if length > self._context_tokens else None

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """See `Scorer`."""
        logprobs = token_logprobs(self._model, self._inputs(traces), self._tokens_per_batch)
        for trace in traces:
            ids, offsets = tokenize_with_offsets(self._tokenizer, trace.thinking)
            conditioned, unconditioned = next(logprobs), next(logprobs)
            yield ScoredTrace(
                id=trace.id,
                token_ids=ids,
                offsets=offsets,
                scores=conditioned - unconditioned,
                tokenizer=self._fingerprint,
                scorer=self.name,
            )

    def _inputs(self, traces: Sequence[Trace]) -> Iterator[ScoreInput]:
        for trace in traces:
            thinking, _ = tokenize_with_offsets(self._tokenizer, trace.thinking)
            yield ScoreInput(context_ids=self._context_ids(self._condition(trace)), target_ids=thinking)
            yield ScoreInput(context_ids=self._unconditioned, target_ids=thinking)

    def _condition(self, trace: Trace) -> str:
        match self._config.condition:
            case Condition.answer:
                return trace.response
            case Condition.question:
                return trace.question
            case Condition.question_answer:
                return f"{trace.question}\n\n{trace.response}"

    def _context_ids(self, condition: str) -> list[int]:
        if self._config.template is Template.chat:
            return [*self._chat.prompt_ids(condition), *self._chat.thinking_start()]
        before = self._chat.text_ids(condition + "\n\n") if condition else []
        return [int(self._tokenizer.bos_token_id), *before]
