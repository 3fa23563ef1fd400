"""Reading and writing component folders: dtypes, meshes, several files, and everything that can be wrong with them."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vdm_jax.errors import RunError
from vdm_jax.interop.component import Component, float_type, nested, read, write
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.files.keymap import LINEAR, Entry, Rule
from vdm_jax.interop.files.matching import check_tensors
from vdm_jax.interop.files.tensors import Stored, TensorWriter, read_header, tensors_of
from vdm_jax.sharding import MeshConfig, make_mesh

TINY = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
    "text_dim": 24, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2,
}  # fmt: skip
NAME = "diffusion_pytorch_model.safetensors"


def drawn(seed: int = 0) -> Component:
    config, rng = WAN.config(TINY), np.random.default_rng(seed)
    params = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in WAN.shapes(config).items()}
    return Component(WAN, config, nested(jax.tree.map(jax.numpy.asarray, params)))


def values(folder) -> dict[str, np.ndarray]:
    return {name: stored.read() for name, stored in tensors_of(folder).items()}


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    alike = a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and a[n].shape == b[n].shape for n in a)
    return alike and all(a[n].tobytes() == b[n].tobytes() for n in a)


@pytest.fixture
def folder(tmp_path):
    write(drawn(), tmp_path / "component")
    return tmp_path / "component"


def rewritten(folder, change) -> None:
    """The same folder with `change(name -> values)` in place of its tensors."""
    tensors = values(folder)
    change(tensors)
    (folder / NAME).unlink()
    writer = TensorWriter(
        folder, NAME.removesuffix(".safetensors"), {n: (v.shape, v.dtype) for n, v in tensors.items()}
    )
    for name, value in tensors.items():
        writer.put(name, value)
    writer.close()


def test_what_is_written_is_read(folder):
    found, wanted = flatten_dict(read(folder).params), flatten_dict(drawn().params)
    assert found.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_array_equal(found[path], wanted[path])


def test_the_published_reader_reads_the_files(folder):
    numpy_files = pytest.importorskip("safetensors.numpy", reason="the reader of the format's authors")
    theirs = numpy_files.load_file(folder / NAME)
    assert same_bits(values(folder), theirs)


def test_mixed_dtypes_go_in_and_out_bit_for_bit(folder, tmp_path):
    def change(tensors):
        for i, name in enumerate(sorted(tensors)):
            tensors[name] = tensors[name].astype([ml_dtypes.bfloat16, np.float16, np.float32][i % 3])

    rewritten(folder, change)
    write(read(folder), tmp_path / "again")
    assert same_bits(values(folder), values(tmp_path / "again"))
    assert json.loads((folder / "config.json").read_text()) == json.loads((tmp_path / "again/config.json").read_text())


def test_one_dtype_stays_that_dtype_and_can_be_asked_for(folder, tmp_path):
    write(read(folder), tmp_path / "half", dtype=float_type("bf16"))
    half = read(tmp_path / "half")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype(ml_dtypes.bfloat16)}
    full = read(tmp_path / "half", dtype=float_type("float32"))
    assert {leaf.dtype for leaf in jax.tree.leaves(full.params)} == {np.dtype(np.float32)}
    with pytest.raises(ValueError, match="dtype: unknown 'float31'; did you mean 'float32'"):
        float_type("float31")


def test_weights_lie_on_the_mesh_as_the_rules_say(folder):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    placed = read(folder, mesh=mesh)
    kernel = placed.params["blocks"]["attention"]["qkv"]["kernel"]
    assert [shard.data.shape for shard in kernel.addressable_shards] == [(2, 16, 1, 3, 16)] * 4
    np.testing.assert_array_equal(kernel, drawn().params["blocks"]["attention"]["qkv"]["kernel"])


def test_large_sets_are_several_files_with_an_index(tmp_path):
    write(drawn(), tmp_path / "many", max_file=40_000)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].startswith("diffusion_pytorch_model-00001-of-000")
    index = json.loads((tmp_path / "many" / f"{NAME}.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(drawn().params))
    write(drawn(), tmp_path / "one")
    assert same_bits(values(tmp_path / "many"), values(tmp_path / "one"))
    (tmp_path / "many" / files[1]).unlink()
    with pytest.raises(RunError, match=f"names {files[1]}, which is not there"):
        read(tmp_path / "many")


def test_never_more_than_one_parameter_is_on_its_way(folder, monkeypatch):
    """What is being assembled for a parameter is let go before the next one begins."""
    import weakref

    alive, most = [], []
    place = jax.make_array_from_callback

    def watched(shape, sharding, callback):
        host = callback(tuple(slice(None) for _ in shape)).base
        most.append(sum(ref() is not None for ref in alive))
        placed = place(shape, sharding, lambda index: np.array(callback(index)))
        alive.append(weakref.ref(host))
        return placed

    monkeypatch.setattr(jax, "make_array_from_callback", watched)
    read(folder)
    assert len(most) > 20
    assert max(most) <= 1


def test_tensors_read_at_once_are_never_larger_than_the_largest(folder, monkeypatch):
    import weakref

    alive, most = {}, []
    mapped = Stored.mapped

    def watched(stored):
        values = mapped(stored)
        alive[stored.start] = (weakref.ref(values), stored.size)
        most.append(sum(size for ref, size in list(alive.values()) if ref() is not None))
        return values

    monkeypatch.setattr(Stored, "mapped", watched)
    read(folder)
    assert len(most) == len(values(folder))
    assert max(most) <= max(stored.size for stored in tensors_of(folder).values())


def test_only_what_a_device_holds_is_read():
    """The piece of one device of a mesh, as in a process that has no other."""
    rule = Rule("blocks.{i}.k.weight", "blocks.kv.kernel", LINEAR, part=(2, 0))
    whole = np.zeros((3, 4, 2, 2, 5), np.float32)  # [layers, in, heads, k and v, c]
    piece = (slice(1, 3), slice(0, 2), slice(1, 2), slice(None), slice(None))
    tensor = np.arange(40, dtype=np.float32).reshape(10, 4)
    assert Entry(rule, 0).cut(whole.shape, piece) is None
    there, these = Entry(rule, 1).cut(whole.shape, piece)
    part = np.zeros((2, 2, 1, 2, 5), np.float32)
    part[there] = Entry(rule, 1).values(tensor, whole.shape)[these]
    whole[1, :, :, 0] = tensor.T.reshape(4, 2, 5)
    np.testing.assert_array_equal(part, whole[piece])


def test_all_that_does_not_fit_is_listed_with_the_nearest_name(folder):
    def change(tensors):
        tensors["blocks.0.attn1.to_qq.weight"] = tensors.pop("blocks.0.attn1.to_q.weight")
        tensors["proj_out.bias"] = tensors["proj_out.bias"][:3]

    rewritten(folder, change)
    with pytest.raises(ValueError, match="not a WanTransformer3DModel of its config.json") as caught:
        read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "1 missing: blocks.0.attn1.to_q.weight (nearest: blocks.0.attn1.to_qq.weight)" in message
    assert "1 unexpected: blocks.0.attn1.to_qq.weight (nearest: blocks.0.attn1.to_q.weight)" in message
    assert "1 of another shape: proj_out.bias [3], wanted [16]" in message


def test_tensors_that_are_no_floats_are_refused(folder):
    rewritten(folder, lambda tensors: tensors.update({"proj_out.bias": np.zeros(16, np.int8)}))
    with pytest.raises(ValueError, match="1 neither F32, F16, BF16: proj_out.bias is I8"):
        read(folder)


def test_what_nothing_uses_any_more_is_left_out_and_said(folder, tmp_path):
    options = TINY | {"in_channels": 9, "image_dim": 20, "added_kv_proj_dim": 32}
    config = WAN.config(options)
    params = {path: np.ones(shape, np.float32) for path, shape in WAN.shapes(config).items()}
    write(Component(WAN, config, nested(params)), tmp_path / "old")
    unread = "blocks.1.attn2.norm_added_q.weight"
    rewritten(tmp_path / "old", lambda tensors: tensors.update({unread: np.ones(32, np.float32)}))
    found = read(tmp_path / "old")
    assert found.left_out == (unread,)
    write(found, tmp_path / "new")
    assert unread not in tensors_of(tmp_path / "new")


def test_two_names_of_one_tensor_must_agree(folder, tmp_path):
    family = dataclasses.replace(WAN, spell=lambda name: name.removeprefix("old."))
    stored = tensors_of(folder)
    keymap, shapes = WAN.keymap(WAN.config(TINY)), WAN.shapes(WAN.config(TINY))
    twin = {**stored, "old.proj_out.bias": stored["proj_out.bias"]}
    assert check_tensors(family, keymap, shapes, twin, folder).keys() == stored.keys()
    twin["old.proj_out.bias"] = stored["patch_embedding.bias"]
    with pytest.raises(RunError, match="old.proj_out.bias and its other name have two values"):
        check_tensors(family, keymap, shapes, twin, folder)


def test_a_file_that_is_cut_off_or_damaged_is_named(folder):
    whole = (folder / NAME).read_bytes()
    for broken, message in (
        (whole[:-5], "it is cut off"),
        (whole[:100], "cut off within its header"),
        (whole + b"x", "it is damaged"),
        (whole[:8] + b"!" + whole[9:], "damaged header"),
        (b"", "cut off within its header"),
    ):
        (folder / NAME).write_bytes(broken)
        with pytest.raises(RunError, match=message):
            read_header(folder / NAME)


def test_folders_that_hold_something_else_are_refused(folder, tmp_path):
    config = folder / "config.json"
    config.write_text(json.dumps({**TINY, "_class_name": "WanTransformer3DModl"}))
    with pytest.raises(ValueError, match="class: unknown 'WanTransformer3DModl'; did you mean 'WanTransformer3DModel'"):
        read(folder)
    config.write_text(json.dumps(TINY))
    with pytest.raises(ValueError, match="names no class"):
        read(folder)
    config.write_text("{")
    with pytest.raises(RunError, match="config.json: cannot be read"):
        read(folder)
    with pytest.raises(ValueError, match="holds no config.json"):
        read(tmp_path)
    config.write_text(json.dumps({**TINY, "_class_name": WAN.published}))
    (folder / NAME).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="diffusion_pytorch_model.bin, a pickle, which is not read"):
        read(folder)
    with pytest.raises(ValueError, match="holds a WanTransformer3DModel, not a Other"):
        read(folder, family=dataclasses.replace(WAN, published="Other"))


def test_nothing_is_overwritten_and_nothing_is_left_half_written(folder, monkeypatch):
    with pytest.raises(ValueError, match="exists already"):
        write(drawn(), folder)
    monkeypatch.setattr(TensorWriter, "close", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(RunError, match="No space left"):
        write(drawn(), folder.with_name("other"))
    assert [path.name for path in folder.parent.iterdir()] == ["component"]


def test_families_are_named_by_their_class():
    assert FAMILIES[WAN.published] is WAN
    assert all(name == family.published for name, family in FAMILIES.items())
