"""Take the pictures of the token viewer in a report: viewer.png and viewer-dark.png (needs Chromium).

python docs/figures/viewer.py outputs/report/report.html

The committed pictures show the report of

python train.py -m scorer=tokenskip,cts ratio=0.5 data.num_traces=40 benchmark.num_problems=2 \\
    evaluation=students sft.validation_problems=0

with the slider at 0.5. Everything but the viewer is hidden: tables, settings and paths.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH, SCALE = 1240, 1.5
"""Width of the page in CSS pixels, and pixels of the picture for each."""
COLOURS = 128
"""Colours of a picture; more are not visible and cost kilobytes."""
STYLE = """
<style>
  header.top, nav, footer, .skip, main > section:not(#tokens), #tokens > h2, #tokens > .lead, #tip { display: none }
  main > section { margin-top: 0 }
  body { padding: 1rem }
  .viewer .problems ul { max-height: 22rem; overflow: hidden }
</style>
<script>
  document.documentElement.dataset.theme = "THEME";
  setPercent(50);
</script>
"""


def picture(browser: str, report: Path, theme: str, height: int, target: Path) -> None:
    """Write the viewer of a report as PNG."""
    text = report.read_text(encoding="utf-8")
    if 'id="viewer-data"' not in text:
        sys.exit(f"{report} has no token viewer")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "report.html", Path(folder) / "viewer.png"
        page.write_text(text.replace("</body>", f"{STYLE.replace('THEME', theme)}</body>"), encoding="utf-8")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        size = [f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{height}", f"--screenshot={shot}"]
        subprocess.run([browser, *options, *size, page.as_uri()], check=True, capture_output=True, timeout=120)  # noqa: S603
        Image.open(shot).convert("RGB").quantize(COLOURS).save(target, optimize=True)


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html of a run or of several")
    parser.add_argument("--height", type=int, default=578, help="height of the picture in CSS pixels")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit(f"no Chromium on the path; looked for {', '.join(NAMES)}")
    for theme, name in (("light", "viewer.png"), ("dark", "viewer-dark.png")):
        picture(browser, options.report.absolute(), theme, options.height, FOLDER / name)


if __name__ == "__main__":
    main()
