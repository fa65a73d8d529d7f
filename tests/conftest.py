"""What every test runs under: no network, one thread, fixed seeds; and the tiny checkpoints."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Read when transformers and huggingface_hub are imported, and inherited by subprocesses.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from hypothesis import settings
from thinc.util import fix_random_seed

from tests import util

LOCAL = {"localhost", "127.0.0.1", "::1", "", None}

settings.register_profile("entitykit", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("entitykit")

# Tiny models gain nothing from threads, and a forked process may wait for ever for threads that it did not inherit.
torch.set_num_threads(1)


def refuse_network(event: str, args: tuple[object, ...]) -> None:
    """Raise on any use of the network beyond this machine, whichever library asks for it."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if host not in LOCAL:
        raise RuntimeError(f"the network is off in tests, and something asked for {host}")


sys.addaudithook(refuse_network)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    fix_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _seeds_of_fixtures() -> None:
    """Fixtures of a module come before those of a test; some train."""
    fix_random_seed(0)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random uncased BERT checkpoint with 2 layers of width 32."""
    return util.save_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def tiny_distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random cased DistilBERT checkpoint with 2 layers of width 32."""
    return util.save_distilbert(tmp_path_factory.mktemp("tiny_distilbert"))


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RoBERTa checkpoint with 2 layers of width 32 and byte-level pieces."""
    return util.save_roberta(tmp_path_factory.mktemp("tiny_roberta"))


@pytest.fixture(scope="session")
def tiny_xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random XLM-R checkpoint with 2 layers of width 32 and unigram pieces."""
    return util.save_xlmr(tmp_path_factory.mktemp("tiny_xlmr"))
