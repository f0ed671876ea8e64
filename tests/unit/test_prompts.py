import pytest

from cotpress.errors import ConfigError
from cotpress.prompts import marker_text


@pytest.mark.parametrize(("ratio", "text"), [(0.5, "<0.5>"), (0.75, "<0.75>"), (1.0, ""), (None, "")])
def test_marker_announces_the_ratio_and_nothing_at_one(ratio: float | None, text: str) -> None:
    assert marker_text("<{ratio}>", ratio) == text


def test_marker_without_placeholder_is_an_error() -> None:
    with pytest.raises(ConfigError, match="ratio_marker"):
        marker_text("<eot>", 0.5)
