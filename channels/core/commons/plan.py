"""What the settings ask to have in common."""

from __future__ import annotations

from channels.core.commons import area, cache, queue, roster
from channels.core.commons.memory import Part
from channels.settings import Settings, cache_sizes

MULE_SLOTS = 1024  # messages that wait for a mule or a farm
MULE_BYTES = 65536  # each at most
CLOCK = "/clock"  # when timers and crons are due; a name that no setting can have
CLOCK_ENTRIES = 512


def parts(settings: Settings, slots: int) -> list[Part]:
    """In their order in the memfd; none when the uWSGI module is off."""
    if settings.no_uwsgi:
        return []
    found = [roster.part(slots), cache.part(CLOCK, CLOCK_ENTRIES, 64)]
    found += [cache.part(*cache_sizes(text)) for text in settings.uwsgi_cache]
    if settings.uwsgi_queue:
        found.append(queue.part("", settings.uwsgi_queue, settings.uwsgi_queue_blocksize))
    found += [area.part(str(number), size) for number, size in enumerate(map(int, settings.uwsgi_sharedarea))]
    if settings.uwsgi_mules:
        names = ["/mules", *(f"/mule{number + 1}" for number in range(settings.uwsgi_mules))]
        names += [f"/farm:{text.partition(':')[0]}" for text in settings.uwsgi_farms]
        found += [queue.part(name, MULE_SLOTS, MULE_BYTES) for name in names]
    return found
