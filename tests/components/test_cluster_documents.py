"""By which id a store knows a document, and when it has changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from entitykit.components.cluster_documents import given_id, named
from entitykit.components.cross_document import gold_mentions
from entitykit.knowledge.cluster_store import ClusterStore
from entitykit.knowledge.files import locked
from tests.components.test_cross_document import GROUP, ByVectors, document


@pytest.mark.parametrize(("given", "expected"), [(0, "0"), (7, "7"), ("x", "x"), ("", ""), (None, ""), (False, "False")])
def test_ids_that_are_given(given: Any, expected: str) -> None:
    """0 is one."""
    doc = document("name", [1])
    doc.user_data["id"] = given
    assert given_id(doc) == expected
    gold = Doc(doc.vocab, words=[token.text for token in doc])
    gold.user_data["id"] = given
    gold.spans["coref_clusters_1"] = [gold[0:1]]
    assert gold_mentions(Example(doc, gold)) == {(0, 1): f"{expected or doc.text}/0"}


def test_a_document_with_the_id_0_is_replaced(tmp_path: Path) -> None:
    pipe, docs = ByVectors(), [document(f"d{i}", [i]) for i in range(3)]
    for i, doc in enumerate(docs):
        doc.user_data["id"] = i
    with pipe.open_store(tmp_path, docs) as store:
        pipe.add_to(store, docs)
        changed = document("other words", [3])
        changed.user_data["id"] = 0
        assert pipe.add_to(store, [changed]).replaced == 1
        assert sorted(mention["document"] for cluster in store.export() for mention in cluster["mentions"]) == ["0", "1", "2"]


@pytest.mark.parametrize("id_", [None, "name"])
def test_other_mentions_take_the_place_of_earlier_ones(tmp_path: Path, id_: str | None) -> None:
    """Those in other places, and those with other labels; without an id, a document is known by its text."""
    pipe, found = ByVectors(), []
    with pipe.open_store(tmp_path, [document("d", [0, 1])]) as store:
        for labels in (["A", "B"], ["A"], ["C"]):
            doc = document("d", [0, 1])
            doc.user_data["id"] = id_
            attrs = dict(doc.spans[GROUP].attrs)
            attrs["vectors"] = attrs["vectors"][: len(labels) * 4 * attrs["size"]]
            spans = [Span(doc, i, i + 1, label=label) for i, label in enumerate(labels)]
            doc.spans[GROUP] = SpanGroup(doc, name=GROUP, spans=spans, attrs=attrs)
            report = pipe.add_to(store, [doc])
            assert (report.unchanged, report.replaced, report.mentions) == (0, int(bool(found)), len(labels))
            assert pipe.add_to(store, [doc]).unchanged == 1
            found.append(named(doc, GROUP))
            assert store.n_documents == 1
            assert [mention["label"] for cluster in store.export() for mention in cluster["mentions"]] == labels
    assert len({name for name, _ in found}) == 1
    assert len({digest for _, digest in found}) == 3


def test_two_who_begin_the_same_store_at_once(tmp_path: Path) -> None:
    """Both wait for a third one; then one makes it, and the other opens it."""

    def add(name: str) -> int:
        pipe, doc = ByVectors(), document(name, [1])
        with pipe.open_store(tmp_path, [doc]) as store:
            return pipe.add_to(store, [doc]).mentions

    with ThreadPoolExecutor(2) as pool:
        with locked(tmp_path):
            both = [pool.submit(add, name) for name in "ab"]
            time.sleep(0.5)  # until both have seen that there is none
        assert [each.result() for each in both] == [1, 1]
    with ClusterStore.open(tmp_path, read_only=True) as store:
        assert store.n_documents == 2


def test_ids_are_those_of_the_change(tmp_path: Path) -> None:
    """And not of what somebody else does right after it."""
    pipe, doc, other = ByVectors(), document("a", [1]), document("b", [2])

    class Busy(ClusterStore):
        """Between two transactions somebody takes the document away."""

        @contextmanager
        def changing(self) -> Iterator[None]:
            with super().changing():
                yield
            with ClusterStore.open(tmp_path) as another, another.changing():
                another.remove(["a"])

        @contextmanager
        def reading(self) -> Iterator[None]:
            with super().reading():
                super().digests([])  # from here on it sees this state
                yield

        def digests(self, ids: Sequence[str]) -> dict[str, str]:
            found = super().digests(ids)
            if not self._changing:
                with ClusterStore.open(tmp_path) as another, another.changing():
                    another.remove(["a"])
            return found

    pipe.open_store(tmp_path, [doc]).close()
    with Busy(tmp_path) as store:
        pipe.add_to(store, [doc])
        assert doc.spans[GROUP][0].id_ == "C1"
        assert store.n_documents == 0
        with ClusterStore.open(tmp_path) as another:
            pipe.add_to(another, [doc, other])
        pipe.ids_from(store, [doc, other])
        assert [span.id_ for each in (doc, other) for span in each.spans[GROUP]] == ["C2", "C3"]
        assert store.n_documents == 1
