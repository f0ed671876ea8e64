import logging
import re
from pathlib import Path

import pytest

from cotpress.errors import ConfigError
from cotpress.store.redaction import (
    Redacting,
    masked,
    print_lines,
    refuse_secret_arguments,
    refuse_secrets,
    without_secrets,
)
from cotpress.store.results import write_results_file


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


HEX = "0123456789abcdef0123456789abcdef01234567"
KEYS = [
    "sk-Ab12Cd34Ef56Gh78Ij90", "sk-proj-Ab12Cd34_Ef56-Gh78Ij90", "sk-ant-api03-Ab12Cd34Ef56Gh78",
    "hf_AbCdEfGhIjKlMnOpQr12",
    "gsk_Ab12Cd34Ef56Gh78Ij90", "ghp_Ab12Cd34Ef56Gh78Ij90Kl", "gho_Ab12Cd34Ef56Gh78Ij90Kl",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuv", "glpat-Ab12Cd34Ef56Gh78Ij90", "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE", "AIzaSyA1234567890abcdefghijklmnopqrstuv", "xoxb-123456789012-abcdefghijkl",
    "xapp-1-A0123-4567-abcdef", "nvapi-Ab12Cd34Ef56Gh78Ij90", "xai-Ab12Cd34Ef56Gh78Ij90", "r8_Ab12Cd34Ef56Gh78Ij90",
    "pypi-AgEIcHlwaS5vcmcCJGFi", "npm_Ab12Cd34Ef56Gh78Ij90", "sk_live_Ab12Cd34Ef56Gh78", "ya29.Ab12Cd34Ef56Gh78Ij90",
    "lsv2_pt_Ab12Cd34Ef56Gh78Ij90", "api_org_AbCdEfGhIjKlMnOpQr", f"local-{HEX}", "wandb_v1_Ab12Cd34Ef56Gh78Ij90",
    "dckr_pat_Ab12Cd34Ef56Gh78Ij90", "csk-Ab12Cd34Ef56Gh78Ij90", "1234567890:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
]  # fmt: skip
PARAMETERS = [
    "key", "apikey", "api-key", "api_key", "apiKey", "code", "token", "access_token", "id_token", "auth", "sig",
    "signature", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "AWSAccessKeyId",
    "client_secret", "password", "passwd", "pwd", "subscription-key", "Ocp-Apim-Subscription-Key", "jwt", "session",
    "sid", "ticket", "tok", "bearer", "pw", "hub.token", "authToken", "appKey",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "text", ["{}", "name of {}", "run_{}", "path/{}/x", "[{}]", "got '{}',", "a={}", "https://h/{}"]
)
def test_a_key_of_a_usual_shape_is_masked_and_refused_wherever_it_stands(key: str, text: str) -> None:
    assert key not in without_secrets(text.format(key))
    with pytest.raises(ConfigError, match="Fix: put the key into an environment variable") as caught:
        refuse_secrets({"name": text.format(key)})
    assert key not in str(caught.value)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("start", ["?", "?v=1&", "?v=1;", "#", "#a=b&", "/path?x=y#"])
def test_a_key_in_an_address_is_masked_and_refused_under_any_usual_name(name: str, start: str) -> None:
    address = f"https://host/v1{start}{name}=correct.horse%2Fb&page=2"
    assert without_secrets(f"GET {address} failed") == f"GET https://host/v1{start}{name}=***&page=2 failed"
    with pytest.raises(ConfigError, match="it holds a user name, password or key in an address"):
        refuse_secrets({"evaluation.generation.base_url": address})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:horse@host/v1", "http://***@host/v1"),
        ("http://me:ho@rse@host/v1", "http://***@host/v1"),
        ("http://me:ho/rse@host/v1", "http://***@host/v1"),
        ("http://horse@host/v1", "http://***@host/v1"),
        ("http://:horse@host", "http://***@host"),
        ("postgres://u:horse@host:5432/db", "postgres://***@host:5432/db"),
    ],
)
def test_users_and_passwords_in_addresses_are_masked_whole(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
    with pytest.raises(ConfigError):
        refuse_secrets({"model.path": address})


@pytest.mark.parametrize(
    "text",
    [
        f"wandb: {HEX}", f"wandb login {HEX}", f"WANDB_API_KEY={HEX}", f"wandb.login(key='{HEX}')", f"W&B key {HEX}",
        'api_key: "Ab12Cd34Ef56"', "{'apikey': 'Ab12Cd34Ef56'}", "HF_TOKEN=Ab12Cd34Ef56", "password = horse-battery-1",
        "Authorization: Bearer Ab12Cd34Ef56", "authorization: Basic dXNlcjpwYXNzMQ==", "X-Api-Key: Ab12Cd34Ef56",
        "Token Ab12Cd34Ef56", "secret_key=Ab12Cd34Ef56",
    ],
)  # fmt: skip
def test_a_key_after_its_name_is_masked(text: str) -> None:
    shown = without_secrets(text)
    assert "***" in shown
    for secret in (HEX, "Ab12Cd34Ef56", "horse-battery-1", "dXNlcjpwYXNzMQ"):
        assert secret not in shown


@pytest.mark.parametrize("setting", ["name", "tracker.entity", "evaluation.generation.model"])
def test_a_key_of_wandb_is_refused_but_no_commit_is(setting: str) -> None:
    with pytest.raises(ConfigError, match="a key of W&B"):
        refuse_secrets({setting: HEX})
    refuse_secrets({"model.revision": HEX, "path": f"models--x/snapshots/{HEX}"})


def test_each_argument_is_checked_also_one_that_a_later_one_replaces() -> None:
    with pytest.raises(ConfigError, match="it holds a key or password"):
        refuse_secret_arguments(["+api_key=horse", "+api_key="])


@pytest.mark.parametrize(
    "text",
    [
        "risk-assessment-of-something-long", "task_token: none", "num_tokens: 12345678", "scorer=first_token_surprisal",
        "https://host/v1?page=2&zipcode=x#top", "https://host:8000/a@b/c", "the key idea of keyword=abc",
        "score/0123abcd",
        f"commit {HEX}", "token 17 of 20", "desk-lamp", "eos_token: '<|im_end|>'", "Basic algebra", "secret: none",
        "/data/token=5/rows.jsonl", "Basic arithmetic1 only", "Token prediction2025 is",
        "data/password=1/part-0001.parquet",
    ],
)  # fmt: skip
def test_ordinary_text_is_not_masked(text: str) -> None:
    assert without_secrets(text) == text


def test_secrets_of_the_environment_are_masked_in_every_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SERVICE_SECRET_KEY", "/Ab+12/Cd=34")  # base64 may begin like a path
    monkeypatch.setenv("SOME_AUTH", "horse battery")
    monkeypatch.setenv("FILE_KEY", str(tmp_path))
    shown = without_secrets(f"a /Ab+12/Cd=34 b %2FAb%2B12%2FCd%3D34 c horse%20battery d {tmp_path}")
    assert shown == f"a *** b *** c *** d {tmp_path}"


def test_results_and_their_texts_are_written_without_secrets(tmp_path: Path) -> None:
    key = KEYS[0]
    path = write_results_file(tmp_path, 4, {"name": f"run {key}", "rows": [{"system": key, "facts": {key: key}}]})
    assert key not in path.read_text()


def test_a_line_feed_in_a_name_forges_no_message(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "reads '%s'", ("a\n12:00:00 all is well",), None)
    assert Redacting("%(message)s").format(record).split("\n") == ["reads 'a", "  12:00:00 all is well'"]
    print_lines("report: a\nreport: b", "next")
    assert capsys.readouterr().out == "report: a\\nreport: b\nnext\n"
    assert not re.search(r"^report: b", capsys.readouterr().out)
