"""JSON documents with a seal (a hash of their content) and, if DSC_ARTIFACT_KEY is set, a signature."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter

from storage.authorship import Place
from storage.foreign import parse_json
from storage.schema import ArtifactError, content_hash, one_line

Document = dict[str, Any]
"""JSON values: text, finite numbers, booleans, None, lists and dicts with text keys."""

Kind = TypeVar("Kind")

_SHAPES: dict[type[Any], TypeAdapter[Any]] = {}


def sealed(document: Mapping[str, Any], market: str, place: Place) -> bytes:
    """Return the document, plain JSON, with a seal: the hash of its content.

    If there is a key of `place`, where the document will be stored, it signs the seal and the market's folder too.

    Raises:
        ArtifactError: It contains a value that JSON can't represent, such as NaN.
    """
    try:
        plain = json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError) as err:
        raise ArtifactError(f"manifest and evidence must be plain JSON without NaN or infinity ({err})") from err
    seal = _digest(plain)
    signed = place.signature(content_hash([market.encode(), seal.encode()]))
    return json.dumps({**plain, "seal": seal, **({"signature": signed} if signed else {})}, indent=2).encode()


def unsealed(content: bytes, what: str, market: str, place: Place) -> Document:
    """Return the document with its seal, after checking the seal (damage, edits) and the signature (other writers).

    Raises:
        ArtifactError: It is damaged, edited, or not signed with the key of `place`.
    """
    try:
        document: Document = parse_json(content)
        seal, signed = document.pop("seal"), document.pop("signature", "")
        digest = _digest(document)
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as err:
        raise ArtifactError(f"{what} is not a sealed JSON document ({one_line(err)}); roll back or retrain") from err
    if seal != digest:
        raise ArtifactError(f"{what} does not match its seal: damaged or edited; roll back or retrain")
    if not place.is_ours(signed, content_hash([market.encode(), digest.encode()])):
        raise ArtifactError(f"{what} was not written with this DSC_ARTIFACT_KEY; retrain, or set the key that wrote it")
    return {**document, "seal": seal}


def shape_of(kind: type[Kind]) -> TypeAdapter[Kind]:
    """Return the shape of a class's documents, made once: that of a recipe takes 10 ms."""
    return _SHAPES.get(kind) or _SHAPES.setdefault(kind, TypeAdapter(kind))


def require_shape(shape: TypeAdapter[Any], document: Document, what: str) -> None:
    """Raise ArtifactError if a document does not have the fields and types that this program writes."""
    try:
        shape.validate_python(document)
    except ValueError as err:
        raise ArtifactError(f"{what} is not as this program writes it ({one_line(err)}); roll back or retrain") from err


def _digest(document: Document) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
