"""The release's environment: made once, made anew when its pins, Python or torch change."""

import hashlib
import importlib.metadata
import logging
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from cotpress.errors import CotpressError

log = logging.getLogger(__name__)

REQUIREMENTS = Path(__file__).with_name("release-requirements.txt")
READY = "ready"


class ReleaseError(CotpressError):
    """The release's environment cannot be made."""


def release_environment(cache: Path) -> Path:
    """The environment's Python; makes the environment if it is not there (about a minute, 400 MB).

    Args:
        cache: Folder that environments are kept in.

    Raises:
        ReleaseError: A package cannot be installed.
    """
    folder = cache / f"release-{_key()}"
    python = folder / "bin" / "python"
    if (folder / READY).is_file():
        return python
    log.info("making the environment of the release in %s: about a minute, once", folder)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    _install(folder)
    # Not before pip has finished: it would remove files behind a link from the environment that they belong to.
    for source in _torch_files():
        (_site_packages(folder) / source.name).symlink_to(source)
    (folder / READY).touch()
    return python


def existing_release(cache: Path) -> Path | None:
    """The environment's Python if it is there already."""
    folder = cache / f"release-{_key()}"
    return folder / "bin" / "python" if (folder / READY).is_file() else None


def _key() -> str:
    torch = importlib.metadata.version("torch")
    identity = f"{REQUIREMENTS.read_text(encoding='utf-8')}\n{torch}\n{sys.version}\n{sys.prefix}"
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _site_packages(folder: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return folder / "lib" / version / "site-packages"


def _install(folder: Path) -> None:
    """Fill the environment with this one's pip, so that it needs none of its own."""
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps"]
    command += ["--quiet", "--progress-bar", "off", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ReleaseError(
            f"the environment of the release cannot be made; pip says:\n{tail}\n"
            "Fix: give access to a package index, or leave the release out with --without-release"
        )


def _torch_files() -> Iterator[Path]:
    """Folders and files of torch, and of the packages that only its GPU builds need."""
    own = {_canonical(line.split("==")[0]) for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()}
    seen: set[Path] = set()
    for name in _with_requirements("torch"):
        if name in own:
            continue
        distribution = importlib.metadata.distribution(name)
        for top in sorted({file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}):
            source = Path(str(distribution.locate_file(top))).resolve()
            if source not in seen and source.name != "__pycache__":
                seen.add(source)
                yield source


def _with_requirements(name: str) -> list[str]:
    """An installed package and what it requires here, extras left out, each once."""
    packages = [name]
    for current in packages:
        for requirement in importlib.metadata.requires(current) or ():
            needed = _canonical(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
            if "extra ==" not in requirement and needed not in packages and _installed(needed):
                packages.append(needed)
    return packages


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
