"""Pillow's warnings about images that decode are nobody's news, least of all once an image."""

import io
import warnings

from PIL import Image

from fd_scale.data.decode import decode
from fd_scale.data.image_bytes import check_decodes


def test_an_image_that_decodes_is_decoded_without_a_warning():
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").quantize(64).save(buffer, "PNG", transparency=bytes(range(64)))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
        assert heard, "Pillow says nothing of this image any more; choose another"
        heard.clear()
        decode(buffer.getvalue())
        check_decodes(buffer.getvalue())
    assert not heard
