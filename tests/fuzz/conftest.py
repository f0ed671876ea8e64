"""Number of cases: few in the default run, 2,500 per test with `--hypothesis-profile=fuzz` (`make fuzz`)."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz", max_examples=2500, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
