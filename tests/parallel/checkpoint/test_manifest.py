"""The manifest vouches for every other file; who vouches for the manifest?"""

import hashlib
import json

from fd_scale.parallel.checkpoint.reader import damage
from fd_scale.parallel.checkpoint.storage import MANIFEST, LocalStorage


def test_no_single_flipped_bit_of_a_manifest_goes_unnoticed(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.prepare(1)
    files = {}
    for name in ("rank_00000.safetensors", "rank_00001.safetensors", "checkpoint.json"):
        content = name.encode()
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        with storage.create(1, name) as file:
            file.write(content)
    with storage.create(1, MANIFEST) as file:
        file.write(json.dumps({"files": files}, indent=1, sort_keys=True).encode())
    storage.commit(1)
    assert damage(storage, 1) is None

    manifest = tmp_path / "step_00000001" / MANIFEST
    whole = manifest.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(flipped)
        assert damage(storage, 1), f"bit {bit}: {bytes(flipped[max(0, bit // 8 - 20) : bit // 8 + 20])!r}"
