"""Options of calls are checked as the settings of the command line, with its messages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import cotpress
from cotpress.api.settings import ALONE, GROUPS, OWNERS, settings
from cotpress.cli.errors import explain
from cotpress.compression.config import CompressionConfig
from cotpress.config import register_schemas, to_objects
from cotpress.errors import ConfigError
from cotpress.scoring.table import SCORERS
from support.commands import ROOT


def settings_of(scorer: str = "cts", ratio: float | None = 0.5, model: str = "tiny", **options: Any) -> Any:
    return settings(scorer=scorer, ratio=ratio, model=model, reference=None, options=options, owners=OWNERS)


def of_the_command(override: str) -> str:
    """The message of the command line for a wrong setting."""
    register_schemas()
    usual = ["reference=none", *([] if override.startswith("model=") else ["model=tiny"])]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        try:
            to_objects(compose("compress", overrides=[*usual, override]))
        except ConfigError as error:
            return str(error)
        except Exception as error:
            return str(explain(error, "compress", ROOT / "conf"))
    return "no error"


@pytest.mark.parametrize(
    ("override", "options"),
    [
        ("compression.granularity=wrd", {"granularity": "wrd"}),
        ("compression.max_consecutive_deletions=0", {"max_consecutive_deletions": 0}),
        ("compression.keep_strings=so", {"keep_strings": "so"}),
        ("compression.soft_weights=true", {"soft_weights": True}),
        ("compression.drop_consecutive=true", {"drop_consecutive": True}),
        ("scorer.condition=none", {"condition": "none"}),
        ("scorer.condition=quest", {"condition": "quest"}),
        ("scorer.baseline=answer", {"baseline": "answer"}),
        ("ratio=1.5", {"ratio": 1.5}),
        ("seed=-1", {"seed": -1}),
        ("scorer.conditoin=question", {"scorer.conditoin": "question"}),
        ("model.dtype=float8", {"model.dtype": "float8"}),
        ("trainer.accelerator=tpu", {"trainer.accelerator": "tpu"}),
        ("scorer=ctss", {"scorer": "ctss"}),
        ("compression=mixd", {"compression": "mixd"}),
        ("model=smollm", {"model": "smollm"}),
        ("trainer=tpu", {"trainer": "tpu"}),
        ("ratio=half", {"ratio": "half"}),
    ],
)
def test_wrong_value_has_the_message_of_the_command_line(override: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(**options)
    assert str(refused.value) == of_the_command(override)


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown option 'granulrity'\. Did you mean 'granularity'\? Allowed: .*trainer"
    ):
        cotpress.compress("so", model="tiny", granulrity="word")
    with pytest.raises(ConfigError, match=r"unknown option 'conditoin'\. Did you mean 'condition'\?"):
        cotpress.score("so", model="tiny", conditoin="question")
    with pytest.raises(ConfigError, match="unknown option 'granularity'"):
        cotpress.score("so", model="tiny", granularity="word")
    for name in ("export", "data.path", "name", "name.x", "tracker"):
        with pytest.raises(ConfigError, match=f"unknown option '{name}'"):
            settings_of(**{name: "x"})


@pytest.mark.parametrize(
    ("option", "fix"),
    [("device", "trainer='cpu' or trainer='gpu'"), ("batch_size", r"\*\*{'trainer.tokens_per_batch': NUMBER}")],
)
def test_option_of_other_libraries_names_its_place_here(option: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown option '{option}'\. Fix: {fix}\. Allowed: "):
        cotpress.compress("so", model="tiny", **{option: 1})


def test_numbers_of_numpy_are_numbers() -> None:
    config = settings_of(ratio=np.float32(0.25), seed=np.int64(3), mixed_ratios=np.linspace(0.5, 1, 3))
    assert (config.ratio, config.seed, config.compression.mixed_ratios) == (0.25, 3, [0.5, 0.75, 1.0])


def test_path_of_no_model_and_of_no_reference_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model: got '\./nowhere', but there is no folder"):
        cotpress.compress("so", model="./nowhere", answer="7")
    with pytest.raises(ConfigError, match="model: unknown choice ''"):
        cotpress.compress("so", model="", answer="7")
    with pytest.raises(ConfigError, match=r"reference: unknown choice '\./nowhere'"):
        cotpress.compress("so", model="tiny", reference="./nowhere", answer="7")


def test_options_reach_their_places() -> None:
    config = settings_of(
        ratio=0.25, condition="question", granularity="step", seed=5, trainer="cpu",
        **{"model.context_tokens": 99, "scorer.template": "plain"},
    )  # fmt: skip
    assert (config.ratio, config.seed, config.model.context_tokens) == (0.25, 5, 99)
    assert (config.scorer.condition.value, config.scorer.template.value) == ("question", "plain")
    assert config.compression.granularity.value == "step"
    assert config.trainer.accelerator == "cpu"
    assert settings_of("random", seed=7).scorer.seed == 7


def test_ratio_that_is_not_given_is_a_half_or_own() -> None:
    assert settings_of(ratio=None).ratio == 0.5
    assert settings_of(ratio=None, mode="first_solution").ratio == 1


def test_equal_calls_get_the_same_configuration() -> None:
    assert settings_of(granularity="step") is settings_of(granularity="step")
    assert settings_of(granularity="step") is not settings_of(granularity="token")


def test_no_setting_has_the_name_of_another_option() -> None:
    compression = set(CompressionConfig.__dataclass_fields__)
    for name, entry in SCORERS.items():
        own = set(entry.settings.__dataclass_fields__)
        assert not own & (compression | {*GROUPS, *ALONE}) - {"seed"}, name


def test_calls_inside_an_application_of_hydra_leave_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("value: 1\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert settings_of(seed=11).seed == 11
        assert compose("own") == {"value": 1}
