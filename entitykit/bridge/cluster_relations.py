"""The architecture of relations between clusters of mentions."""

from __future__ import annotations

from entitykit.bridge.architectures import Head, Tok2Vec
from entitykit.bridge.head import TorchHead
from entitykit.errors import error
from entitykit.models.cluster_relations import build_cluster_relations
from entitykit.types import ENTITIES, TOP


def cluster_relations(
    tok2vec: Tok2Vec,
    size: int = 256,
    hidden: int = 384,
    product: int = 128,
    types: int = 25,
    nearest: bool = True,
    adaptive: bool = True,
    evidence: bool = False,
    evidence_weight: float = 1.0,
    dropout: float = 0.1,
    loss_weight: float = 1.0,
) -> Head:
    """Make the classifier of pairs, registered as ``entitykit.ClusterRelations.v1``; see `ClusterRelationsSettings`.

    Raises:
        ConfigError: E007 for a size that cannot be.
    """
    given = {**locals()}
    del given["tok2vec"]
    for setting, least in (("size", 1), ("hidden", 1), ("product", 0), ("types", 0), ("evidence_weight", 0)):
        if given[setting] < least:
            raise error("E007", setting=setting, found=given[setting], expected=f"at least {least}")
    model = TorchHead(tok2vec, build_cluster_relations, given, layers=[TOP, ENTITIES])
    model.attrs["clusters"] = True
    return model
