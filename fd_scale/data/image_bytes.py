"""What `pack` and `verify` ask of an image's bytes: whether they decode, and the same picture smaller.

Shrinking changes the size and nothing else: grey stays grey, alpha, CMYK and 16 bits stay for the reader, whose rules
say how they become RGB.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator

from PIL import Image

# Of the many formats that Pillow opens, by content and whatever the name says. Never EPS: for that it starts
# Ghostscript, a program, on the bytes it was given.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
LARGEST = 256 * 2**20  # bytes of one encoded image
JPEG_QUALITY = 95
JPEG_MODES = ("L", "RGB", "CMYK")
PNG_MODES = ("LA", "RGBA", "I;16")


class BadImage(Exception):
    """Why bytes are not an image that can be used; one short line."""

    verb = "does not decode"

    def __init__(self, reason: str):
        printable = "".join(letter if letter.isprintable() else " " for letter in reason)
        super().__init__(" ".join(printable.split()))


class Unreadable(BadImage):
    """Why there are no bytes."""

    verb = "cannot be read"


def check_decodes(content: bytes) -> str:
    """Decode all of it.

    Returns:
        The format, as Pillow names it.

    Raises:
        BadImage: it does not decode.
    """
    with _opened(content) as image:
        # An eighth of the scale still reads the whole JPEG stream, so a truncated file shows, at a fraction of the
        # time.
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return str(image.format)


def shrink(content: bytes, short_side: int) -> tuple[bytes, str] | None:
    """The picture with a short side of `short_side` pixels, antialiased (Lanczos).

    JPEG of quality 95 where JPEG can hold it, else PNG. EXIF (with its orientation) and colour profile are kept.

    Returns:
        (bytes, extension), or None where the image stays as it is: not larger than that, or of a mode, such as Lab or
        floating point, that neither holds.

    Raises:
        BadImage: it does not decode.
    """
    with _opened(content) as image:
        width, height = image.size
        if min(width, height) <= short_side:
            return None
        scale = short_side / min(width, height)
        size = max(short_side, round(width * scale)), max(short_side, round(height * scale))
        image.draft(None, (3 * size[0], 3 * size[1]))  # of a JPEG, no more than three times what is needed
        if image.mode == "1":
            image = image.convert("L")
        elif image.mode in ("P", "PA"):
            image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
        if image.mode not in JPEG_MODES + PNG_MODES:
            return None
        kept = {name: image.info[name] for name in ("exif", "icc_profile") if image.info.get(name)}
        smaller = image.resize(size, Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        if smaller.mode in JPEG_MODES:
            smaller.save(encoded, "JPEG", quality=JPEG_QUALITY, **kept)
            return encoded.getvalue(), "jpg"
        smaller.save(encoded, "PNG", **kept)
        return encoded.getvalue(), "png"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, which every process would repeat for every such image: a large one, an odd EXIF, a
    palette with transparency. None is a reason to leave an image out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    if not content:
        raise BadImage("empty")
    with quiet():
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                yield image
        except Image.UnidentifiedImageError:
            raise BadImage("not an image") from None
        # Decoders raise whatever comes up on bytes made to hurt, from struct.error to MemoryError; all of it says
        # the same about the image.
        except Exception as error:
            raise BadImage(str(error) or type(error).__name__) from None
