"""PyTorch files without PyTorch: the same tensors, and nothing in them is run."""

import collections
import zipfile

import pytest

from tests.interop.originals.test_layouts import written
from tests.interop.test_component import same_bits, values
from vdm_jax.errors import RunError
from vdm_jax.interop.files.tensors import read_header
from vdm_jax.interop.originals.layout import write_published
from vdm_jax.interop.originals.layouts import open_original
from vdm_jax.interop.originals.pickled import read_pickled
from vdm_jax.interop.originals.wan import WAN_AUTOENCODER

torch = pytest.importorskip("torch", reason="it writes the files")


def test_the_tensors_are_those_that_were_saved(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "rows": base[1:3], "half": base.half(), "brain": base.bfloat16(), "number": torch.tensor(3.5),
        "parameter": torch.nn.Parameter(base + 1), "long": torch.arange(3), "empty": torch.zeros(0, 2),
    }  # fmt: skip
    torch.save({"state_dict": collections.OrderedDict(tensors), "epoch": 3}, tmp_path / "a.ckpt")
    found = {name: stored.read() for name, stored in read_pickled(tmp_path / "a.ckpt").items()}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].astype("float64").tolist() == tensor.detach().double().tolist()


def test_a_model_comes_in_from_such_a_file(tmp_path):
    file = written(WAN_AUTOENCODER, tmp_path)
    torch.save({n: torch.from_numpy(stored.read()) for n, stored in read_header(file).items()}, tmp_path / "vae.pth")
    write_published(open_original(tmp_path / "vae.pth"), tmp_path / "published")
    assert same_bits(values(tmp_path / "plain"), values(tmp_path / "published"))


class Dangerous:
    def __reduce__(self):
        return print, ("run",)


def test_what_is_no_tensor_is_not_made(tmp_path, capsys):
    torch.save({"a": torch.zeros(2), "b": Dangerous()}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"holds a (builtins|__builtin__).print, which is not made here; convert it"):
        read_pickled(tmp_path / "b.pth")
    assert capsys.readouterr().out == ""


def test_files_that_cannot_be_read_are_named(tmp_path):
    torch.save({"a": torch.arange(12.0).reshape(3, 4).T}, tmp_path / "turned.pt")
    with pytest.raises(ValueError, match="a does not lie in one piece; convert it"):
        read_pickled(tmp_path / "turned.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="written before PyTorch 1.6"):
        read_pickled(tmp_path / "old.pt")
    for name, member, kind, why in (
        ("other.pt", "word/document.xml", ValueError, "a zip archive of another kind, without PyTorch's data.pkl"),
        ("odd.pt", "odd/data.pkl", RunError, "damaged: it refers to something that is no storage"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, b"K\x03Q.")  # pickle of a reference to 3
        with pytest.raises(kind, match=f"{name}: {why}"):
            read_pickled(tmp_path / name)
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    at = whole.index(b"data.pkl") + 20
    (tmp_path / "flipped.pt").write_bytes(whole[:at] + b"\xff" * 60 + whole[at + 60 :])
    with pytest.raises(RunError, match="damaged"):
        read_pickled(tmp_path / "flipped.pt")
