"""What the scripts share that train heads on the frozen encoder of `en_entitykit_sm`, for the demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from spacy.language import Language

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = "en_entitykit_sm"


def train_head(config: str, work: Path, **paths: Path) -> Path:
    """Run `spacy train` with a config of `configs` on `train.spacy` and `dev.spacy` in the work folder; return the pipeline."""
    command = [sys.executable, "-m", "spacy", "train", str(ROOT / "configs" / config), "--output", str(work / "model")]
    paths = {name: work / f"{name}.spacy" for name in ("train", "dev")} | paths
    for name, path in paths.items():
        command += [f"--paths.{name}", str(path)]
    subprocess.run([*command, "--paths.pipeline", PIPELINE], check=True)
    return work / "model" / "model-last"


def write_head(nlp: Language, name: str, out: Path, **settings: object) -> None:
    """Save a component alone, in half precision, and beside it its config with some settings changed."""
    shutil.rmtree(out, ignore_errors=True)
    pipe = nlp.get_pipe(name)
    pipe.model.shims[0].storage = "fp16"  # type: ignore[attr-defined]
    pipe.to_disk(out)  # type: ignore[attr-defined]
    config = {**nlp.config["components"][name], **settings}
    del config["factory"]
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
