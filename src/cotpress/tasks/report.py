"""The task of `report.py`: tables and plots from finished runs."""

from pathlib import Path

from cotpress.config import ReportConfig
from cotpress.report.stage import report_collection, show_collection


def report(config: ReportConfig, folder: Path) -> tuple[None, Path]:
    """Write and show tables and plots of all finished runs below a folder."""
    output = Path(config.output) if config.output else Path(config.runs)
    shown = report_collection(Path(config.runs), output, viewer_traces=config.viewer_traces, margin=config.margin)
    show_collection(shown, output, config.margin)
    return None, output
