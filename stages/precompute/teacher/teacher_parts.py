"""What was found of a teacher that is no CLIP, before it is opened."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FoundParts:
    """Where a teacher lies, and hashes of all that its tokens follow from."""

    place: Path
    """Its file or folder."""
    name: str
    """What it is called: names its stores."""
    width: int
    """Numbers D of a token."""
    description_hash: str
    """Of what says how tokens are made."""
    weights_hash: str
    """Of the fingerprint that it declares."""
    text_hash: str | None = None
    """Of stored text embeddings."""
