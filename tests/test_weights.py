"""Reading weights executes nothing, survives damage with one clear line, and assigning them is strict."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np
import paddle
import pytest
from paddle import nn

from ppgan_fr import weights
from ppgan_fr.weights import WeightsError

# --- a PyTorch checkpoint, written opcode by opcode, so that no PyTorch is needed ---


def opcode_global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def plain(value) -> bytes:
    """A plain value as opcodes."""
    if isinstance(value, tuple):
        return b"(" + b"".join(plain(item) for item in value) + b"t"
    if isinstance(value, bytes):  # already opcodes
        return value
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    text = value.encode()
    return b"X" + struct.pack("<I", len(text)) + text


def tensor(key, size, stride, offset=0, kind="FloatStorage", numel=None) -> bytes:
    numel = int(np.prod(size)) if numel is None else numel
    reference = plain(("storage", opcode_global("torch", kind), key, "cpu", numel))
    hooks = opcode_global("collections", "OrderedDict") + b")R"
    arguments = (reference + b"Q", offset, size, stride, False, hooks)
    return opcode_global("torch._utils", "_rebuild_tensor_v2") + plain(arguments) + b"R"


def dictionary(entries: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(plain(name) + value for name, value in entries.items()) + b"u"


def as_pickle(opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


def zip_file(path, opcodes: bytes, storages: dict[str, bytes], extra=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", as_pickle(opcodes))
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in (extra or {}).items():
            archive.writestr(f"archive/{name}", raw)
    return path


def legacy_file(path, opcodes: bytes, storages: dict[str, tuple[int, bytes]]):
    head = [weights.LEGACY_MAGIC, weights.LEGACY_PROTOCOL, {"little_endian": True}]
    stream = b"".join(pickle.dumps(item, 2) for item in head) + as_pickle(opcodes)
    stream += pickle.dumps(list(storages), 2)
    stream += b"".join(struct.pack("<q", numel) + raw for numel, raw in storages.values())
    path.write_bytes(stream)
    return path


BASE = np.arange(12, dtype=np.float32)


@pytest.fixture(params=["zip", "legacy"])
def write(request, tmp_path):
    """Writes a checkpoint of one storage "0" in either format."""

    def write(entries: dict[str, bytes], raw: bytes = BASE.tobytes(), numel: int = 12):
        path = tmp_path / f"{request.param}.pth"
        if request.param == "zip":
            return zip_file(path, dictionary(entries), {"0": raw})
        return legacy_file(path, dictionary(entries), {"0": (numel, raw)})

    return write


# --- reading ---


def test_tensors_that_share_a_storage_come_out_as_their_own_arrays(write):
    path = write({"a": tensor("0", (3, 4), (4, 1), numel=12), "b": tensor("0", (2, 2), (4, 1), offset=5, numel=12)})
    state = weights.load_torch(path)
    np.testing.assert_array_equal(state["a"], BASE.reshape(3, 4))
    np.testing.assert_array_equal(state["b"], [[5, 6], [9, 10]])
    state["a"][:] = 0
    assert state["b"].max() == 10


def test_transposed_and_expanded_tensors_come_out_contiguous(write):
    path = write({"t": tensor("0", (4, 3), (1, 4), numel=12), "e": tensor("0", (5, 2), (0, 1), numel=12)})
    state = weights.load_torch(path)
    np.testing.assert_array_equal(state["t"], BASE.reshape(3, 4).T)
    np.testing.assert_array_equal(state["e"], [[0, 1]] * 5)
    assert all(value.flags.c_contiguous for value in state.values())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("HalfStorage", "float16"),
        ("DoubleStorage", "float64"),
        ("LongStorage", "int64"),
        ("IntStorage", "int32"),
        ("ByteStorage", "uint8"),
        ("BoolStorage", "bool"),
    ],
)
def test_every_element_type_is_read(write, kind, dtype):
    want = np.array([1, 0, 1], dtype)
    path = write({"x": tensor("0", (3,), (1,), kind=kind)}, want.tobytes(), 3)
    got = weights.load_torch(path)["x"]
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_bfloat16_becomes_float32(write):
    raw = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    got = weights.load_torch(write({"x": tensor("0", (2,), (1,), kind="BFloat16Storage")}, raw, 2))["x"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [1.5, -2.0])


def test_torchscript_gives_parameters_under_their_paths_without_its_code(tmp_path):
    module = opcode_global("__torch__", "Net") + b")\x81"
    inner = (
        opcode_global("__torch__.nn", "Conv") + b")\x81" + dictionary({"weight": tensor("0", (3, 4), (4, 1))}) + b"b"
    )
    path = zip_file(
        tmp_path / "net.pt",
        module + dictionary({"training": b"\x89", "conv": inner}) + b"b",
        {"0": BASE.tobytes()},
        {"code/__torch__.py": b"raise SystemExit", "constants.pkl": as_pickle(b")")},
    )
    state = weights.load_torch(path)
    assert list(state) == ["conv.weight"]
    np.testing.assert_array_equal(state["conv.weight"], BASE.reshape(3, 4))


# --- hostile files ---


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("builtins", "eval"), ("__torch__", "Net")])
def test_a_pickle_that_would_run_code_is_refused_by_name(write, tmp_path, module, name):
    marker = tmp_path / "ran"
    call = opcode_global(module, name) + plain((f"touch {marker}",)) + b"R"
    with pytest.raises(WeightsError, match=rf"{module}\.{name}"):
        weights.load_torch(write({"x": call}))
    assert not marker.exists()


def test_a_pdparams_that_would_run_code_is_refused_by_name(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "x.pdparams"
    path.write_bytes(as_pickle(dictionary({"x": opcode_global("os", "system") + plain((f"touch {marker}",)) + b"R"})))
    with pytest.raises(WeightsError, match=r"os\.system"):
        weights.load(path)
    assert not marker.exists()


def test_a_pickle_cannot_change_what_the_reader_itself_is_made_of(write):
    poison = opcode_global("torch", "FloatStorage") + b"}" + plain("dtype") + plain("<i4") + b"sb"
    with pytest.raises(WeightsError, match="state"):
        weights.load_torch(write({"x": poison}))
    good = weights.load_torch(write({"x": tensor("0", (3, 4), (4, 1))}))
    np.testing.assert_array_equal(good["x"], BASE.reshape(3, 4))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((4, 4), (4, 1), 0), ((12,), (1,), 1), ((3,), (-1,), 5), ((2,), (1,), -1), ((-1,), (1,), 0), ((2, 2), (1,), 0)],
)
def test_a_view_that_leaves_its_storage_is_refused(write, size, stride, offset):
    with pytest.raises(WeightsError, match="size|shape"):
        weights.load_torch(write({"x": tensor("0", size, stride, offset, numel=12)}))


def test_a_small_file_cannot_expand_to_fill_the_memory(write):
    huge = tensor("0", (2**30, 2**10), (0, 0), numel=12)
    with pytest.raises(WeightsError, match="expand"):
        weights.load_torch(write({"x": huge}))


def test_a_zip_bomb_is_refused(tmp_path):
    raw = bytes(200 << 20)
    opcodes = dictionary({"x": tensor("0", (50 << 20,), (1,))})
    path = zip_file(tmp_path / "bomb.pth", opcodes, {"0": raw}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(WeightsError, match="expand"):
        weights.load_torch(path)


def test_a_storage_of_another_size_than_declared_is_refused(write):
    with pytest.raises(WeightsError, match="12|48"):
        weights.load_torch(write({"x": tensor("0", (12,), (1,))}, BASE[:6].tobytes(), 6))


def test_a_truncated_file_is_one_clear_line(write):
    path = write({"x": tensor("0", (12,), (1,))})
    whole = path.read_bytes()
    for keep in (len(whole) - 20, len(whole) // 2, 10, 3, 0):
        path.write_bytes(whole[:keep])
        with pytest.raises(WeightsError) as caught:
            weights.load_torch(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"hello, I am a text file\n", b"", b"\x80\x04N.", b"PK\x03\x04garbage" * 20])
def test_something_else_than_weights_is_one_clear_line(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    for read in (weights.load_torch, weights.load, lambda p: weights.load_into(nn.Linear(1, 1), p)):
        with pytest.raises(WeightsError) as caught:
            read(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pth: there is no such file"):
        weights.load_torch(tmp_path / "nothing.pth")


def test_random_damage_never_raises_anything_else(write):
    path = write({"a": tensor("0", (3, 4), (4, 1)), "b": tensor("0", (2,), (1,), numel=12)})
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            weights.load_torch(path)
        except WeightsError as error:
            assert str(path) in str(error)


# --- choosing the state ---


def test_the_inner_dictionary_is_found_and_can_be_named():
    ema, raw = {"w": np.ones(2)}, {"w": np.zeros(2)}
    checkpoint = {"params": raw, "params_ema": ema, "iter": 3}
    assert weights.inner_state(checkpoint)["w"][0] == 1
    assert weights.inner_state(checkpoint, "params")["w"][0] == 0
    assert weights.inner_state({"a": {"b": raw}}, "a.b")["w"][0] == 0
    assert list(weights.inner_state({"state_dict": {"module.w": np.ones(1)}})) == ["w"]
    with pytest.raises(WeightsError, match="available: iter, params, params_ema"):
        weights.inner_state(checkpoint, "other")
    with pytest.raises(WeightsError, match="no tensors.*net_g"):
        weights.inner_state({"net_g": raw})


# --- assigning ---


class Everything(nn.Layer):
    """One of each layer whose names or layout differ between the frameworks."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.square = nn.Linear(2, 2)
        self.bn = nn.BatchNorm2D(4)
        self.inorm = nn.InstanceNorm2D(4)
        self.act = nn.PReLU(4)
        self.conv = nn.utils.spectral_norm(nn.Conv2D(4, 5, 3))
        self.register_buffer("constant", paddle.zeros([2]))


def torch_state() -> dict[str, np.ndarray]:
    shapes = {
        "fc.weight": (2, 3),
        "fc.bias": (2,),
        "square.weight": (2, 2),
        "square.bias": (2,),
        "bn.weight": (4,),
        "bn.bias": (4,),
        "bn.running_mean": (4,),
        "bn.running_var": (4,),
        "inorm.weight": (4,),
        "inorm.bias": (4,),
        "act.weight": (4,),
        "conv.weight_orig": (5, 4, 3, 3),
        "conv.bias": (5,),
        "conv.weight_u": (5,),
        "conv.weight_v": (36,),
        "constant": (2,),
    }
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return state | {"bn.num_batches_tracked": np.array(7)}


def test_torch_names_and_layouts_are_translated():
    network, state = Everything(), torch_state()
    weights.from_torch(network, state)
    np.testing.assert_array_equal(network.fc.weight.numpy(), state["fc.weight"].T)
    np.testing.assert_array_equal(network.square.weight.numpy(), state["square.weight"].T)
    np.testing.assert_array_equal(network.bn._mean.numpy(), state["bn.running_mean"])
    np.testing.assert_array_equal(network.bn._variance.numpy(), state["bn.running_var"])
    np.testing.assert_array_equal(network.inorm.scale.numpy(), state["inorm.weight"])
    np.testing.assert_array_equal(network.act._weight.numpy(), state["act.weight"])
    np.testing.assert_array_equal(network.conv.weight_orig.numpy(), state["conv.weight_orig"])
    np.testing.assert_array_equal(network.conv.weight_u.numpy(), state["conv.weight_u"])
    np.testing.assert_array_equal(network.constant.numpy(), state["constant"])


def test_every_difference_is_listed_under_its_torch_name_and_nothing_is_changed():
    network, state = Everything(), torch_state()
    before = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    del state["inorm.weight"], state["bn.running_var"]
    state["extra.weight"] = np.zeros(3, np.float32)
    state["fc.weight"] = np.zeros((3, 3), np.float32)
    state["act.weight"] = np.array([1, np.nan, np.inf, 2], np.float32)
    with pytest.raises(WeightsError) as caught:
        weights.from_torch(network, state)
    text = str(caught.value)
    assert "5 differences" in text
    assert "missing: inorm.weight [4]" in text
    assert "missing: bn.running_var [4]" in text
    assert "unexpected: extra.weight [3]" in text
    assert "shape: fc.weight" in text
    assert "not finite: act.weight has 2" in text
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_other_number_types_are_cast_and_an_overflow_is_reported():
    layer = nn.Linear(2, 1)
    weights.from_torch(layer, {"weight": np.array([[1.5, 2]], np.float16), "bias": np.array([3], np.int64)})
    assert layer.weight.dtype == paddle.float32
    np.testing.assert_array_equal(layer.weight.numpy(), [[1.5], [2]])
    with pytest.raises(WeightsError, match="not finite: bias"):
        weights.from_torch(layer, {"weight": np.ones((1, 2)), "bias": np.array([1e300])})


# --- our own files ---


def test_pdparams_round_trips_and_paddle_reads_it_too(tmp_path):
    network, path = Everything(), tmp_path / "deep" / "w.pdparams"
    weights.save(network, path)
    state = weights.load(path)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(state[name], value.numpy())
    assert set(paddle.load(str(path))) == set(state)
    other = Everything()
    weights.load_into(other, path)
    np.testing.assert_array_equal(other.fc.weight.numpy(), network.fc.weight.numpy())
    assert [p.name for p in path.parent.iterdir()] == ["w.pdparams"]


def test_files_of_paddle_save_are_read(tmp_path):
    network, path = Everything(), tmp_path / "w.pdparams"
    paddle.save(network.state_dict(), str(path))
    state = weights.load(path)
    assert set(state) == set(network.state_dict())
    paddle.save({"net": network.state_dict(), "step": 3}, str(path))
    nested = weights.load(path)
    assert nested["step"] == 3
    np.testing.assert_array_equal(nested["net"]["fc.weight"], network.fc.weight.numpy())


def test_half_precision_on_disk_is_float32_when_read(tmp_path):
    full, half = tmp_path / "full.pdparams", tmp_path / "half.pdparams"
    values = {"w": np.linspace(-1, 1, 4096, dtype=np.float32), "n": np.array([3], np.int64)}
    weights.save(values, full)
    weights.save(values, half, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    state = weights.load(half)
    assert state["w"].dtype == np.float32 and state["n"].dtype == np.int64
    np.testing.assert_allclose(state["w"], values["w"], atol=5e-4)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "w.pdparams"
    weights.save({"w": np.ones(2)}, path)

    def full_disk(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pickle, "dump", full_disk)
    with pytest.raises(WeightsError, match="No space left"):
        weights.save({"w": np.zeros(2)}, path)
    assert weights.load(path)["w"][0] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pdparams_with_object_arrays_is_refused(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": np.array([io.BytesIO], dtype=object)}, 4))
    with pytest.raises(WeightsError, match=r"_io\.BytesIO|not numbers"):
        weights.load(path)


def test_npz_round_trips_and_refuses_objects(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(3, np.float16))
    state = weights.load_npz(tmp_path / "a.npz")
    assert state["w"].dtype == np.float32
    np.savez(tmp_path / "b.npz", w=np.array([{}], dtype=object))
    with pytest.raises(WeightsError, match=r"b\.npz"):
        weights.load_npz(tmp_path / "b.npz")


def test_a_torch_file_is_told_apart_from_ours_by_its_content(write, tmp_path):
    path = write({"weight": tensor("0", (3, 4), (4, 1)), "bias": tensor("0", (3,), (1,), numel=12)})
    renamed = path.rename(tmp_path / "renamed.pdparams")
    layer = nn.Linear(4, 3)
    weights.load_into(layer, renamed)
    np.testing.assert_array_equal(layer.weight.numpy(), BASE.reshape(3, 4).T)
