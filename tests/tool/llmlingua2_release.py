"""Write what LLMLingua 0.2.2 makes of the texts of `support.llmlingua2` to `llmlingua2.json`, beside the test.

    pip install --no-deps --target DIR llmlingua==0.2.2 tiktoken nltk regex requests
    PYTHONPATH=DIR python tests/tool/llmlingua2_release.py

tiktoken downloads its vocabulary. `--encoding NAME` takes an installed encoding with the same vocabulary instead.
"""

import argparse
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import tiktoken

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.llmlingua2 import FOLDERS, GOLDEN, save_classifier, texts

CALLS: list[dict[str, Any]] = [
    {},
    {"force_tokens": ["Step", ":"], "force_reserve_digit": True, "drop_consecutive": True},
    {"force_tokens": ["\n", ".", "hmm"], "drop_consecutive": True},
]
"""Those of TokenSkip for Qwen and for Llama, and one whose texts are no single tokens."""
RATES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.25)
LONG = 1000
"""Characters of a text above which one rate is enough."""
VERSIONS = ("llmlingua", "tiktoken", "transformers", "tokenizers", "torch", "numpy")


class Counted:
    """An encoding that remembers the number of tokens of everything that it encoded."""

    def __init__(self, encoding: Any) -> None:
        self.encoding, self.counts = encoding, dict[str, int]()

    def encode(self, text: str) -> list[int]:
        """Encode as tiktoken does."""
        ids: list[int] = self.encoding.encode(text)
        self.counts[text] = len(ids)
        return ids


def main() -> None:
    """Run the release on every text, with every call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoding", default="cl100k_base")
    encoding = Counted(tiktoken.get_encoding(parser.parse_args().encoding))
    tiktoken.encoding_for_model = lambda model: encoding
    from llmlingua import PromptCompressor

    outputs, words = [], {}
    for kind in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            path = save_classifier(kind, Path(folder))
            release = PromptCompressor(str(path), device_map="cpu", use_llmlingua2=True)
        for number, text in enumerate(texts()):
            for call, arguments in enumerate(CALLS):
                for rate in RATES[4:5] if len(text) > LONG else RATES:
                    encoding.counts.clear()
                    try:
                        made = release.compress_prompt(text, rate=rate, **arguments)["compressed_prompt"]
                    except IndexError:  # a chunk without words
                        made = None
                    words.update({word: n for word, n in encoding.counts.items() if len(word.split()) <= 1})
                    outputs.append({"kind": kind, "text": number, "call": call, "rate": rate, "output": made})
    vocabulary = sorted(words.items())
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    about = {"versions": versions, "calls": CALLS, "word_tokens": dict(vocabulary)}
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in outputs)
    GOLDEN.write_text(json.dumps(about, ensure_ascii=False)[:-1] + f',\n"outputs": [\n{rows}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
