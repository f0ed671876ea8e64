"""Small files in the shapes of published trace sets, with invented values; each has rows that are used and lost ones.

`docs/data.md` lists the numbers of rows; a test compares both.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from cotpress.data.config import FileFormat

Row = dict[str, Any]
THINKING = "Three and four.\nWait, 3 + 4 = 7. Check: 7 - 4 = 3."
RESPONSE = "Adding both gives $\\boxed{7}$."
TEXT = f"<think>\n{THINKING}\n</think>\n\n{RESPONSE}"
UNCLOSED = f"<think>\n{THINKING}"
QUESTION = "What is 3 + 4?"
BOS, EOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Rows of one shape.

    Attributes:
        format: Format that they are read as.
        rows: The raw rows.
        ids: Ids of the traces that are made of them.
        dropped: Lost rows by reason.
        used: Columns that texts, ids and flags are read from.
        also: Another format that fits.
        settings: Settings beside the path.
        thinking, response, answer: Texts of every trace.
    """

    format: FileFormat
    rows: list[Row]
    ids: list[str]
    used: list[str]
    also: str = ""
    dropped: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    thinking: str = THINKING
    response: str = RESPONSE
    answer: str = "7"


def _openr1(uuid: str, *generations: str, complete: list[bool], right: list[bool]) -> Row:
    return {
        "problem": QUESTION, "solution": "It is 7.", "answer": "7", "problem_type": "Algebra",
        "question_type": "math-word-problem", "source": "made up", "uuid": uuid, "is_reasoning_complete": complete,
        "generations": list(generations), "correctness_math_verify": right, "correctness_llama": None,
        "finish_reasons": None, "correctness_count": sum(right),
        "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": generations[0]}],
    }  # fmt: skip


def _turns(*turns: tuple[str, Any], keys: tuple[str, str] = ("from", "value")) -> list[Row]:
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


OPENTHOUGHTS = (
    f"<|begin_of_thought|>\n\n{THINKING}\n\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n\n{RESPONSE}\n\n<|end_of_solution|>"
)
UNCLOSED_THOUGHT = OPENTHOUGHTS.partition("<|end_of_thought|>")[0]
_S1K = {
    "question": QUESTION,
    "solution": "7",
    "cot_type": "math",
    "source_type": "made up",
    "metadata": "{}",
    "cot": None,
}
_S1K11 = _S1K | {
    "gemini_thinking_trajectory": "Seven?", "gemini_attempt": "8", "deepseek_thinking_trajectory": THINKING,
    "deepseek_attempt": RESPONSE, "gemini_grade": "No", "deepseek_grade": "Yes",
}  # fmt: skip
_STATED = {"thinking": THINKING, "response": "**Final Answer**\n\\boxed{7}"}
_CHAIN = f"{THINKING}\n\n**Final Answer**\n\\boxed{{7}}"
_LINE = "The final answer is: $\\boxed{7}$"
_PREDICTION = {
    "question": QUESTION, "messages": [{"role": "user", "content": QUESTION}], "model_output": f"{THINKING}\n\n{_LINE}",
    "prediction": "7", "answer": "7", "accuracy": True, "cot_length": 20,
}  # fmt: skip
_PAIR = {
    "question": QUESTION, "input": "<chat>", "output": f"{THINKING}\n\n{_LINE}", "answer": "7", "model_answer": "7",
    "is_correct": True, "cot": THINKING, "compressed_cot": "3 4 7", "original_cot_tokens": 20,
    "compressed_cot_tokens": 9, "compression_rate": "45%",
}  # fmt: skip
_LLAMAFACTORY = {
    "instruction": "Please reason step by step.", "input": QUESTION, "output": f"{THINKING}\n\n{_LINE}",
}  # fmt: skip
_CHANNELS = (
    f"<|channel|>analysis<|message|>{THINKING}<|end|><|start|>assistant<|channel|>final<|message|>{RESPONSE}<|return|>"
)


SHAPES: dict[str, Shape] = {
    "cotpress": Shape(
        format=FileFormat.cotpress,
        rows=[
            {"id": "a", "question": QUESTION, "thinking": THINKING, "response": RESPONSE, "answer": 7},
            {"id": "b", "question": QUESTION, "thinking": f"<think>{THINKING}</think>", "response": RESPONSE,
             "answer": 7},
            {"id": "c", "question": QUESTION, "response": TEXT, "answer": 7},
            {"id": "d", "question": QUESTION, "thinking": UNCLOSED, "response": "", "answer": 7},
        ],
        ids=["a", "b", "c"],
        used=["question", "thinking", "response", "answer", "id"],
        dropped={"thinking is not closed": 1},
    ),
    "OpenR1-Math-220k": Shape(
        format=FileFormat.openr1,
        rows=[
            _openr1("u", UNCLOSED, TEXT, complete=[False, True], right=[False, True]),
            _openr1("v", TEXT, "<think>x</think>8", complete=[True, True], right=[True, False]),
            _openr1("w", UNCLOSED, UNCLOSED, complete=[False, False], right=[False, False]),
        ],
        ids=["u/1", "v/0"],
        used=["problem", "generations", "answer", "uuid", "is_reasoning_complete", "correctness_math_verify"],
        also="chat",
        dropped={"no complete generation": 1},
    ),
    "s1K-1.1": Shape(
        format=FileFormat.s1k11, rows=[_S1K11, _S1K11 | {"deepseek_thinking_trajectory": " "}], ids=["row-1"],
        used=["question", "deepseek_thinking_trajectory", "deepseek_attempt", "solution", "deepseek_grade"],
        dropped={"empty thinking": 1},
    ),
    "s1K-1.1, Gemini": Shape(
        format=FileFormat.s1k_gemini, settings={"format": FileFormat.s1k_gemini}, rows=[_S1K11], ids=["row-1"],
        used=["question", "gemini_thinking_trajectory", "gemini_attempt", "solution", "gemini_grade"],
        thinking="Seven?", response="8",
    ),
    "s1K": Shape(
        format=FileFormat.s1k,
        rows=[
            _S1K | {"thinking_trajectories": [THINKING], "attempt": RESPONSE},
            _S1K | {"thinking_trajectories": [], "attempt": RESPONSE},
        ],
        ids=["row-1"], used=["question", "thinking_trajectories", "attempt", "solution"],
        dropped={"no thinking tags in the text": 1},
    ),
    "LIMO": Shape(
        format=FileFormat.limo, rows=[{"question": QUESTION, "solution": _CHAIN, "answer": 7},
                                      {"question": QUESTION, "solution": "The answer is 7.", "answer": 7}],
        ids=["row-1"], used=["question", "solution", "answer"], dropped={"empty thinking": 1}, **_STATED,
    ),
    "OpenThoughts-114k": Shape(
        format=FileFormat.openthoughts,
        rows=[
            {"system": "Be careful.", "conversations": _turns(("user", QUESTION), ("assistant", OPENTHOUGHTS))},
            {"system": "Be careful.", "conversations": _turns(("user", QUESTION), ("assistant", UNCLOSED_THOUGHT))},
        ],
        ids=["row-1"], used=["conversations"], dropped={"thinking is not closed": 1}, answer="",
    ),
    "Bespoke-Stratos-17k": Shape(
        format=FileFormat.openthoughts,
        rows=[
            {"system": "Be careful.", "conversations": _turns(("user", QUESTION), ("assistant", OPENTHOUGHTS))},
            {"system": "Be careful.", "conversations": _turns(("user", QUESTION))},
        ],
        ids=["row-1"], used=["conversations"], dropped={"a conversation without an answer": 1}, answer="",
    ),
    "OpenThoughts3-1.2M": Shape(
        format=FileFormat.sharegpt,
        rows=[
            {"difficulty": 8, "conversations": _turns(("human", QUESTION), ("gpt", TEXT))},
            {"difficulty": 8, "conversations": _turns(("human", QUESTION), ("gpt", UNCLOSED))},
        ],
        ids=["row-1"], used=["conversations"], dropped={"thinking is not closed": 1}, answer="",
    ),
    "OpenMathReasoning": Shape(
        format=FileFormat.openmath,
        rows=[
            {"problem": QUESTION, "generated_solution": text, "expected_answer": "7", "problem_source": "made up",
             "pass_rate_72b_tir": "0.5"} for text in (TEXT, "<think>\n\n</think>\n\n7")
        ],
        ids=["row-1"], used=["problem", "generated_solution", "expected_answer"], dropped={"empty thinking": 1},
    ),
    "ShareGPT": Shape(
        format=FileFormat.sharegpt,
        rows=[
            {"id": "a", "conversations": _turns(("system", "Think."), ("human", QUESTION), ("gpt", TEXT))},
            {"id": "b", "conversations": _turns(("human", QUESTION), ("gpt", TEXT), ("human", "Sure?"), ("gpt", TEXT))},
        ],
        ids=["a"], used=["conversations", "id"], dropped={"several exchanges": 1}, answer="",
    ),
    "chat with reasoning": Shape(
        format=FileFormat.chat,
        rows=[
            {"messages": [{"role": "user", "content": QUESTION},
                          {"role": "assistant", "content": RESPONSE, name: THINKING}]}
            for name in ("reasoning_content", "reasoning", "thinking")
        ] + [
            {"messages": _turns(("user", QUESTION), ("assistant", TEXT), keys=("role", "content"))},
            {"messages": _turns(("user", QUESTION), ("assistant", RESPONSE), keys=("role", "content"))},
        ],
        ids=["row-1", "row-2", "row-3", "row-4"], used=["messages"], dropped={"no thinking tags in the text": 1},
        answer="",
    ),
    "gpt-oss, messages": Shape(
        format=FileFormat.harmony,
        rows=[
            {"messages": [{"role": "user", "content": QUESTION},
                          {"role": "assistant", "channel": "analysis", "content": THINKING},
                          {"role": "assistant", "channel": name, "content": RESPONSE}]}
            for name in ("final", "commentary")
        ],
        ids=["row-1"], used=["messages"], dropped={"channels other than one analysis and one final": 1}, answer="",
    ),
    "gpt-oss, text": Shape(
        format=FileFormat.tagged,
        rows=[{"prompt": QUESTION, "completion": text, "answer": 7}
              for text in (_CHANNELS, f"<|channel|>analysis<|message|>{THINKING}")],
        ids=["row-1"], used=["prompt", "completion", "answer"], dropped={"thinking is not closed": 1},
    ),
    "prompt and completion": Shape(
        format=FileFormat.prompt_completion,
        rows=[{"prompt": _turns(("user", QUESTION), keys=("role", "content")),
               "completion": _turns(("assistant", text), keys=("role", "content"))} for text in (TEXT, UNCLOSED)],
        ids=["row-1"], used=["prompt", "completion"], dropped={"thinking is not closed": 1}, answer="",
    ),
    "TokenSkip, predictions": Shape(
        format=FileFormat.tokenskip, rows=[_PREDICTION, _PREDICTION | {"accuracy": False}], ids=["row-1"],
        used=["question", "model_output", "answer", "accuracy"], also="chat", dropped={"wrong answer": 1},
        response=_LINE,
    ),
    "TokenSkip, compressed pairs": Shape(
        format=FileFormat.tokenskip_pairs, rows=[_PAIR, _PAIR | {"is_correct": False}], ids=["row-1"],
        used=["question", "output", "answer", "is_correct"], dropped={"wrong answer": 1}, response=_LINE,
    ),
    "TokenSkip, LLaMA-Factory": Shape(
        format=FileFormat.tokenskip_llamafactory,
        rows=[_LLAMAFACTORY, _LLAMAFACTORY | {"input": f"{QUESTION}<|eot_id|>0.5<|eot_id|>"}], ids=["row-1"],
        used=["input", "output"], dropped={"already compressed (a ratio marker is in the question)": 1}, response=_LINE,
        answer="", also="alpaca",
    ),
    "CTS": Shape(
        format=FileFormat.cts, rows=[{"prompt": QUESTION, "answer": THINKING}, {"prompt": QUESTION, "answer": ""}],
        ids=["row-1"], used=["prompt", "answer"], dropped={"empty thinking": 1}, response="", answer="",
    ),
    "alpaca": Shape(
        format=FileFormat.alpaca,
        rows=[
            {"instruction": QUESTION, "input": "", "output": TEXT, "system": "Think.", "history": []},
            {"instruction": QUESTION, "input": "", "output": TEXT, "system": "Think.", "history": [["Hi", "Hello"]]},
        ],
        ids=["row-1"], used=["instruction", "input", "output", "history"], dropped={"several exchanges": 1}, answer="",
    ),
    "chat as JSON text": Shape(
        format=FileFormat.chat,
        rows=[
            {"messages": json.dumps(_turns(("user", QUESTION), ("assistant", TEXT), keys=("role", "content")))},
            {"messages": json.dumps(_turns(("user", QUESTION), keys=("role", "content")))},
            {"messages": "[1, 2"},
        ],
        ids=["row-1"], used=["messages"], dropped={"a conversation without an answer": 2}, answer="",
    ),
    "turns by columns": Shape(
        format=FileFormat.sharegpt,
        rows=[
            {"conversations": {"from": ["human", "gpt"], "value": [QUESTION, TEXT]}},
            {"conversations": {"from": ["human", "gpt"], "value": [QUESTION]}},
        ],
        ids=["row-1"], used=["conversations"], dropped={"a conversation without an answer": 1}, answer="",
    ),
    "rendered, DeepSeek-R1": Shape(
        format=FileFormat.rendered,
        rows=[
            {"text": f"{BOS}Be exact.<\uff5cUser\uff5c>{QUESTION}<\uff5cAssistant\uff5c>{TEXT}{EOS}"},
            {"text": f"{BOS}<\uff5cUser\uff5c>{QUESTION}<\uff5cAssistant\uff5c>{RESPONSE}{EOS}"},
            {"text": f"{BOS}<\uff5cUser\uff5c>{QUESTION}<\uff5cAssistant\uff5c>{TEXT}{EOS}<\uff5cUser\uff5c>And 8?"},
        ],
        ids=["row-1"], used=["text"], dropped={"no thinking tags in the text": 1, "several exchanges": 1}, answer="",
    ),
    "rendered, ChatML": Shape(
        format=FileFormat.rendered,
        rows=[
            {"text": f"<|im_start|>system\nBe exact.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
                     f"<|im_start|>assistant\n{TEXT}<|im_end|>\n"},
            {"text": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>tool\n7<|im_end|>\n"
                     f"<|im_start|>assistant\n{TEXT}<|im_end|>\n"},
        ],
        ids=["row-1"], used=["text"], dropped={"a turn of another role": 1}, answer="",
    ),
}  # fmt: skip
"""Small files by the name of the published set."""
