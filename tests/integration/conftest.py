import pytest

from commands import Command


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs an entry script in a folder that the session's tests share."""
    return Command(tmp_path_factory.mktemp("user"))
