"""What each worker tells the others about itself: a row of JSON per slot, valid while its generation lives."""

from __future__ import annotations

import json
import struct
from typing import Any

from channels.core.commons.memory import Commons, Part
from channels.core.commons.region import DATA_AT

ROW_BYTES = 16384

_ROW = struct.Struct("<QQ")  # generation, bytes of JSON
_HEAD_BYTES = 64  # the first word: how often any row has changed


def part(slots: int) -> Part:
    return Part("roster", "", (slots,), DATA_AT + _HEAD_BYTES + slots * ROW_BYTES)


class Roster:
    """Rows by slot; whoever reads knows which generations live."""

    def __init__(self, commons: Commons) -> None:
        (self.slots,) = commons.parts["roster", ""].sizes
        self.region = commons.regions["roster", ""]

    def version(self) -> int:
        """Differs when a row has changed."""
        return self.region.word(0)

    def write(self, slot: int, generation: int, facts: dict[str, Any]) -> None:
        """Raises ValueError: more than a row holds."""
        text = json.dumps(facts, separators=(",", ":")).encode()
        if len(text) > ROW_BYTES - _ROW.size:
            raise ValueError(f"a worker can tell the others {ROW_BYTES - _ROW.size} bytes, not {len(text)}")
        at = self._at(slot)
        with self.region.section():
            _ROW.pack_into(self.region.data, at, 0, 0)  # nothing, rather than half of two
            self.region.data[at + _ROW.size : at + _ROW.size + len(text)] = text
            self.region.put_word(0, self.region.word(0) + 1)
            _ROW.pack_into(self.region.data, at, generation, len(text))

    def read(self, slot: int, generation: int) -> dict[str, Any] | None:
        """None: that worker has said nothing."""
        at = self._at(slot)
        with self.region.section():
            written, size = self.region.get(_ROW, at)
            text = bytes(self.region.data[at + _ROW.size : at + _ROW.size + min(size, ROW_BYTES - _ROW.size)])
        if written != generation:
            return None
        try:
            facts = json.loads(text)
        except ValueError:
            return None
        return facts if isinstance(facts, dict) else None

    def _at(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise IndexError(slot)
        return _HEAD_BYTES + slot * ROW_BYTES
