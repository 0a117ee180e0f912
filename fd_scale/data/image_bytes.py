"""Work on an image's bytes: whether they decode, how they become RGB, and the same picture smaller.

`pack`, `verify`, training and evaluation open images here, so that none takes what another refuses. What is converted,
as the published loader (PIL's `convert("RGB")`) does: grey is repeated, CMYK is converted without a colour profile, a
palette is looked up, alpha is dropped, the orientation of the camera is ignored. Where that loader spoils the image, it
is not followed: 16 bits a channel are scaled to 8, not cut off, and what has no agreed range is refused.

Shrinking changes the size and nothing else: grey stays grey, alpha, CMYK and 16 bits stay for the reader.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image

# Of the many formats that Pillow opens, by content and whatever the name says. Never EPS: for that it starts
# Ghostscript, a program, on the bytes it was given.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
LARGEST = 256 * 2**20  # bytes of one encoded image
MAX_PIXELS = 100_000_000  # of one image
JPEG_QUALITY = 95
JPEG_MODES = ("L", "RGB", "CMYK")
PNG_MODES = ("LA", "RGBA", "I;16")


class BadImage(Exception):
    """Error that says in one short line why bytes are not an image that can be used."""

    verb = "does not decode"

    def __init__(self, reason: str):
        printable = "".join(letter if letter.isprintable() else " " for letter in reason)
        super().__init__(" ".join(printable.split()))


class Unreadable(BadImage):
    """Error that says why there are no bytes."""

    verb = "cannot be read"


class Huge(BadImage):
    """Error of an image of more than MAX_PIXELS."""


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image without decoding it yet. Whatever goes wrong with it inside the context says that it is bad.

    Raises:
        BadImage: empty, no image of a known format, does not decode; Huge: more than MAX_PIXELS, unread.
    """
    if not content:
        raise BadImage("empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images, odd EXIF: not a reason to leave an image out, and not news
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Huge(f"{image.width} x {image.height} are more than {MAX_PIXELS} pixels")
                yield image
        except BadImage:
            raise
        except Image.UnidentifiedImageError:
            raise BadImage("not an image") from None
        except Image.DecompressionBombError:  # Pillow's own limit, which is higher, comes first
            raise Huge(f"more than {MAX_PIXELS} pixels") from None
        # Decoders raise whatever comes up on bytes made to hurt, from struct.error to MemoryError; all of it says
        # the same about the image.
        except Exception as error:
            raise BadImage(str(error) or type(error).__name__) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB.

    Raises:
        BadImage: pixels without an agreed range, floating point or 32 bits a channel.
    """
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating point" if image.mode == "F" else "signed or 32-bit"
        raise BadImage(f"{kind} pixels have no agreed range; convert them to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, in whatever byte order; older versions of Pillow call it I
        largest, inverted = _grey_scale(image)
        values = np.asarray(image).clip(0, largest) / (largest / 255)
        image = Image.fromarray((255 - values if inverted else values).round().astype(np.uint8))
    return image.convert("RGB")


def _grey_scale(image: Image.Image) -> tuple[int, bool]:
    """(largest value, whether it is black) of grey of more than 8 bits. Only TIFF knows others than (65535, False)."""
    tags = getattr(image, "tag_v2", {})
    (bits,), photometric = tags.get(258, (16,)), tags.get(262, 1)
    return 2**bits - 1, photometric == 0


def check_decodes(content: bytes) -> str:
    """Decode the whole image to RGB and name its format.

    Returns:
        The format, as Pillow names it.

    Raises:
        BadImage: it does not decode, or is no RGB.
    """
    with opened(content) as image:
        # An eighth of the scale still reads the whole JPEG stream, so a truncated file shows, at a fraction of the
        # time.
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        if image.mode != "RGB":
            to_rgb(image)
        return str(image.format)


def shrink(content: bytes, short_side: int) -> tuple[bytes, str] | None:
    """Shrink a picture to a short side of `short_side` pixels, antialiased (Lanczos).

    JPEG of quality 95 where JPEG can hold it, else PNG. EXIF (with its orientation) and colour profile are kept.

    Returns:
        (bytes, extension), or None where the image stays as it is: not larger than that, or of a mode, such as Lab or
        floating point, that neither holds.

    Raises:
        BadImage: it does not decode.
    """
    with opened(content) as image:
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
        if image.mode not in JPEG_MODES + PNG_MODES or (image.mode == "I;16" and _grey_scale(image) != (65535, False)):
            return None
        kept = {name: image.info[name] for name in ("exif", "icc_profile") if image.info.get(name)}
        # Band by band: resizing all of them at once would blacken colours by their alpha, which the reader drops.
        bands = [band.resize(size, Image.Resampling.LANCZOS) for band in image.split()]
        smaller = Image.merge(image.mode, bands) if len(bands) > 1 else bands[0]
        encoded = io.BytesIO()
        if smaller.mode in JPEG_MODES:
            smaller.save(encoded, "JPEG", quality=JPEG_QUALITY, **kept)
            return encoded.getvalue(), "jpg"
        smaller.save(encoded, "PNG", **kept)
        return encoded.getvalue(), "png"
