import pytest
from huggingface_hub import errors

from cotpress.hub_errors import HubProblem, hub_problem


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
def test_each_refusal_of_the_hub_is_told_apart(kind: type[Exception], problem: HubProblem | None) -> None:
    assert hub_problem(kind.__new__(kind)) is problem
