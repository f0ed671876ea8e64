import pytest

from cotpress.store.redaction import masked, without_secrets


def test_secrets_are_masked_by_name_in_urls_and_by_value_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-12345678")
    config = {
        "api_key": "abc", "hub_token": None, "api_key_env": "MY_API_KEY", "num_tokens": 3,
        "servers": [{"base_url": "http://me:pass@host/v1"}, "text sk-12345678 text"],
    }  # fmt: skip
    assert masked(config) == {
        "api_key": "***", "hub_token": None, "api_key_env": "MY_API_KEY", "num_tokens": 3,
        "servers": [{"base_url": "http://***@host/v1"}, "text *** text"],
    }  # fmt: skip


def test_short_values_are_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "cts")
    assert without_secrets("scorer=cts at http://host") == "scorer=cts at http://host"
