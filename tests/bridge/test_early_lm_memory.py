"""Layers that are cut off a language model are never in memory, measured from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from tests.util import byte_pairs

N_LAYERS, KEPT, WIDTH, INNER = 12, 2, 384, 1536
MEASURE = """
import sys
from entitykit.bridge.early_lm import load_early_lm

def peak():
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith("VmHWM"))

kept = []
for n_layers in (1, int(sys.argv[2]), None):
    kept.append(load_early_lm(sys.argv[1], n_layers=n_layers, bos=True, frozen=True))
    print(peak())
    kept.clear()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_cut_against_whole(tmp_path: Path) -> None:
    """The peak of the process: beside one layer, one more costs a layer, and all cost the rest."""
    tokenizer = byte_pairs()
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": N_LAYERS, "intermediate_size": INNER, "num_attention_heads": 4}
    model = LlamaModel(LlamaConfig(vocab_size=tokenizer.get_vocab_size(), bos_token_id=0, eos_token_id=2, **sizes))
    of_layer = sum(p.numel() for p in model.layers[0].parameters()) * 4 / 2**10  # KiB
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path), str(KEPT)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    one, cut, whole = (int(line) for line in run.stdout.split())
    assert cut - one < 2.5 * of_layer
    assert whole - cut > 0.7 * (N_LAYERS - KEPT) * of_layer
