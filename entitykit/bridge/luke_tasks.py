"""LUKE's models for tasks, as `transformers` has them, on spaCy's Docs: spans, pairs and types classified, entities named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spacy.tokens import Doc, Span
from thinc.api import get_torch_default_device
from torch import Tensor

from entitykit.bridge.checkpoints import (
    ENTITY_VOCABULARY,
    find_checkpoint,
    load_fast_tokenizer,
    luke_values,
    one_line,
    quiet_transformers,
)
from entitykit.bridge.luke_texts import MARKS, MASKS, LukeReader, Place, characters_of, in_windows, marked
from entitykit.errors import EntityKitError, error
from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.families import settings_from_config
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import Pack, TransformerEncoder
from entitykit.models.luke import LukeNER, LukeRelations, LukeTyping, LukeVocabulary, classify_spans
from entitykit.models.luke_weights import load_classifier, load_entity_vocabulary, split_checkpoint

LONGEST = 16
"""Most pieces of a span that may be a named entity."""
AT_ONCE = 128
"""Spans that are in one pass, where each sees the others; more are divided evenly over passes."""
NIL = 0
"""The class of spans that are no entity."""


class _LukeTask:
    """A model of a task.

    Args:
        reader: of texts.
        head: of the task.
        labels: what the head chooses among; of `LukeSpans` the first is "no entity", of `LukeEntities` these are titles by row.
    """

    def __init__(self, reader: LukeReader, head: Any, labels: Sequence[str]) -> None:
        self.reader = reader
        self.head = head
        self.labels = list(labels)


class LukeSpans(_LukeTask):
    """Named entities: every span of up to `LONGEST` pieces between words is classified (LukeForEntitySpanClassification)."""

    head: LukeNER

    def __call__(self, doc: Doc) -> list[Span]:
        """Entities that do not overlap, in the order of the text: the highest logits win, as published."""
        places, logits = self.logits(doc)
        best = logits.max(dim=1)
        taken = np.zeros(len(doc), dtype=bool)
        found = []
        for row in best.values.argsort(descending=True, stable=True).tolist():
            (start, end), label = places[row], int(best.indices[row])
            if label != NIL and not taken[start:end].any():
                taken[start:end] = True
                found.append(Span(doc, start, end, label=self.labels[label]))
        return sorted(found, key=lambda span: span.start)

    @torch.no_grad()
    def logits(self, doc: Doc) -> tuple[list[Place], Tensor]:
        """Classify all spans; where the document has sentences, those within one.

        Returns:
            The spans' words, and logits *(n_spans, n_labels)*.
        """
        words = [token for token in doc if not token.is_space]
        ids, pieces = self.reader.pieces(doc.text, [(token.idx, token.idx + len(token)) for token in words])
        words = [token for token, (start, end) in zip(words, pieces, strict=True) if start < end]
        pieces = [(start, end) for start, end in pieces if start < end]
        starts = [bool(token.is_sent_start) for token in doc] if doc.has_annotation("SENT_START") else [False] * len(doc)
        sentence = np.cumsum(starts)
        spans, places = [], []
        for i, first in enumerate(words):
            for j in range(i, len(words)):
                if pieces[j][1] - pieces[i][0] > LONGEST or sentence[first.i] != sentence[words[j].i]:
                    break
                spans.append((first.i, words[j].i + 1))
                places.append((pieces[i][0], pieces[j][1]))
        if not spans:
            return [], torch.zeros(0, len(self.labels))
        entities = self.reader.encoder.settings.entities
        at_once = AT_ONCE if entities is not None and entities.entities_see_entities else len(spans)
        rows, texts = in_windows(self.reader, ids, places, at_once)
        found = self.reader.run(texts, lambda *pack: classify_spans(self.reader.encoder, self.head, *pack)).cpu()
        return spans, found[np.argsort(rows)]


class LukePairs(_LukeTask):
    """Relations: each pair of spans is read with marks around both (LukeForEntityPairClassification)."""

    head: LukeRelations

    def __call__(self, doc: Doc, pairs: Sequence[tuple[Span, Span]]) -> list[str]:
        """The most probable class of each pair of head and tail."""
        return [self.labels[number] for number in self.logits(doc, pairs).argmax(dim=1).tolist()]

    @torch.no_grad()
    def logits(self, doc: Doc, pairs: Sequence[tuple[Span, Span]]) -> Tensor:
        """Logits *(n_pairs, n_labels)*.

        Raises:
            InputError: E117 for a span that is none of the document's words, E119 for pairs that overlap or lie too far apart.
        """
        if not pairs:
            return torch.zeros(0, len(self.labels))
        texts = [marked(self.reader, doc, pair, MARKS, MASKS) for pair in pairs]

        def classify(pack: Pack, entities: EntityPack) -> Tensor:
            heads = torch.arange(0, len(entities.ids), 2, device=entities.ids.device)
            return self.head(self.reader.states(pack, entities), heads, heads + 1)

        return self.reader.run(texts, classify).cpu()


class LukeTypes(_LukeTask):
    """Types of entities, any number of each: a span is read with marks around it (LukeForEntityClassification)."""

    head: LukeTyping

    def __call__(self, doc: Doc, spans: Sequence[Span]) -> list[list[str]]:
        """Of each span the types whose logit is above 0."""
        rows = (self.logits(doc, spans) > 0).tolist()
        return [[label for label, is_one in zip(self.labels, row, strict=True) if is_one] for row in rows]

    @torch.no_grad()
    def logits(self, doc: Doc, spans: Sequence[Span]) -> Tensor:
        """Logits *(n_spans, n_labels)*; errors as `LukePairs.logits`."""
        if not spans:
            return torch.zeros(0, len(self.labels))
        texts = [marked(self.reader, doc, [span], MARKS[:1], MASKS[:1]) for span in spans]
        return self.reader.run(texts, lambda *pack: self.head(self.reader.states(*pack))).cpu()


class LukeEntities(_LukeTask):
    """Entities of LUKE's own vocabulary that spans stand for; all spans are in one pass (LukeForMaskedLM).

    Of titles that share a row, as an entity's in several languages do, the first in the file of the vocabulary is given.
    """

    head: LukeVocabulary

    def __call__(self, doc: Doc, spans: Sequence[Span], n: int = 5) -> list[list[tuple[str, float]]]:
        """Of each span the `n` most probable titles with their probabilities."""
        best = self.logits(doc, spans).softmax(dim=1).topk(min(n, len(self.labels)), dim=1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(self.labels[title], value) for title, value in zip(*row, strict=True)] for row in rows]

    @torch.no_grad()
    def logits(self, doc: Doc, spans: Sequence[Span]) -> Tensor:
        """Logits *(n_spans, n_titles)*; errors as `LukePairs.logits`."""
        if not spans:
            return torch.zeros(0, len(self.labels))
        ids, places = self.reader.pieces(doc.text, characters_of(doc, spans))
        rows, texts = in_windows(self.reader, ids, places, len(spans))
        embedding = self.reader.encoder.get_parameter("entities.ids.weight")
        found = self.reader.run(texts, lambda *pack: self.head(self.reader.states(*pack), embedding)).cpu()
        return found[np.argsort(rows)]


Task = LukeSpans | LukePairs | LukeTypes | LukeEntities
_TASKS: dict[str, tuple[type[Any], type[Any]]] = {
    "LukeForEntitySpanClassification": (LukeSpans, LukeNER),
    "LukeForEntityPairClassification": (LukePairs, LukeRelations),
    "LukeForEntityClassification": (LukeTypes, LukeTyping),
    "LukeForMaskedLM": (LukeEntities, LukeVocabulary),
}


def load_luke(name: str, *, late: bool = False) -> Task:
    """Load a model of a LUKE task: encoder, tokenizer and head.

    Args:
        name: a folder that `transformers` or our pretraining saved (``OUTPUT/luke``), or a name on the Hub.
        late: entity tokens read the words and nothing sees them, so that all spans of a text go through one pass, however many;
            the published models were trained to see them.

    Returns:
        `LukeSpans`, `LukePairs`, `LukeTypes` or `LukeEntities`, whichever the model is for.

    Raises:
        CheckpointError: as `entitykit.bridge.checkpoints.load_checkpoint`; E003 for a model that is for none of these tasks.
    """
    import transformers  # slow to import, and only needed here

    folder = find_checkpoint(name)
    try:
        architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
        task = (architectures or ["none"])[0]
        if task not in _TASKS:
            raise error("E003", name=name, what="task", found=task, expected=", ".join(_TASKS))
        with quiet_transformers():
            tokenizer = load_fast_tokenizer(folder, "luke").backend_tokenizer.to_str()
            model, info = getattr(transformers, task).from_pretrained(folder, output_loading_info=True)
        config = model.config.to_dict() | luke_values(folder)
        return _make(name, task, model, config, set(info["missing_keys"]), tokenizer, _read_rows(folder, name), late=late)
    except EntityKitError:
        raise
    except Exception as reason:  # transformers, safetensors and tokenizers raise many kinds for damaged files
        raise error("E005", path=folder, reason=one_line(reason)) from reason


def _make(
    name: str,
    task: str,
    model: Any,
    config: dict[str, Any],
    missing: set[str],
    tokenizer: str,
    rows: dict[str, int],
    *,
    late: bool,
) -> Task:
    of_task = _TASKS[task]
    injection = Injection(inject_layer=0, words_see_entities=not late, entities_see_entities=not late)
    settings = settings_from_config(config, name=name, injection=injection)
    tensors = {key: tensor for key, tensor in model.state_dict().items() if key not in missing}
    weights, of_head = split_checkpoint(tensors, config, settings, name=name)
    encoder = TransformerEncoder(settings)
    encoder.load_state_dict(encoder.state_dict() | weights)
    device = get_torch_default_device()
    reader = LukeReader(name, encoder.to(device).eval(), tokenizer, rows)
    if of_task[0] is LukeEntities:
        titles = {row: title for title, row in reversed(rows.items())}  # the first of those that share a row stays
        labels = [titles.get(row, "") for row in range(config["entity_vocab_size"])]
        head: Any = load_entity_vocabulary(of_head, config, name=name)
    else:
        labels = [model.config.id2label[row] for row in range(model.config.num_labels)]
        head = load_classifier(of_task[1], of_head, config, name=name)
    made: Task = of_task[0](reader, head.to(device).eval(), labels)
    return made


def _read_rows(folder: Path, name: str) -> dict[str, int]:
    """Rows of the entity embedding by title.

    Raises:
        CheckpointError: E002 if the vocabulary is not there, or has no masks.
    """
    path = folder / ENTITY_VOCABULARY
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "[MASK]" not in rows:
        raise error("E002", name=name, file="entity [MASK]", expected=ENTITY_VOCABULARY)
    return dict(rows)
