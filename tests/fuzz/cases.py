"""Shared parts of the fuzz tests: number of cases and odd texts."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def assert_is_message(message: str) -> None:
    """Check that a user sees a message and no stack trace."""
    assert message.strip()
    assert "Traceback" not in message


def cases(small: int) -> settings:
    """Settings of a test: `small` cases in the default run, the profile's number under `make fuzz`."""
    if settings.get_current_profile_name() == "fuzz":
        return settings()
    return settings(max_examples=small, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


_SIGNS = ["", " ", "\n", "\t", "\r\n", "\u2028", "\u200b", "\u200f", "\u202e", "\ufeff", "\ufffd", "\u0301", "\x1b[31m"]
_SCRIPTS = [
    "\u05de\u05d4", "\u0627\u0644\u0633\u0644\u0627\u0645", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u6570",
    "\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001d7d9", "\ufb01", "\xdf", "\u0130",
]  # fmt: skip
_MARKUP = [
    "<script>alert(1)</script>", "</script>", "<!--", "]]>", "&amp;", "' onload=alert(1) '", "<think>", "</think>",
    '"><img src=x onerror=alert(1)>', "<|im_end|>", "<|eot_id|>", "|", "</title>", "</style>", "</textarea>",
]  # fmt: skip
_TEMPLATES = ["{question}", "{ratio}", "{{7*7}}", "${oc.env:HOME}", "${", "%s", "=", "a=b", "[1,2", "null", "NaN"]
_ANSWERS = [
    "\\boxed{", "\\boxed{1}", "}", "####", "#### 5", "The answer is", "$x$", "\\frac{1}{2}", "1,000.5", "-0", "1e999",
]  # fmt: skip
_PATHS = ["../../x", "/etc/passwd", "C:\\x", "CON"]
_ODD = st.sampled_from([*_SIGNS, *_SCRIPTS, *_MARKUP, *_TEMPLATES, *_ANSWERS, *_PATHS])
unicode_text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40)
"""Any text that a file can hold, without NUL."""
odd_text = st.lists(st.one_of(_ODD, unicode_text), max_size=8).map("".join)
"""Texts with parts that some parser may interpret."""
any_text = st.one_of(odd_text, st.text(max_size=20))
"""The same with lone surrogates and NUL."""
