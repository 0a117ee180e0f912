"""From the bytes of a file to 8-bit RGB, or to one word that says why not.

What is converted, as the published loader (PIL's `convert("RGB")`) does: grey is repeated, CMYK is converted without a
colour profile, a palette is looked up, alpha is dropped, the orientation of the camera is ignored. Where that loader
spoils the image, it is not followed: 16 bits a channel are scaled to 8, not cut off.
What is not decoded is bad, for one of `REASONS`.
"""

import io

import numpy as np
from PIL import Image

from fd_scale.data.image_bytes import FORMATS, quiet

REASONS = ("empty", "undecodable", "truncated", "huge")
MAX_PIXELS = 100_000_000


class BadSample(Exception):
    """`reason` is one of REASONS."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def decode(content: bytes) -> Image.Image:
    """The whole image as RGB.

    Raises:
        BadSample: no bytes; not an image; an image that ends early; more than MAX_PIXELS pixels, unread.
    """
    if not content:
        raise BadSample("empty")
    try:
        with quiet(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadSample("huge")
            image.load()
            return _eight_bits(image).convert("RGB")
    except BadSample:
        raise
    except Image.DecompressionBombError:
        raise BadSample("huge") from None
    # Decoders raise whatever comes up on bytes made to hurt; all of it says the same about the image.
    except Exception as error:
        raise BadSample("truncated" if "truncated" in str(error) else "undecodable") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, in whatever byte order
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    return image
