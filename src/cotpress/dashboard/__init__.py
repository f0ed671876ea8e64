"""W&B workspace and report over the runs of a project."""
