"""Seeds by name: each random decision gets a seed hashed from what it belongs to.

Nothing depends on the order in which things ran, so a resumed run draws what an uninterrupted one draws.
"""

import hashlib


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from the names of a decision, e.g. derive_seed(spec.seed, "fold", 2, "epoch", 5)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
