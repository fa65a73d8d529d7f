"""Any language model in the world of boxes: the states that it has of things, and the answers that it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.pipelines import ENCODER, encoder_pipeline
from entitykit.bridge.checkpoints import find_checkpoint, quiet_transformers
from entitykit.bridge.seq2seq import load_seq2seq
from entitykit.errors import error
from entitykit.models.encoder.families import FAMILIES

Floats = NDArray[np.float32]

BATCH = 16
"""Texts that an encoder-decoder reads at once, and that a decoder goes on with."""
NEW_PIECES = 40
"""Of an answer at most; three things have hardly more than twenty."""


def thing_states(settings: Settings, texts: Sequence[str], things: Sequence[Sequence[str]]) -> Floats:
    """States *(n, width)* of the last mention of each thing in each text, by the last layer that reads the text.

    BERT and its family are read by `entitykit.EntityEncoder.v1`, and the encoder of an encoder-decoder by itself. All other
    models are read by `entitykit.EarlyLM.v1`. When such a model reads a thing, it may not have read on what happens to it;
    therefore a question names all things once more behind each text.

    Args:
        settings: with the checkpoint.
        texts: in words that the tokenizer for English parts as they are.
        things: words of each text.

    Raises:
        CheckpointError: as the encoders; E449 for an encoder-decoder that cannot read the texts as a whole.
    """
    name = settings.encoder["name"]
    config = _config(name)
    if config.get("is_encoder_decoder"):
        found = _of_seq2seq(name, texts, things)
    elif config.get("model_type", "bert") in FAMILIES:
        found = _of_pipeline(encoder_pipeline(settings), texts, things)
    else:
        nlp = spacy.blank("en")
        nlp.add_pipe(ENCODER, config={"model": {"@architectures": "entitykit.EarlyLM.v1", **settings.encoder}})
        nlp.initialize()
        questions = (f"Where is the {', where is the '.join(own)}?" if own else "" for own in things)
        found = _of_pipeline(nlp, [f"{text} {end}".strip() for text, end in zip(texts, questions, strict=True)], things)
    return np.concatenate(list(found)).astype(np.float32)


def write_answers(name: str, prompts: Sequence[str]) -> Iterator[str]:
    """What a decoder goes on with where prompts end, up to the next full stop, comma or line; always the likeliest piece.

    Args:
        name: of the checkpoint.
        prompts: texts.

    Raises:
        CheckpointError: as `find_checkpoint`; E449 for a checkpoint that is no decoder, or that cannot read the prompts whole.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # slow to import

    config = _config(name)
    kinds = [str(each) for each in config.get("architectures") or ()]
    if not any(each.endswith(("ForCausalLM", "LMHeadModel")) for each in kinds) or config.get("model_type") in FAMILIES:
        raise error(
            "E449", name=name, found=f"is a {' or '.join(kinds) or 'model without a head'}", expected="a decoder that writes"
        )
    folder = find_checkpoint(name)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        pad = model.config.pad_token_id or 0
        for some in (prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH)):
            ids = [tokenizer(text)["input_ids"] for text in some]
            _check_length(name, config, max(map(len, ids)) + NEW_PIECES)
            table, mask = _padded(ids, pad, left=True)
            with torch.no_grad():
                written = model.generate(
                    input_ids=table,
                    attention_mask=mask,
                    max_new_tokens=NEW_PIECES,
                    do_sample=False,
                    num_beams=1,
                    pad_token_id=pad,
                )
            for row in written[:, table.shape[1] :].tolist():
                yield re.split(r"[.,\n]", tokenizer.decode(row, skip_special_tokens=True).lstrip())[0].strip()


def _config(name: str) -> dict[str, Any]:
    """A checkpoint's configuration; nothing of a folder that only has an encoder of ours."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return {}
    config: dict[str, Any] = json.loads((find_checkpoint(name) / "config.json").read_text(encoding="utf-8"))
    return config


def _of_pipeline(nlp: Any, texts: Sequence[str], things: Sequence[Sequence[str]]) -> Iterator[Floats]:
    for own, doc in zip(things, nlp.pipe(texts), strict=True):
        rows = {token.lower_: token.i for token in doc}  # the last one of each
        yield np.asarray(doc._.trf_data.model_output["last_hidden_state"][0])[[rows[thing] for thing in own]]


def _of_seq2seq(name: str, texts: Sequence[str], things: Sequence[Sequence[str]]) -> Iterator[Floats]:
    """Means over the pieces of the last mentions."""
    module, settings = load_seq2seq(name)
    encoder: Any = module.network.get_encoder()  # type: ignore[operator]
    tokenizer = Tokenizer.from_str(settings["tokenizer"])
    tokenizer.no_truncation()
    for first in range(0, len(texts), BATCH):
        some = slice(first, first + BATCH)
        read = tokenizer.encode_batch(list(texts[some]))
        _check_length(name, settings["config"], max(len(each.ids) for each in read))
        ids, mask = _padded([each.ids for each in read], settings["pad"] or 0)
        with torch.no_grad():
            states = encoder.eval()(input_ids=ids, attention_mask=mask)[0].float().numpy()
        for row, (text, encoding, own) in enumerate(zip(texts[some], read, things[some], strict=True)):
            yield np.array([states[row, _pieces(text, encoding.offsets, thing)].mean(0) for thing in own]).reshape(
                -1, states.shape[2]
            )


def _pieces(text: str, offsets: Sequence[tuple[int, int]], word: str) -> list[int]:
    """The pieces of the last place of a word in a text."""
    *_, last = re.finditer(rf"\b{re.escape(word)}\b", text)
    return [i for i, (start, end) in enumerate(offsets) if max(start, last.start()) < min(end, last.end())]


def _padded(ids: Sequence[Sequence[int]], pad: int, *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces *(n, length)*, filled up at one end, and 1 for each that is none of these."""
    longest = max(map(len, ids))
    table, mask = torch.full((len(ids), longest), pad), torch.zeros(len(ids), longest, dtype=torch.long)
    for row, own in enumerate(ids):
        some = slice(longest - len(own), None) if left else slice(len(own))
        table[row, some], mask[row, some] = torch.tensor(own, dtype=torch.long), 1
    return table, mask


def _check_length(name: str, config: dict[str, Any], n: int) -> None:
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(longest, int) and n > longest and config.get("model_type") not in ("t5", "mt5"):  # whose are relative
        raise error("E449", name=name, found=f"reads at most {longest} pieces", expected=f"{n} of them at once")
