import io
import zlib

import numpy as np
import pytest
from PIL import Image

from fd_scale.data import image_bytes
from fd_scale.data.decode import BadSample, decode

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(PIXELS),
        Image.fromarray(PIXELS[..., 0]),
        Image.fromarray(PIXELS).convert("RGBA"),
        Image.fromarray(PIXELS).convert("LA"),
        Image.fromarray(PIXELS).quantize(16),
        Image.fromarray(PIXELS).convert("1"),
    ],
    ids=lambda image: image.mode,
)
def test_what_pil_converts_well_is_converted_as_pil_does(image):
    assert np.array_equal(np.asarray(decode(encoded(image))), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg():
    image = Image.fromarray(PIXELS).convert("CMYK")
    content = encoded(image, "JPEG")
    decoded = decode(content)
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_16_bits_are_scaled_and_not_cut_off():
    deep = (PIXELS[..., 0].astype(np.uint16)) * 257
    decoded = np.asarray(decode(encoded(Image.fromarray(deep))))
    assert np.array_equal(decoded[..., 0], PIXELS[..., 0])


def test_bad_samples_have_their_reason(monkeypatch):
    jpeg = encoded(Image.fromarray(PIXELS).resize((200, 200)), "JPEG")
    for content, reason in [
        (b"", "empty"),
        (b"not an image at all", "undecodable"),
        (b"\0" * 500, "undecodable"),
        (jpeg[: len(jpeg) // 2], "truncated"),
    ]:
        with pytest.raises(BadSample) as caught:
            decode(content)
        assert caught.value.reason == reason
    monkeypatch.setattr(image_bytes, "MAX_PIXELS", 1000)
    with pytest.raises(BadSample, match="huge"):
        decode(jpeg)


def test_a_decompression_bomb_is_huge_and_not_read():
    header = bytearray(encoded(Image.new("L", (1, 1))))
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # the size a PNG announces
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(BadSample, match="huge"):
        decode(bytes(header))
