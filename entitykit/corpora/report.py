"""Count what was read and everything that had to be changed or left out on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from entitykit.corpora.parsed import Problem
from entitykit.errors import warn

ROWS = {
    "files": "files",
    "documents": "documents",
    "tokens": "tokens",
    "entities": "entities",
    "not_flat": "entities not in doc.ents (nested or overlapping)",
    "linked": "entities with a link",
    "nil": "entities linked to NIL",
    "unmapped": "links without an id, read as NIL",
    "unnamed": "relations without a name, read by their ids",
    "duplicates": "entities given twice, kept once",
    "expanded": "spans expanded to whole tokens",
    "trimmed": "spans trimmed of white space",
    "dropped": "spans dropped, on no token",
    "discontinuous": "discontinuous entities, read with their gaps",
    "rewritten": "multi-word tokens written as their words",
    "repaired": "tags repaired",
    "skipped": "documents skipped",
    "not_selected": "documents not selected",
}


@dataclass
class Report:
    """Counts over the files of a corpus, complete once its documents have been read to the end.

    Attributes:
        files: files read.
        documents: documents read.
        tokens: their tokens.
        entities: their entities, nested ones included.
        not_flat: entities that are in `doc.spans["sc"]` and not in `doc.ents`.
        linked: entities with an id of a knowledge base.
        nil: entities that are in no knowledge base.
        unmapped: links that have no id of the kind that was asked for, read as NIL; some may be in groups other than the
            entities.
        unnamed: relations whose property the file of names does not have; their label is the property.
        duplicates: entities with the offsets, label and link of another one; one of them is kept.
        expanded: spans whose ends lay inside tokens, expanded to whole tokens.
        trimmed: spans that lost white space at an end, or what lay outside the text.
        dropped: spans that hold no visible character and were left out.
        discontinuous: entities in several pieces, read as one span from the first to the last.
        rewritten: multi-word tokens whose words do not spell them (`du` = `de le`): the text has the words.
        repaired: tags that the scheme forbids at their place, read as conlleval does.
        skipped: documents that cannot be used.
        not_selected: documents that were not asked for.
        labels: entities per label.
        examples: the first case of each kind of problem.
    """

    files: int = 0
    documents: int = 0
    tokens: int = 0
    entities: int = 0
    not_flat: int = 0
    linked: int = 0
    nil: int = 0
    unmapped: int = 0
    unnamed: int = 0
    duplicates: int = 0
    expanded: int = 0
    trimmed: int = 0
    dropped: int = 0
    discontinuous: int = 0
    rewritten: int = 0
    repaired: int = 0
    skipped: int = 0
    not_selected: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, problem: Problem, example: str) -> None:
        """Count a problem and keep its first example.

        Args:
            problem: the name of the count.
            example: where it was and what it is.
        """
        setattr(self, problem, getattr(self, problem) + 1)
        self.examples.setdefault(problem, example)

    def add(self, other: Report) -> None:
        """Add another report's counts to this one."""
        for name in ROWS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.labels.update(other.labels)
        self.examples = other.examples | self.examples

    def rows(self) -> Sequence[tuple[str, int]]:
        """Give the table to show: documents, tokens and entities, each label, and every other count that is not zero."""
        shown = {"files", "documents", "tokens", "entities"}
        counts = [(text, getattr(self, name)) for name, text in ROWS.items() if name in shown or getattr(self, name)]
        return [*counts, *((f"label {label}", n) for label, n in self.labels.most_common())]

    def warn(self, path: Path | str) -> None:
        """Sum up in warnings what was changed.

        W201 is for offsets, W202 for tags, W203 for discontinuous entities, W204 for multi-word tokens, W207 for links and W208
        for properties.

        Args:
            path: the file that was read.
        """
        if self.expanded or self.trimmed or self.dropped:
            first = next(self.examples[name] for name in ("expanded", "dropped", "trimmed") if name in self.examples)
            warn("W201", path=path, expanded=self.expanded, trimmed=self.trimmed, dropped=self.dropped, first=first)
        if self.repaired:
            warn("W202", path=path, n=self.repaired, first=self.examples["repaired"])
        if self.discontinuous:
            warn("W203", path=path, n=self.discontinuous, first=self.examples["discontinuous"])
        if self.rewritten:
            warn("W204", path=path, n=self.rewritten, first=self.examples["rewritten"])
        if self.unmapped:
            warn("W207", path=path, n=self.unmapped, first=self.examples["unmapped"])
        if self.unnamed:
            warn("W208", path=path, n=self.unnamed, first=self.examples["unnamed"])
