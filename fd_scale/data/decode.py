"""Decoding of a file's bytes to 8-bit RGB by `image_bytes.to_rgb`, or to one word that says why not.

What is not decoded is bad, for one of `REASONS`.
"""

from PIL import Image

from fd_scale.data.image_bytes import BadImage, Huge, opened, to_rgb

REASONS = ("empty", "undecodable", "truncated", "huge")


class BadSample(Exception):
    """Error of a sample that cannot be used; `reason` is one of REASONS."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def decode(content: bytes) -> Image.Image:
    """Decode the whole image as RGB.

    Raises:
        BadSample: no bytes; not an image; an image that ends early; more than `image_bytes.MAX_PIXELS` pixels, unread.
    """
    if not content:
        raise BadSample("empty")
    try:
        with opened(content) as image:
            image.load()
            return to_rgb(image)
    except Huge:
        raise BadSample("huge") from None
    except BadImage as error:
        raise BadSample("truncated" if "truncated" in str(error) else "undecodable") from None
