"""Real lack of memory on a CPU: a process with limited memory trains in smaller batches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import ROOT, environment

PROGRAM = """
import json, logging, resource, sys
from pathlib import Path
import numpy as np
import torch
from cotpress.store.artifacts import ArtifactStore
from cotpress.modeling.loading import load_model
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.devices.config import TrainerConfig
from cotpress.training.adapters import make_trainable
from cotpress.training.config import Method, TuneConfig
from cotpress.training.batching import Example, Examples
from cotpress.training.fit import fit
from cotpress.training.module import SftModule

logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
torch.set_num_threads(1)
place, draw = Path(sys.argv[1]), np.random.default_rng(0)
store, tiny = ArtifactStore(place), ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny", dtype=Dtype.float32)
rows = [Example(ids=tuple(draw.integers(3, 600, 200).tolist()), num_prompt=20, row=str(i)) for i in range(200)]
tune = TuneConfig(method=Method.lora, learning_rate=1e-3, epochs=2, sequences_per_step=200, lora_rank=4, seed=3)
hardware = TrainerConfig(accelerator="cpu", tokens_per_batch=10**6)

def train(name, examples):
    model = make_trainable(load_model(tiny, store), tune)
    (place / name).mkdir()
    return fit(model, SftModule, Examples(kept=examples, dropped={}), tune, workdir=place / name, trainer=hardware,
               log_metrics=lambda *_: None).final_loss

def limit(megabytes):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, -1))

train("warm", rows[:2])
limit(int(sys.argv[2]))
little = train("little", rows)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(json.dumps({"little": little, "enough": train("enough", rows)}))
"""


def _trained(tmp_path: Path, megabytes: int) -> tuple[dict[str, float], str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(megabytes)],
        capture_output=True, text=True, timeout=240, env={**environment(), "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_training_with_limited_memory_ends_with_the_same_loss(tmp_path: Path) -> None:
    losses, log = _trained(tmp_path, 250)
    assert "out of memory with 40000 tokens at once; continuing with at most" in log
    assert losses["little"] == pytest.approx(losses["enough"], rel=1e-4)
