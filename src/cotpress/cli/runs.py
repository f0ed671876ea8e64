"""`evaluate.py runs=DIR benchmark.KEY=VALUE`: keys of the benchmark that the runs have, which is none of the defaults.

The benchmark of a run becomes a choice of the group in Hydra's config store, so that Hydra checks the keys as usual.
"""

from collections.abc import Sequence
from pathlib import Path

from cotpress.tasks import BENCHMARK_OF_RUNS

_GROUP = "benchmark"


def with_benchmark_of_runs(arguments: Sequence[str], entry: str) -> list[str]:
    """Choose the benchmark of the runs where a command line gives only keys below it."""
    from hydra._internal.utils import get_args_parser
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser

    options = get_args_parser().parse_args(list(arguments))
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    settings = {str(o.key_or_group): o for o in overrides}
    below = [key for key in settings if key.startswith(f"{_GROUP}.")]
    runs = settings.get("runs")
    if entry != "evaluate" or runs is None or not below or _GROUP in settings:
        return list(arguments)
    from cotpress.tasks.evaluate_runs import benchmark_with

    benchmark = benchmark_with(Path(str(runs.value())).expanduser(), {key.split(".")[1] for key in below})
    if benchmark is None:
        return list(arguments)
    group, _, name = BENCHMARK_OF_RUNS.partition("=")
    ConfigStore.instance().store(group=group, name=name, node=benchmark, package=group)
    place = list(arguments).index(str(settings[below[0]].input_line))  # at the end an option may precede it
    return [*arguments[:place], BENCHMARK_OF_RUNS, *arguments[place:]]
