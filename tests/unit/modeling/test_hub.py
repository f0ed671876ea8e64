import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, errors, get_session
from huggingface_hub.utils import _detect_agent

from cotpress.data.config import HubFile
from cotpress.data.published import fetch
from cotpress.errors import ConfigError, CotpressError
from cotpress.modeling.hub import HubProblem, answering_hub, hub_problem
from cotpress.modeling.sources import model_directory
from support.silent import silent_service


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (errors.GatedRepoError, HubProblem.gated),
        (errors.RepositoryNotFoundError, HubProblem.unknown),
        (errors.RevisionNotFoundError, HubProblem.no_revision),
        (errors.RemoteEntryNotFoundError, HubProblem.no_file),
        (errors.HFValidationError, HubProblem.no_id),
        (errors.HfHubHTTPError, HubProblem.unreachable),
        (errors.LocalEntryNotFoundError, HubProblem.unreachable),
        (errors.OfflineModeIsEnabled, HubProblem.unreachable),
        (ConnectionError, HubProblem.unreachable),
        (KeyError, None),
    ],
)
def test_each_exception_of_the_hub_has_its_problem(kind: type[Exception], problem: HubProblem | None) -> None:
    assert hub_problem(kind.__new__(kind)) is problem


def test_missing_folder_of_an_adapter_names_those_beside_it(tmp_path: Path) -> None:
    for name in ("cts-0.7", "original"):
        (tmp_path / name).mkdir()
    expected = rf"does not exist .* Did you mean 'cts-0\.7'\? '{tmp_path}' holds cts-0\.7, original\. Fix: .*adapter="
    with pytest.raises(ConfigError, match=expected):
        model_directory(str(tmp_path / "cts-0.8"), key="adapter")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with silent_service() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between tries
        monkeypatch.setattr(_detect_agent, "_fetch_registry", lambda: None)  # makes a separate request with a limit
        yield address


@pytest.mark.parametrize(
    "fetch_file",
    [
        lambda: model_directory("someone/model"),
        lambda: fetch(HubFile(dataset="someone/data", file="test.jsonl", revision=None)),
    ],
    ids=["model", "data set"],
)
def test_silent_hub_is_an_error_with_a_fix(silent_hub: str, fetch_file) -> None:
    started = time.monotonic()
    with pytest.raises(CotpressError, match=rf"the hub cannot be reached.*{silent_hub}.*Fix"):
        fetch_file()
    assert time.monotonic() - started < 20


def test_push_to_a_silent_hub_ends(silent_hub: str) -> None:
    with pytest.raises(ConnectionError), answering_hub(1.0):
        HfApi(token="x").create_repo("someone/model")


def test_time_limit_applies_inside_the_context_only(silent_hub: str) -> None:
    with answering_hub(1.0):
        inside = get_session().event_hooks["request"]
    assert len(inside) == len(get_session().event_hooks["request"]) + 1
