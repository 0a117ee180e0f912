"""Ways to damage a file. Each draws from a generator of its own: a name and a number say which damage it is."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[bytes, random.Random], bytes]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _flip(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def _flip_at_the_start(content: bytes, draw: random.Random) -> bytes:
    """Where headers and names are."""
    at = draw.randrange(min(400, len(content)))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def _zeroes(content: bytes, draw: random.Random) -> bytes:
    """As a lost block of a disk reads."""
    at = draw.randrange(len(content))
    return content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :]


def _repeated(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + content[max(0, at - 64) : at] * 2 + content[at:]


def _line_removed(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def _line_replaced(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    lines[draw.randrange(len(lines))] = draw.choice(
        [b"garbage\n", b"[1]\n", b"{}\n", b"null\n", b"\xff\xfe\n", b"\0\n"]
    )
    return b"".join(lines)


def _number_changed(content: bytes, draw: random.Random) -> bytes:
    """Any run of digits becomes an odd one."""
    digits = [at for at, byte in enumerate(content[:100_000]) if chr(byte).isdigit()]
    if not digits:
        return content + b"0"
    at = draw.choice(digits)
    odd = draw.choice([b"-1", b"0", b"1e999", b"NaN", b"null", b'"x"', b"9" * 400, b"9" * 5000, b"2147483648", b"[]"])
    return content[:at] + odd + content[at + 1 :]


BYTES: dict[str, Damage] = {
    "cut": _cut,
    "bit flipped": _flip,
    "bit flipped at the start": _flip_at_the_start,
    "block of zeroes": _zeroes,
    "repeated": _repeated,
    "line removed": _line_removed,
    "line replaced": _line_replaced,
    "number changed": _number_changed,
    "empty": lambda content, draw: b"",
    "one zero byte": lambda content, draw: b"\0",
    "noise": lambda content, draw: draw.randbytes(draw.choice([1, 7, 8, 9, 100, 5000])),
    "huge header": lambda content, draw: b"\xff" * 8 + content[8:],
    "nested lists": lambda content, draw: b"[" * 100_000,
    "nested mappings": lambda content, draw: b'{"a":' * 50_000,
    "a number": lambda content, draw: draw.choice([b"0", b"-1", b"1e999", b"9" * 5000, b"NaN"]),
    "null": lambda content, draw: b"null",
    "a text": lambda content, draw: b'"text"',
    "a list": lambda content, draw: b"[1, 2, {}]",
    "a mapping": lambda content, draw: b'{"a": {"b": [null]}}',
    "not UTF-8": lambda content, draw: b"\xff\xfe" + content,
    "twice": lambda content, draw: content + content,
    "with a long line": lambda content, draw: content + b"x" * 1_000_000,
}


def damaged(path: Path, how: str, seed: int) -> None:
    path.write_bytes(BYTES[how](path.read_bytes() or b"\n", random.Random(f"{path.name} {how} {seed}")))


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _to_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _to_device(path: Path) -> None:
    """One that never ends."""
    path.unlink()
    path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path], None]] = {
    "absent": Path.unlink,
    "a folder": _to_folder,
    "a link to nothing": _to_link_to_nothing,
    "a link to itself": _to_link_to_itself,
    "a device": _to_device,
}
"""What stands at the path instead of a file."""


def swapped(path: Path, other: Path) -> None:
    """Another good file in its place."""
    shutil.copyfile(other, path)
