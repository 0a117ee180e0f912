"""Values from outside that can be neither stored nor shown: texts that are not Unicode, and numbers without end.

A leaf, as `errors` is: every package may import it.
"""

from typing import Any

LARGEST = 2**1023
"""Of whole numbers: above it they have no float, and Python refuses to print them."""


def refuse_odd_values(value: Any, where: str = "") -> None:
    """Refuse a text that is no name of a file, and a number that is no size of anything.

    Raises:
        ValueError: it is one of these.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_odd_values(key, where)
            refuse_odd_values(item, f"{where}{key}.")
    elif isinstance(value, list | tuple | set):
        for item in value:
            refuse_odd_values(item, where)
    elif isinstance(value, str) and not is_text(value):
        raise ValueError(f"{where.rstrip('.')} holds bytes that are not UTF-8, or a zero byte")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{where.rstrip('.')} is a number of over 300 digits")


def is_text(value: str) -> bool:
    """Whether a text can stand in a file and name one.

    Python holds bytes of a command line that are not UTF-8 as halves of characters.
    """
    return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
