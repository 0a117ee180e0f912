"""safetensors in pieces, held to the library in both directions."""

import hashlib
import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fd_scale.parallel.checkpoint.tensor_file import DTYPES, TensorFileReader, TensorFileWriter


def reader_of(content: bytes) -> TensorFileReader:
    def read_into(offset: int, view: memoryview) -> None:
        part = content[offset : offset + len(view)]
        if len(part) < len(view):
            raise OSError("the file ends before")
        view[:] = part

    return TensorFileReader(read_into, len(content), "the file")


def written(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[bytes, str]:
    file = io.BytesIO()
    writer = TensorFileWriter(file, {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}, metadata)
    for name, value in tensors.items():
        writer.write(name, value)
    digest = writer.finish()
    assert writer.bytes == len(file.getvalue())
    return file.getvalue(), digest


shapes = st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4)


@given(shapes, st.sampled_from(sorted(DTYPES)), st.text(max_size=8))
def test_the_library_reads_what_we_write(tmp_path_factory, shapes, dtype, note):
    tensors = {f"t{i}": (torch.rand(shape) * 100).to(DTYPES[dtype]) for i, shape in enumerate(shapes)}
    content, digest = written(tensors, {"note": note})
    path = tmp_path_factory.mktemp("file") / "ours.safetensors"
    path.write_bytes(content)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype for name, value in tensors.items()
    )
    assert digest == hashlib.sha256(content).hexdigest()


@given(shapes, st.sampled_from(sorted(DTYPES)))
def test_we_read_what_the_library_writes(tmp_path_factory, shapes, dtype):
    tensors = {f"t{i}": (torch.rand(shape) * 100).to(DTYPES[dtype]) for i, shape in enumerate(shapes)}
    path = tmp_path_factory.mktemp("file") / "theirs.safetensors"
    save_file(tensors, path, metadata={"note": "kept"})
    reader = reader_of(path.read_bytes())
    assert reader.metadata == {"note": "kept"}
    assert reader.entries.keys() == tensors.keys()
    for name, value in tensors.items():
        assert reader.entries[name].shape == tuple(value.shape)
        assert torch.equal(reader.read(name).view(value.shape), value)


def test_any_run_of_a_tensor():
    value = torch.arange(12.0).view(3, 4)
    reader = reader_of(written({"a": torch.ones(5), "b": value}, {})[0])
    assert reader.read("b", 3, 5).tolist() == [3, 4, 5, 6, 7]


def test_a_tensor_that_does_not_come_next_or_never_comes_is_a_bug():
    file = io.BytesIO()
    writer = TensorFileWriter(file, {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))}, {})
    with pytest.raises(ValueError, match="comes next, not b"):
        writer.write("b", torch.zeros(2))
    writer = TensorFileWriter(file, {"a": (torch.float32, (2,))}, {})
    with pytest.raises(ValueError, match="a was never"):
        writer.finish()


def header(entry: object) -> bytes:
    text = json.dumps({"a": entry}).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 16,
        (3).to_bytes(8, "little") + b"{]}",
        (2).to_bytes(8, "little") + b"[]",
        header({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}),  # lengths that contradict
        header({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}),  # past the end
        header({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}),  # before the data
        header({"dtype": "O", "shape": [1], "data_offsets": [0, 8]}),
        header("nothing"),
    ],
)
def test_bytes_that_are_no_such_file_are_refused(content):
    with pytest.raises(ValueError, match="the file is not a safetensors file"):
        reader_of(content)
