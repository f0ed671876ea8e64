"""`KEY+=VALUE` on the command line; in a file of its own, as it composes a configuration itself."""

import pytest

from cotpress.cli.arguments import with_added
from cotpress.errors import ConfigError
from support.commands import ROOT

CONF = ROOT / "conf"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluation=students", "evaluation.baselines+=shortest"], "[original,ratio_one,shortest]"),
        (["evaluation.baselines=[]", "evaluation.baselines+=base,original"], "[base,original]"),
        (["evaluation.baselines=[base]", *2 * ["evaluation.baselines+=base"], "ratio=0.5"], "[base]"),
    ],
)
def test_a_plus_before_the_sign_adds_to_a_list(arguments: list[str], expected: str) -> None:
    *others, last = with_added(arguments, "train", CONF)
    assert last == f"evaluation.baselines={expected}"
    assert others == [argument for argument in arguments if "+=" not in argument]
    assert with_added(others, "train", CONF) == others


def test_adding_to_what_is_no_list_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'ratio\+=0\.5' adds to a list, and ratio is none"):
        with_added(["ratio+=0.5"], "train", CONF)
