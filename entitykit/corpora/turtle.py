"""Read Turtle, the RDF syntax that NIF corpora are written in, as triples with their lines.

This is a parser of its own, of the whole grammar (W3C Recommendation RDF 1.1 Turtle, 25 February 2014), and not rdflib, because
a corpus reader needs what a graph does not keep: the line of every statement, for messages, and the order of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

from entitykit.corpora.files import read_text
from entitykit.errors import error

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XSD = "http://www.w3.org/2001/XMLSchema#"

_LOCAL = r"(?:[\w:]|%[0-9A-Fa-f]{2}|\\[_~.\-!$&'()*+,;=/?#@%])"
TOKEN = re.compile(
    rf"""(?P<space>[ \t\r\n]+|\#[^\r\n]*)
    |(?P<iri><(?:[^\x00-\x20<>"{{}}|^`\\]|\\u[0-9A-Fa-f]{{4}}|\\U[0-9A-Fa-f]{{8}})*>)
    |(?P<long>\"\"\"(?:\"{{0,2}}(?:[^"\\]|\\.))*\"\"\"|'''(?:'{{0,2}}(?:[^'\\]|\\.))*''')
    |(?P<short>"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*')
    |(?P<at>@[A-Za-z]+(?:-[A-Za-z0-9]+)*)
    |(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+|\.[0-9]+[eE][+-]?[0-9]+|[0-9]*\.[0-9]+|[0-9]+))
    |(?P<blank>_:\w(?:[\w.-]*[\w-])?)
    |(?P<name>(?:[^\W\d_](?:[\w.-]*[\w-])?)?:(?:{_LOCAL}(?:(?:{_LOCAL}|[.-])*(?:{_LOCAL}|-))?)?)
    |(?P<word>[A-Za-z]+)
    |(?P<mark>\^\^|[][().;,])""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class Triple(NamedTuple):
    """A statement.

    Attributes:
        subject: an absolute address, or a blank node `_:…`.
        predicate: an absolute address.
        object: an absolute address, a blank node, or the text of a literal.
        datatype: of a literal, `@` and the language if it has one; empty if the object is no literal.
        line: of the object, from 1.
    """

    subject: str
    predicate: str
    object: str
    datatype: str
    line: int


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


class _Term(NamedTuple):
    value: str
    datatype: str
    line: int


def read_triples(path: Path) -> Iterator[Triple]:
    """Read the statements of a Turtle file in their order.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E238 if the file cannot be read, E243 for what is no Turtle.
    """
    return _Parser(read_text(path), path).statements()


class _Parser:
    """A recursive descent parser; the names of its methods are those of the grammar's productions."""

    def __init__(self, text: str, path: Path) -> None:
        self.text = text
        self.path = path
        self.prefixes: dict[str, str] = {}
        self.base = ""
        self.n_blank = 0
        self.triples: list[Triple] = []
        self.counted = (0, 1)  # a position, and its line
        self.tokens = self._tokens()
        self.token = next(self.tokens)

    def statements(self) -> Iterator[Triple]:
        while self.token.kind != "end":
            try:
                self._statement()
            except RecursionError as problem:
                raise self._error("less deep nesting") from problem
            yield from self.triples
            self.triples.clear()

    def _tokens(self) -> Iterator[_Token]:
        position = 0
        while position < len(self.text):
            match = TOKEN.match(self.text, position)
            if match is None:
                self.token = _Token("other", self.text[position : position + 20], position)
                raise self._error("a term or a mark of Turtle")
            position = match.end()
            if match.lastgroup != "space":
                yield _Token(str(match.lastgroup), match[0], match.start())
        yield _Token("end", "the end of the file", position)

    def _line(self) -> int:
        position, line = self.counted
        line += self.text.count("\n", position, self.token.position)
        self.counted = (self.token.position, line)
        return line

    def _error(self, expected: str) -> Exception:
        return error("E243", where=f"{self.path}, line {self._line()}", found=self.token.text[:60], expected=expected)

    def _take(self, *texts: str) -> str:
        """Give the token's text and go on to the next; if texts are given it must be one of them."""
        if texts and self.token.text not in texts:
            raise self._error(" or ".join(texts))
        text = self.token.text
        if self.token.kind != "end":
            self.token = next(self.tokens)
        return text

    def _statement(self) -> None:
        word = self.token.text.lower() if self.token.kind in ("at", "word") else ""
        if word not in ("@prefix", "@base", "prefix", "base"):
            is_list = self.token.text == "["
            subject = self._term("a subject")
            if subject.datatype:
                raise self._error("a subject before it that is no literal")
            if not (is_list and self.token.text == "."):
                self._predicates(subject.value)
            self._take(".")
            return
        self._take()
        if word.endswith("prefix"):
            if self.token.kind != "name" or not self.token.text.endswith(":"):
                raise self._error("a prefix with a colon")
            prefix = self._take().removesuffix(":")
        if self.token.kind != "iri":
            raise self._error("an address in < >")
        address = self._iri(self._take())
        if word.endswith("prefix"):
            self.prefixes[prefix] = address
        else:
            self.base = address
        if word.startswith("@"):
            self._take(".")

    def _predicates(self, subject: str) -> None:
        while True:
            if self.token.text == "a" and self.token.kind == "word":
                self._take()
                predicate = f"{RDF}type"
            elif self.token.kind in ("iri", "name"):
                predicate = self._term("a predicate").value
            else:
                raise self._error("a predicate")
            self._object(subject, predicate)
            while self.token.text == ",":
                self._take()
                self._object(subject, predicate)
            if self.token.text != ";":
                return
            while self.token.text == ";":
                self._take()
            if self.token.text in (".", "]"):
                return

    def _object(self, subject: str, predicate: str) -> None:
        term = self._term("an object")
        self.triples.append(Triple(subject, predicate, *term))

    def _term(self, expected: str) -> _Term:
        kind, line = self.token.kind, self._line()
        if kind in ("long", "short"):
            return self._literal(line)
        if kind == "iri":
            return _Term(self._iri(self._take()), "", line)
        if kind == "name":
            return _Term(self._expand(), "", line)
        if kind == "blank":
            return _Term(self._take(), "", line)
        if kind == "number":
            text = self._take()
            name = "double" if "e" in text.lower() else "decimal" if "." in text else "integer"
            return _Term(text, f"{XSD}{name}", line)
        if kind == "word" and self.token.text in ("true", "false"):
            return _Term(self._take(), f"{XSD}boolean", line)
        if self.token.text == "[" and kind == "mark":
            return self._properties(line)
        if self.token.text == "(" and kind == "mark":
            return self._collection(line)
        raise self._error(expected)

    def _properties(self, line: int) -> _Term:
        self._take("[")
        node = self._blank()
        if self.token.text != "]":
            self._predicates(node)
        self._take("]")
        return _Term(node, "", line)

    def _collection(self, line: int) -> _Term:
        self._take("(")
        terms = []
        while self.token.text != ")" or self.token.kind != "mark":
            terms.append(self._term("an object or )"))
        self._take(")")
        rest = f"{RDF}nil"
        for term in reversed(terms):
            node = self._blank()
            self.triples += [Triple(node, f"{RDF}first", *term), Triple(node, f"{RDF}rest", rest, "", line)]
            rest = node
        return _Term(rest, "", line)

    def _literal(self, line: int) -> _Term:
        width = 3 if self.token.kind == "long" else 1
        raw = self.token.text[width:-width]
        value = self._unescape(raw)
        self._take()
        if self.token.kind == "at":
            return _Term(value, self._take(), line)
        if self.token.text != "^^":
            return _Term(value, f"{XSD}string", line)
        self._take()
        if self.token.kind not in ("iri", "name"):
            raise self._error("a datatype")
        return _Term(value, self._term("a datatype").value, line)

    def _expand(self) -> str:
        prefix, _, local = self.token.text.partition(":")
        if prefix not in self.prefixes:
            raise self._error(f"a prefix that is declared: {', '.join(map(repr, self.prefixes)) or 'none is'}")
        self._take()
        return self.prefixes[prefix] + re.sub(r"\\(.)", r"\1", local)

    def _iri(self, text: str) -> str:
        address = self._unescape(text[1:-1])
        return address if SCHEME.match(address) else urljoin(self.base, address) if address else self.base

    def _unescape(self, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            code = match[1] or match[2]
            if code is None and match[3] in ESCAPED:
                return ESCAPED[match[3]]
            if code is None or int(code, 16) > 0x10FFFF:
                raise self._error(f"no {match[0]} in it")
            return chr(int(code, 16))

        return ESCAPE.sub(replace, text) if "\\" in text else text

    def _blank(self) -> str:
        self.n_blank += 1
        return f"_:[{self.n_blank}]"  # brackets: no label of the file has them
