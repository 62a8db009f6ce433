"""Files of arrays: what `np.load` reads, mapped, at the places a processor reads at once."""

from __future__ import annotations

import io
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax.runtime import npz, saved, trees

ARRAYS = {
    "a": np.arange(7, dtype=np.float32),
    "with a longer name": np.arange(12, dtype=np.int64).reshape(3, 4),
    "ünï": np.ones((2, 3), np.uint8),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "nothing": np.zeros((0, 4), np.float32),
    "scalar": np.array(3, np.int32),
    "bool": np.array([True, False]),
}


@pytest.fixture
def path(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        npz.write(file, ARRAYS)
    return tmp_path / "a.npz"


def mapped(path, names=tuple(ARRAYS)):
    with open(path, "rb") as file:
        return npz.mapped(file, list(names))


def same(found):
    assert list(found) == list(ARRAYS)
    for name, array in found.items():
        assert (array.dtype, array.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_numpy_reads_what_is_written_and_both_map(path, tmp_path):
    with np.load(path, allow_pickle=False) as file:
        same(dict(file))
    same(mapped(path))
    np.savez(tmp_path / "numpy.npz", **ARRAYS)
    same(mapped(tmp_path / "numpy.npz"))
    np.savez_compressed(tmp_path / "small.npz", **ARRAYS)
    same(mapped(tmp_path / "small.npz"))


def test_arrays_are_aligned_and_stay_on_the_disk(path):
    found = mapped(path)
    for name, array in found.items():
        if array.size:
            assert array.ctypes.data % npz.ALIGNMENT == 0 and not array.flags.owndata, name
            assert not array.flags.writeable, name


def test_jax_uses_the_memory_of_the_file_and_does_not_write_into_it(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        npz.write(file, {"a": np.ones(1 << 16, np.float32)})
    found = mapped(tmp_path / "a.npz", ["a"])["a"]
    shared = jax.device_put(found)  # as `trees.from_arrays` does it
    assert shared.unsafe_buffer_pointer() == found.ctypes.data
    (tmp_path / "a.npz").unlink()
    more = jax.jit(lambda x: x + 1, donate_argnums=0)(shared)
    assert float(more.sum()) == 2 << 16 and float(found.sum()) == 1 << 16


def test_one_content_makes_one_file(path):
    again = io.BytesIO()
    npz.write(again, ARRAYS)
    assert again.getvalue() == path.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "no file", "moved", "longer", "objects"])
def test_damage_is_told(path, tmp_path, damage):
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "no file":
        path.write_bytes(b"")
    elif damage == "moved":
        path.write_bytes(content.replace(b"PK\3\4", b"PK\3\5", 1))
    elif damage == "longer":
        path.write_bytes(content.replace(b"(7,)", b"(9,)", 1))
    else:
        np.savez(path, allow_pickle=True, **ARRAYS | {"a": np.array([{}])})
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        mapped(path)


def test_objects_are_not_written():
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        npz.write(io.BytesIO(), {"a": np.array([{}])})


def test_a_model_is_the_same_mapped_and_read(tmp_path):
    tree = {"w": jnp.arange(5.0), "b": jnp.ones((2, 2), jnp.bfloat16), "key": jax.random.key(3)}
    arrays = trees.to_arrays(tree)
    saved.save(tmp_path, kind="toy", config={}, arrays=arrays)
    for given in (False, True):
        _, found = saved.load(tmp_path, kind="toy", mapped=given)
        again = trees.to_arrays(trees.from_arrays(found, tree, share=given))
        assert {n: x.tobytes() for n, x in again.items()} == {
            n: x.tobytes() for n, x in arrays.items()
        }
    file = next(tmp_path.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match="damaged or missing"):
        saved.load(tmp_path, kind="toy", mapped=True)


def of_a_later_zip(content):
    """The same, said to need version 12.7 of the format."""
    at = content.index(b"PK\1\2") + 6
    return content[:at] + b"\x7f" + content[at + 1 :]


def no_python(content):
    """The same with a header that is no expression."""
    return content.replace(b"'shape': (5,), }", b"'shape': (5,(((( ")


@pytest.mark.parametrize("damage", [of_a_later_zip, no_python])
@pytest.mark.parametrize("in_memory", [False, True])
def test_damage_of_any_kind_is_told_with_its_cure(tmp_path, damage, in_memory):
    saved.save(tmp_path, kind="toy", config={}, arrays={"w": np.arange(5.0)})
    (path,) = tmp_path.glob("*.npz")
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(ValueError, match=r"is damaged or missing .*: save the model anew"):
        saved.load(tmp_path, kind="toy", mapped=not in_memory)
