import pytest

from support.commands import Command


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run entry scripts in a folder that the tests of one file share."""
    return Command(tmp_path_factory.mktemp("user"))
