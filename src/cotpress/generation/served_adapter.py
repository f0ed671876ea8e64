"""A LoRA adapter that a vLLM server loads when it is asked for.

The server has to be started with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and it
has to see the adapter under the same path. The name follows from the adapter's content, so that no two adapters share
one and an adapter that is loaded already is not loaded again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cotpress.artifacts import fingerprint
from cotpress.errors import GenerationError
from cotpress.modeling.sources import source_identity
from cotpress.redaction import without_secrets

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAdapter:
    """What the server is told.

    Attributes:
        name: What requests name as their model.
        path: Absolute folder, or hub id.
    """

    name: str
    path: str

    @classmethod
    def of(cls, adapter: str) -> Self:
        """The adapter in a folder or on the hub.

        Raises:
            ModelError: It cannot be found.
        """
        folder = Path(adapter).expanduser()
        path = str(folder.resolve()) if folder.is_dir() else adapter
        return cls(name=f"cotpress-{fingerprint(source_identity(adapter, key='adapter'))}", path=path)

    async def load(self, client: "AsyncOpenAI") -> None:
        """Have it loaded.

        Raises:
            GenerationError: The server does not load adapters, or not this one.
        """
        from openai import APIStatusError

        try:
            await client.post("/load_lora_adapter", body={"lora_name": self.name, "lora_path": self.path}, cast_to=str)
        except APIStatusError as error:
            if "already" in error.message.lower():
                return
            said = without_secrets(error.message)[:300]
            raise GenerationError(
                f"generation server {client.base_url}: it did not load the adapter '{self.path}' ({error.status_code}: "
                f"{said}). Fix: start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it sees "
                "this path; or start it with --lora-modules NAME=DIR, leave adapter out and give generation.model=NAME"
            ) from error
