"""Product ids from names that people gave."""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_CHARS = 128


def slugify(text: str) -> str:
    """A valid product id, [a-z0-9][a-z0-9._-]{0,127}, as near to the text as can be.

    A text without a Latin letter or digit becomes `item-` and 8 digits of its hash.
    """
    plain = unicodedata.normalize("NFKD", text.casefold().replace("’", "").replace("'", ""))
    ascii_only = plain.encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9._]+", "-", ascii_only).strip("-._")
    return slug[:MAX_CHARS] or f"item-{digest(text)}"


def with_suffix(slug: str, text: str) -> str:
    """The slug made different from others of its name by 8 digits of the hash of `text`."""
    return f"{slug[: MAX_CHARS - 9]}-{digest(text)}"


def digest(text: str) -> str:
    """8 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
