"""An EventSource's parser, written from the text of the WHATWG HTML living standard, section 9.2.6."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator


@dataclasses.dataclass
class Parsed:
    type: str
    data: str
    id: str


class Parser:
    """Feed it bytes; it keeps the last id, the retry time and the comments seen."""

    def __init__(self) -> None:
        self.rest = ""
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._type = ""
        self._data = ""

    def feed(self, chunk: bytes) -> Iterator[Parsed]:
        self.rest += chunk.decode("utf-8", "replace")
        while (found := re.search("\r\n|\n|\r", self.rest)) is not None:
            line, self.rest = self.rest[: found.start()], self.rest[found.end() :]
            if not line:
                if self._data:
                    yield Parsed(self._type or "message", self._data[:-1], self.last_id)
                self._type = self._data = ""
            elif line.startswith(":"):
                self.comments += 1
            else:
                field, _, value = line.partition(":")
                self._field(field, value[1:] if value.startswith(" ") else value)

    def _field(self, field: str, value: str) -> None:
        if field == "event":
            self._type = value
        elif field == "data":
            self._data += value + "\n"
        elif field == "id" and "\0" not in value:
            self.last_id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
