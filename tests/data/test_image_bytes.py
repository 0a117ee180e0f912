import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from fd_scale.data.image_bytes import BadImage, check_decodes, shrink


def picture(mode: str) -> Image.Image:
    rows = np.linspace(0, 255, 90, dtype=np.uint8)[:, None]
    image = Image.fromarray(np.stack([np.tile(rows, (1, 120))] * 3, axis=-1))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "image_format", "after"),
    [
        ("RGB", "JPEG", ("JPEG", "RGB")),
        ("L", "JPEG", ("JPEG", "L")),
        ("CMYK", "JPEG", ("JPEG", "CMYK")),
        ("1", "PNG", ("JPEG", "L")),
        ("P", "PNG", ("JPEG", "RGB")),
        ("P", "GIF", ("JPEG", "RGB")),
        ("RGBA", "PNG", ("PNG", "RGBA")),
        ("LA", "PNG", ("PNG", "LA")),
        ("I;16", "PNG", ("PNG", "I;16")),
        ("RGB", "WEBP", ("JPEG", "RGB")),
    ],
)
def test_shrinking_changes_the_size_and_nothing_else(mode, image_format, after):
    content, extension = shrink(encoded(picture(mode), image_format), 30)
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.mode) == after
    assert image.size == (40, 30)
    assert extension == {"JPEG": "jpg", "PNG": "png"}[image.format]
    wanted = np.asarray(picture(mode).convert("RGB").resize((40, 30), Image.Resampling.LANCZOS), float)
    if mode == "I;16":
        found = np.asarray(image)[..., None].astype(float) / 257
        wanted = np.asarray(picture("L").resize((40, 30), Image.Resampling.LANCZOS), float)[..., None]
    else:
        found = np.asarray(image.convert("RGB"), float)
    assert np.abs(found - wanted).mean() < 2


def test_what_is_small_already_stays():
    assert shrink(encoded(picture("RGB"), "JPEG"), 90) is None
    assert shrink(encoded(picture("RGB"), "JPEG"), 500) is None
    assert shrink(encoded(picture("F"), "TIFF"), 30) is None  # neither JPEG nor PNG holds it


def test_orientation_and_profile_survive_shrinking():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content, _ = shrink(encoded(picture("RGB"), "JPEG", exif=exif, icc_profile=b"profile"), 30)
    image = Image.open(io.BytesIO(content))
    assert image.getexif()[0x0112] == 6
    assert image.info["icc_profile"] == b"profile"


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(harm) print\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not a picture", "not an image"),
        (POSTSCRIPT, "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "."),
    ],
)
def test_what_does_not_decode_has_a_reason(content, reason):
    for use in (check_decodes, lambda content: shrink(content, 10)):
        with pytest.raises(BadImage, match=reason) as raised:
            use(content)
        assert "\n" not in str(raised.value)


def test_an_image_that_claims_to_be_enormous_is_refused_before_it_is_decoded():
    content = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    content[18:26] = (50_000).to_bytes(4, "little") * 2
    with pytest.raises(BadImage, match="more than 100000000 pixels"):
        check_decodes(bytes(content))


def test_damage_anywhere_in_a_png_or_jpeg_never_raises_anything_else():
    random = np.random.default_rng(0)
    for image_format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        whole = encoded(picture("RGB"), image_format)
        for _ in range(60):
            damaged = bytearray(whole)
            for offset in random.integers(0, len(whole), 4):
                damaged[offset] = random.integers(256)
            for use in (check_decodes, lambda content: shrink(content, 30)):
                with contextlib.suppress(BadImage):
                    use(bytes(damaged[: random.integers(1, len(whole) + 1)]))
