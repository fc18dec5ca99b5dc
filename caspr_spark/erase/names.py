"""Whether some bytes, text or value name one of some customers."""

import re
from collections.abc import Iterable

from caspr_spark.tombstones import SHORT_NUMBER, TOKEN

_RAW_LENGTH = 6
"""An id of so many characters does not stand among arbitrary bytes by chance."""
_WORDS = re.compile(TOKEN)
_PLAIN_WORDS = re.compile(r"\w+")
_WHERE_CUSTOMERS_STAND = re.compile(rf"customer_id\W+({TOKEN})")
_DATA_URI = re.compile(r"base64,[A-Za-z0-9+/=]+")


class Names:
    """The ids of some customers, to look for.

    Whole words are compared, so that `c1` is not found in `c12`; an id that is no single word, or has
    at least 6 characters, is found anywhere. A number of fewer than 6 digits stands for anything, and is looked for
    only in columns and fields called customer_id.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = frozenset(ids)
        self._telling = frozenset(name for name in self._ids if not re.fullmatch(SHORT_NUMBER, name))
        self._anywhere = [name for name in self._telling if len(name) >= _RAW_LENGTH or not _WORDS.fullmatch(name)]
        self._as_bytes = [name.encode() for name in self._telling if len(name.encode()) >= _RAW_LENGTH]
        self.longest = max((len(name.encode()) for name in self._ids), default=0)

    def __len__(self) -> int:
        return len(self._ids)

    def are_among(self, customers: Iterable[str]) -> bool:
        """True if a column of customers has one of the ids."""
        return not self._ids.isdisjoint(customers)

    def are_in_text(self, text: str) -> bool:
        """True if a text names one of the ids."""
        if any(name in text for name in self._anywhere):
            return True
        if not self._telling.isdisjoint(_WORDS.findall(_DATA_URI.sub("", text))):
            return True
        return "customer_id" in text and not self._ids.isdisjoint(_WHERE_CUSTOMERS_STAND.findall(text))

    def are_in_bytes(self, data: bytes) -> bool:
        """True if one of the longer ids stands anywhere among the bytes."""
        return any(name in data for name in self._as_bytes)

    def hidden(self, text: str) -> str:
        """The text with every id that it names replaced, so that it can be shown."""
        for name in sorted(self._anywhere, key=len, reverse=True):
            text = text.replace(name, "…")
        for words in (_WORDS, _PLAIN_WORDS):
            text = words.sub(lambda word: "…" if word.group() in self._ids else word.group(), text)
        return text
