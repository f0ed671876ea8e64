import pytest

from cotpress.devices import processes


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collect further failures for 0.4 s after the first one, not for 1 s, in a test that needs none of them."""
    monkeypatch.setattr(processes, "GRACE_S", 0.4)
