"""Imports point one way and do nothing; files stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "entitykit"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400
LONG_TABLES = {PACKAGE / "errors.py"}

# What a lower layer may import besides the standard library, the errors and itself.
LOWER = {
    "models": {"torch", "entitykit.types"},
    "decoding": {"numpy", "scipy"},
    "knowledge": {"faiss", "numpy", "spacy", "entitykit.__version__", "entitykit.corpora.files"},
    "scoring": {"numpy", "scipy", "seqeval", "spacy", "entitykit.decoding"},
    "corpora": {"datasets", "numpy", "pyarrow", "spacy", "srsly", "tqdm", "entitykit.decoding"},
}
# What of entitykit an upper layer must not import.
UPPER = {
    "bridge": {"entitykit.benchmarks", "entitykit.cli", "entitykit.pretraining"},
    "components": {"entitykit.benchmarks", "entitykit.cli"},
    "pretraining": {"entitykit.benchmarks", "entitykit.cli"},
    "benchmarks": {"entitykit.cli"},
    "cli": set(),
}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, absolute, wherever in the file; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def within(module: str, allowed: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in allowed)


@pytest.mark.parametrize("path", [path for path in FILES if layer(path) in LOWER], ids=name)
def test_lower_layers_import_only_what_they_may(path: Path) -> None:
    allowed = LOWER[layer(path)] | {"entitykit.errors", f"entitykit.{layer(path)}"}
    foreign = {module for module in imports(path) if module.partition(".")[0] not in sys.stdlib_module_names}
    assert not [module for module in foreign - {"entitykit"} if not within(module, allowed)]


@pytest.mark.parametrize("path", [path for path in FILES if layer(path) in UPPER], ids=name)
def test_upper_layers_import_nothing_above_them(path: Path) -> None:
    assert not [module for module in imports(path) if within(module, UPPER[layer(path)])]


@pytest.mark.parametrize("path", [path for path in FILES if layer(path) != "components"], ids=name)
def test_nothing_imports_components(path: Path) -> None:
    """spaCy finds them by their registered names."""
    assert not [module for module in imports(path) if within(module, {"entitykit.components"})]


@pytest.mark.parametrize("file", ["__init__.py", "errors.py", "types.py"])
def test_what_all_share_imports_no_layer(file: str) -> None:
    assert not [
        module for module in imports(PACKAGE / file) if within(module, {f"entitykit.{layer}" for layer in LOWER | UPPER})
    ]


def test_every_folder_is_a_layer_with_rules() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == LOWER.keys() | UPPER.keys()


def test_every_library_is_declared() -> None:
    imported = {module.partition(".")[0] for path in FILES for module in imports(path)}
    imported -= sys.stdlib_module_names | {"entitykit"}
    distributions = packages_distributions()
    declared = {normal(requirement) for requirement in requires("entitykit") or []}
    assert not {library for library in imported if not declared & {normal(name) for name in distributions[library]}}


def normal(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].replace("_", "-").lower()


SIDE_EFFECTS = """
import importlib, logging, os, pkgutil, random, sys, warnings
import catalogue, numpy, spacy, torch
import datasets, faiss, huggingface_hub, seqeval, spacy_transformers, srsly, thinc, tokenizers, tqdm, transformers
from spacy.tokens.underscore import Underscore

def snapshot():
    return {
        "python random state": random.getstate(),
        "numpy random state": str(numpy.random.get_state()),
        "torch random state": torch.get_rng_state().tolist(),
        "torch threads": torch.get_num_threads(),
        "torch default type": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "environment": dict(os.environ),
        "working folder": os.getcwd(),
        "log handlers": list(logging.getLogger().handlers),
        "log level": logging.getLogger().level,
        "warning filters": list(warnings.filters),
        "registered names": sorted(key for key in catalogue.REGISTRY if not key[-1].startswith("entitykit")),
        "extensions": [*Underscore.doc_extensions, *Underscore.span_extensions, *Underscore.token_extensions],
    }

def refuse(event, args):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.fork"):
        raise RuntimeError(f"an import used {event}")

before = snapshot()
sys.addaudithook(refuse)
import entitykit
for module in pkgutil.walk_packages(entitykit.__path__, "entitykit."):
    importlib.import_module(module.name)
after = snapshot()
print(*(key for key in before if before[key] != after[key]), sep="\\n")
"""


def test_importing_everything_has_no_side_effect() -> None:
    run = subprocess.run([sys.executable, "-c", SIDE_EFFECTS], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


@pytest.mark.parametrize("folder", ["entitykit", "tests", "examples", "scripts", "pipelines"])
def test_files_are_short(folder: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    lengths = {path: length for path, length in lengths.items() if path not in LONG_TABLES}
    assert not {str(path): length for path, length in lengths.items() if length > MAX_LINES}
