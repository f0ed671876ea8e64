"""How many cases: few in the default run, thousands each with `--hypothesis-profile=fuzz` (`make fuzz`)."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz", max_examples=2500, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
