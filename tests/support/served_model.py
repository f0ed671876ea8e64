"""A model behind the test server, in place of vLLM: real answers to real prompts, adapters on request.

It decodes with transformers' own `generate`, one prompt at a time, and shares no line with the backend that it is
compared to.
"""

import threading
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from support.openai_server import Call, Reply


class ServedModel:
    """Script for `openai_server` with vLLM's answers on `/completions` and `/load_lora_adapter`.

    Args:
        folder: Weights and tokenizer.
        name: Name under which the model is served.
        tells_ids: Whether answers come with their token ids.
    """

    def __init__(self, folder: Path, name: str = "served", *, tells_ids: bool = True) -> None:
        self._folder, self._tells_ids = folder, tells_ids
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._models: dict[str, Any] = {name: self._load()}
        self._lock = threading.Lock()

    def __call__(self, call: Call, seen: int) -> Reply:
        """See `openai_server.Script`."""
        with self._lock:
            if call.path == "/v1/load_lora_adapter":
                return self._load_adapter(call.body["lora_name"], call.body["lora_path"])
            if call.body["model"] not in self._models:
                return Reply(text=f"The model `{call.body['model']}` does not exist.", status=404)
            return self._complete(call.body)

    def _load(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.float32).eval()

    def _load_adapter(self, name: str, path: str) -> Reply:
        if name in self._models:
            return Reply(text=f"The lora adapter '{name}' has already been loaded.", status=400)
        self._models[name] = PeftModel.from_pretrained(self._load(), path).eval()
        return Reply(raw=b"Success: LoRA adapter added successfully.", content_type="text/plain")

    @torch.inference_mode()
    def _complete(self, body: dict[str, Any]) -> Reply:
        model, prompt = self._models[body["model"]], torch.tensor([body["prompt"]])
        settings: dict[str, Any] = {"do_sample": False}
        if body["temperature"]:
            settings = {"do_sample": True, "temperature": body["temperature"], "top_p": body["top_p"], "top_k": 0}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(body.get("seed", 0))
            written = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=body["max_tokens"],
                pad_token_id=0, **settings,
            )[0, prompt.shape[1] :].tolist()  # fmt: skip
        ends = model.generation_config.eos_token_id
        stopped = written[-1] in (ends if isinstance(ends, list) else [ends])
        text = self._tokenizer.decode(
            written[: len(written) - stopped], skip_special_tokens=body["skip_special_tokens"]
        )
        reason = "stop" if stopped else "length"
        ids = written if self._tells_ids else None
        return Reply(text=text, finish_reason=reason, token_ids=ids, num_tokens=len(written))


def save_model(folder: Path, tiny: Path) -> Path:
    """Save a model of the tiny size that writes a different text for every prompt and ends some of its answers.

    The tiny model's embeddings are tied, and untrained it repeats the last token of any prompt.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = AutoConfig.from_pretrained(tiny, tie_word_embeddings=False, initializer_range=0.3)
    config.eos_token_id = [tokenizer.eos_token_id, *range(40, 60)]  # further ends, as Qwen2.5 and Llama have
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, model: Path, seed: int = 0) -> Path:
    """Save a LoRA adapter that changes the model's texts; returns its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder
