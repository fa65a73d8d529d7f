"""Names in a compact trie: size, time to build, and time of a look-up; beside nested dictionaries, the published form (GENRE).

The names are synthetic, as many as Wikipedia has titles: one to five words, frequent ones by Zipf's law from the tokenizer's
vocabulary, and invented ones, which are cut into pieces. The tokenizer is the checkpoint's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from entitykit.benchmarks.memory import STATUS, resident
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, progress
from entitykit.benchmarks.timing import median
from entitykit.bridge.checkpoints import find_checkpoint
from entitykit.errors import error
from entitykit.knowledge.flat_trie import Sequences, select_sequences
from entitykit.knowledge.trie import CompactTrie

MB = 10**6
BATCH = 64
_CHUNK = 50_000
_WORDS = np.array([0.08, 0.45, 0.27, 0.13, 0.07])  # shares of names of 1 to 5 words
_INVENTED = 0.3  # share of invented words
_KINDS = ("film", "album", "song", "band", "novel", "footballer", "river", "village", "politician", "ship")
_SOUNDS = "ba be bri ca cor da del dra el fa gar gi hal han il jo ka ko la len lin ma mor na nor o pa per qui ra ro sa ser ta"


class Amount(NamedTuple):
    """How much is measured: names, names in both forms, batches of look-ups in a round, and rounds."""

    names: int
    compared: int
    batches: int
    rounds: int


FULL = Amount(6_000_000, 100_000, 200, 5)
QUICK = Amount(200_000, 20_000, 50, 3)


def measure(settings: Settings) -> Result:
    """Build, save and look up."""
    if not STATUS.exists():
        raise error("E446", path=STATUS)
    amount = QUICK if settings.quick else FULL
    tokenizer = load_tokenizer(str(settings.encoder["name"]))
    progress(f"trie: {amount.names:,} names are made and tokenised")
    start = time.perf_counter()
    names = tokenise(tokenizer, synthetic_names(tokenizer, amount.names))
    seconds = {"tokenise_s": time.perf_counter() - start}
    rows = np.arange(amount.names)
    progress(f"trie: built from {len(names.tokens):,} tokens")
    start = time.perf_counter()
    trie = CompactTrie.build(names, rows)
    seconds["build_s"] = time.perf_counter() - start
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        trie.save(folder)
        seconds["save_s"] = time.perf_counter() - start
        on_disk = sum(path.stat().st_size for path in Path(folder).iterdir())
        in_memory = _resident_elsewhere(Path(folder))
        trie = CompactTrie.load(folder)
        rounds = _look_ups(trie, names, amount)
    progress(f"trie: beside dictionaries, {amount.compared:,} names")
    few = select_sequences(names, np.random.default_rng(1).permutation(amount.names)[: amount.compared])
    ours, theirs = CompactTrie.build(few, np.arange(amount.compared)).nbytes, dictionary_bytes(few)
    figures = {
        "trie_mb": _once(on_disk / MB),
        "trie_resident_mb": _once(in_memory / MB),
        **{key: _once(value) for key, value in seconds.items()},
        "lookup_us": median(rounds["lookup_us"]),
        "step_us": median(rounds["step_us"]),
        "vs_dict_memory": _once(theirs / ours),
    }
    details = {
        "names": len(trie),
        "tokens_per_name": len(names.tokens) / amount.names,
        "longest": trie.longest,
        "batch": BATCH,
        "tokens_per_lookup": median(rounds["tokens"]).value,
        "at_compared": {"names": amount.compared, "trie_mb": ours / MB, "dictionaries_mb": theirs / MB},
    }
    return Result(figures, {"trie": details})


def load_tokenizer(name: str) -> Tokenizer:
    """A checkpoint's tokenizer, which neither cuts nor fills up."""
    tokenizer = Tokenizer.from_file(str(find_checkpoint(name) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def synthetic_names(tokenizer: Tokenizer, n: int) -> Iterator[str]:
    """Different names, the same in every run."""
    rng = np.random.default_rng(0)
    numbers = sorted((number, word) for word, number in tokenizer.get_vocab().items() if word.isalpha() and word.isascii())
    known = [word for _, word in numbers if len(word) > 1]
    sounds = _SOUNDS.split()
    invented = ["".join(rng.choice(sounds, size=size)) for size in rng.integers(2, 5, 50_000).tolist()]
    frequency = 1 / np.arange(1, len(known) + 1)
    words = [*known, *invented]
    shares = np.concatenate([(1 - _INVENTED) * frequency / frequency.sum(), np.full(len(invented), _INVENTED / len(invented))])
    seen: set[str] = set()
    while len(seen) < n:
        sizes = rng.choice(np.arange(1, 6), size=_CHUNK, p=_WORDS / _WORDS.sum())
        chosen = iter(rng.choice(len(words), size=int(sizes.sum()), p=shares).tolist())
        kinds = rng.integers(0, 10 * len(_KINDS), _CHUNK).tolist()
        for size, kind in zip(sizes.tolist(), kinds, strict=True):
            name = " ".join(words[i].capitalize() for i in islice(chosen, size))
            name += f" ({_KINDS[kind]})" if kind < len(_KINDS) else ""
            if name not in seen:
                seen.add(name)
                yield name
            if len(seen) == n:
                return


def tokenise(tokenizer: Tokenizer, names: Iterator[str]) -> Sequences:
    """The names' tokens."""
    tokens, lengths = [], []
    while batch := list(islice(names, _CHUNK)):
        found = [encoding.ids for encoding in tokenizer.encode_batch(batch, add_special_tokens=False)]
        lengths.append(np.fromiter(map(len, found), dtype=np.int32, count=len(found)))
        tokens.append(np.fromiter((token for ids in found for token in ids), dtype=np.uint32, count=int(lengths[-1].sum())))
    return Sequences(np.concatenate(tokens), np.concatenate(lengths))


def dictionary_bytes(names: Sequences) -> int:
    """Bytes of the names as nested dictionaries with a last token for the end; equal tokens are one number."""
    root: dict[int, Any] = {}
    numbers: dict[int, int] = {}
    ends = np.cumsum(names.lengths).tolist()
    tokens = names.tokens.tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        node = root
        for token in [*tokens[start:end], -1]:
            node = node.setdefault(numbers.setdefault(token, token), {})
    total = sum(map(sys.getsizeof, numbers))
    stack = [root]
    while stack:
        node = stack.pop()
        total += sys.getsizeof(node)
        stack.extend(node.values())
    return total


def _look_ups(trie: CompactTrie, names: Sequences, amount: Amount) -> dict[str, list[float]]:
    """Microseconds of a look-up and of a step in each round, and the tokens that a look-up finds.

    As in a beam search over many documents, a batch is at 64 places, anywhere within or behind names that are drawn at random.
    """
    rng = np.random.default_rng(2)
    found: dict[str, list[float]] = {"lookup_us": [], "step_us": [], "tokens": []}
    for _ in range(amount.rounds):
        nodes, tokens = _places(trie, select_sequences(names, rng.integers(0, len(names.lengths), BATCH * amount.batches)))
        batches = rng.permutation(len(nodes))[: BATCH * amount.batches].reshape(-1, BATCH)
        start = time.perf_counter()
        following = [trie.next_tokens_batch(nodes[batch]) for batch in batches]
        found["lookup_us"].append((time.perf_counter() - start) / batches.size * 1e6)
        start = time.perf_counter()
        for batch in batches:
            trie.step_batch(nodes[batch], tokens[batch])
        found["step_us"].append((time.perf_counter() - start) / batches.size * 1e6)
        found["tokens"].append(sum(len(each) for batch in following for each in batch) / batches.size)
    return found


def _places(trie: CompactTrie, names: Sequences) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All nodes of names from the root to the last, and the token that follows there; -1 after the last."""
    starts = np.cumsum(names.lengths) - names.lengths
    line, node = np.arange(len(starts)), np.full(len(starts), trie.root)
    nodes, tokens = [], []
    for depth in range(int(names.lengths.max()) + 1):
        going = names.lengths[line] > depth
        following = np.full(len(line), -1)
        following[going] = names.tokens[starts[line[going]] + depth]
        nodes.append(node)
        tokens.append(following)
        line, node = line[going], trie.step_batch(node[going], following[going])
    return np.concatenate(nodes), np.concatenate(tokens)


def _resident_elsewhere(folder: Path) -> int:
    """Bytes that a saved trie takes in a process of its own that has read all of it."""
    command = [sys.executable, "-m", "entitykit.benchmarks.trie", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise error("E447", command=" ".join(command), status=run.returncode, output=run.stderr[-2000:])
    return int(json.loads(run.stdout.splitlines()[-1]))


def resident_bytes(folder: Path) -> int:
    """Bytes that a saved trie takes in this process, when each of its pages has been read."""
    before = sum(resident())
    trie = CompactTrie.load(folder)
    for array in trie.arrays():
        array.reshape(-1).view(np.uint8)[::1024].max(initial=0)
    return sum(resident()) - before


def _once(value: float) -> Figure:
    return Figure(value, value, value)


PARTS = [
    Part(
        (
            "trie_mb",
            "trie_resident_mb",
            "tokenise_s",
            "build_s",
            "save_s",
            "lookup_us",
            "step_us",
            "vs_dict_memory",
        ),
        measure,
    ),
]

if __name__ == "__main__":
    print(json.dumps(resident_bytes(Path(sys.argv[1]))))
