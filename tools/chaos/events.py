"""Events of a disturbed run: their kinds, and which come in which phase."""

import random
from dataclasses import dataclass

KILLED_ONE, KILLED_ALL, KILLED_LAUNCHER = "kill a rank", "kill all ranks", "kill the launcher"
FLIP, TEAR, DELETE, UNLIST = "flip a bit", "tear a file", "delete a file", "delete the manifest"
FULL = "full disk"
DAMAGES = (FLIP, TEAR, DELETE, UNLIST)


@dataclass(frozen=True)
class Event:
    what: str
    moment: str = ""
    """Of a start: "starting", "training" or "saving"."""


UNDISTURBED = Event("undisturbed")


def plan(kills: int, with_disk: bool, dice: random.Random) -> list[list[Event]]:
    """Plan the events of each phase, about five kills in one."""
    who = (KILLED_ONE, KILLED_ALL, KILLED_LAUNCHER)
    when = ("saving", "training", "saving", "saving", "starting")
    events = [Event(who[i % len(who)], when[i % len(when)]) for i in range(kills)]
    events += [Event(FULL, "training")] * max(1, kills // 10) * with_disk
    events += [Event(damage) for damage in DAMAGES for _ in range(max(1, kills // 8))]
    dice.shuffle(events)
    phases = max(2, kills // 5)
    return [events[number::phases] for number in range(phases)]


def worlds(phases: int) -> list[int]:
    return [(2, 1, 2, 3)[number % 4] for number in range(phases)]
