import io
import shutil
import tarfile

import numpy as np
import pytest
from data.older import of_format_1

from fd_scale.data.packing.index import index
from fd_scale.data.packing.verify import verify
from fd_scale.data.shards import read_index
from fd_scale.errors import BadInput


@pytest.fixture
def packed(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "shards")


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def where(damages) -> set[str]:
    return {damage.where for damage in damages}


@pytest.mark.parametrize("workers", [1, 3])
def test_whole_shards_have_no_damage(workers, shards):
    assert verify(shards, workers=workers) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_any_flipped_byte_of_any_image_names_that_sample(workers, packed):
    random = np.random.default_rng(0)
    named = set()
    for shard in ("shard-000000", "shard-000002"):
        for image, _ in read_index(packed / f"{shard}.idx")[::3]:
            flip(packed / f"{shard}.tar", image.offset + int(random.integers(image.bytes)))
            named.add(f"{shard}.tar/{image.name}")
    damages = verify(packed, workers=workers)
    assert where(damages) == named
    assert [damage.where for damage in damages] == sorted(named)
    assert {damage.reason for damage in damages} == {"not the bytes that were packed"}


def test_damage_beside_the_image_names_that_sample_too(packed):
    samples = read_index(packed / "shard-000001.idx")
    tar = packed / "shard-000001.tar"
    flip(tar, samples[3][1].offset)  # the brace of its JSON
    flip(tar, samples[5][0].offset - 512)  # the first letter of the name in its header
    flip(tar, samples[7][1].offset - 500)
    assert where(verify(packed)) == {f"shard-000001.tar/{samples[i][0].name}" for i in (3, 5, 7)}


def test_a_torn_shard_names_what_is_gone(packed):
    samples = read_index(packed / "shard-000000.idx")
    tar = packed / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[: samples[15][0].offset + 10])
    damages = verify(packed)
    assert where(damages) == {f"shard-000000.tar/{sample[0].name}" for sample in samples[15:]}
    assert all("beyond the end of the torn shard" in damage.reason for damage in damages)


def test_damage_in_the_padding_names_the_shard(packed):
    tar = packed / "shard-000002.tar"
    flip(tar, tar.stat().st_size - 1)
    assert where(verify(packed)) == {"shard-000002.tar"}


def test_a_missing_shard_and_a_missing_index_are_named(packed):
    (packed / "shard-000000.tar").unlink()
    (packed / "shard-000002.idx").unlink()
    assert where(verify(packed)) == {"shard-000000.tar", "shard-000002.idx"}


def test_an_index_that_leads_elsewhere_names_the_samples(packed):
    path = packed / "shard-000001.idx"
    lines = path.read_text().splitlines()
    words = lines[4].split(" ")
    words[1] = str(int(words[1]) + 512)
    path.write_text("\n".join([*lines[:4], " ".join(words), *lines[5:]]) + "\n")
    (damage,) = verify(packed)
    assert (damage.where, damage.reason) == (f"shard-000001.tar/{words[3]}", "the index does not agree with the tar")
    path.write_text("\n".join(["v1.2 19", *lines[2:]]) + "\n")
    (damage,) = verify(packed)
    assert (damage.where, damage.reason) == ("shard-000001.idx", "lists 19 samples, the manifest says 20")


def test_an_image_that_never_decoded_is_named_in_shards_of_others(shards, tmp_path):
    """There is no hash of each image in them."""
    folder = tmp_path / "others"
    folder.mkdir()
    with tarfile.open(shards / "shard-000000.tar") as ours, tarfile.open(folder / "a.tar", "w") as theirs:
        for member in ours:
            if member.name.endswith(".jpg"):
                member.name = f"übung/{member.name}"
                theirs.addfile(member, ours.extractfile(member))
                member.name = member.name.replace(".jpg", ".json")
                facts = b'{"sha256": "of what was downloaded", "caption": "x"}'
                member.size = len(facts)
                theirs.addfile(member, io.BytesIO(facts))
    index(folder)
    assert verify(folder) == []
    samples = read_index(folder / "a.idx")
    flip(folder / "a.tar", samples[2][0].offset)
    assert where(verify(folder)) == {f"a.tar/{samples[2][0].name}"}
    with of_format_1(folder) as content:
        content["shards"][0]["samples"] = 21
        content["samples"] += 1
    assert "a.idx" in where(verify(folder))


def test_random_damage_is_always_found_and_raises_nothing(shards, tmp_path):
    random = np.random.default_rng(1)
    for trial in range(12):
        folder = shutil.copytree(shards, tmp_path / str(trial))
        path = folder / f"shard-00000{trial % 3}{('.tar', '.idx')[trial % 2]}"
        for _ in range(3):
            flip(path, int(random.integers(path.stat().st_size)))
        assert verify(folder)


def test_an_index_that_claims_more_than_there_is_takes_no_memory(packed):
    tar, path = packed / "shard-000000.tar", packed / "shard-000000.idx"
    flip(tar, tar.stat().st_size - 1)  # so that the index alone says where the samples are
    lines = path.read_text().splitlines()
    words = lines[1].split(" ")
    words[2] = str(10**18)
    path.write_text("\n".join([lines[0], " ".join(words), *lines[2:]]) + "\n")
    (damage,) = verify(packed)
    assert damage.reason == f"{words[3]} lies beyond the end of the torn shard"


def test_without_a_manifest_there_is_nothing_to_hold_it_to(tmp_path):
    with pytest.raises(BadInput, match=r"no manifest.json"):
        verify(tmp_path)
