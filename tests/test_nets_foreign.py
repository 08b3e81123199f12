"""Networks from elsewhere: torch modules, ONNX files, and the identity."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
import torch
from torch import nn

from medhpc import nets
from medhpc.errors import BadNetwork, NetworkMismatch
from medhpc.nets.foreign import Foreign

torch.set_num_threads(1)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class Pooling(nn.Module):
    """Halves and doubles, as a U-Net does: lengths must be even."""

    def forward(self, x):
        assert all(n % 2 == 0 for n in x.shape[2:])
        return nn.functional.interpolate(nn.functional.avg_pool3d(x, 2), scale_factor=2)


def onnx_file(path, *, metadata=None, ndim=3, channels=(1, 2), outside=None, outputs=1, dtype=onnx.TensorProto.FLOAT):
    """One convolution with a 3^n kernel."""
    h = onnx.helper
    space = ["z", "y", "x"][-ndim:]
    weight = np.random.default_rng(0).normal(size=(channels[1], channels[0], *(3,) * ndim)).astype(np.float32)
    tensor = onnx.numpy_helper.from_array(weight, "w")
    node = h.make_node("Conv", ["in", "w"], ["out"], pads=[1] * (2 * ndim))
    given = h.make_tensor_value_info("in", dtype, ["n", channels[0], *space])
    made = [h.make_tensor_value_info("out", dtype, ["n", channels[1], *space])]
    nodes = [node]
    for k in range(1, outputs):
        nodes.append(h.make_node("Relu", ["out"], [f"out{k}"]))
        made.append(h.make_tensor_value_info(f"out{k}", dtype, ["n", channels[1], *space]))
    model = h.make_model(h.make_graph(nodes, "net", [given], made, [tensor]), opset_imports=[h.make_opsetid("", 17)])
    model.ir_version = 8
    if metadata is not None:
        h.set_model_props(model, {"medhpc": metadata if isinstance(metadata, str) else json.dumps(metadata)})
    if outside is not None:
        stored = model.graph.initializer[0]
        onnx.external_data_helper.set_external_data(stored, outside)
        (path.parent / outside).write_bytes(stored.raw_data)
        stored.ClearField("raw_data")
        stored.data_location = onnx.TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    return torch.from_numpy(weight)


def test_identity_changes_nothing():
    network = nets.load("identity")
    x = torch.arange(24, dtype=torch.int16).view(1, 2, 1, 3, 4)
    assert network(x) is x and network.takes_raw
    assert network.receptive_radius == (0, 0, 0)


@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 7, 9), (2, 2, 3)])
def test_strided_modules_are_filled_up_and_cut_back(shape):
    network = Foreign(Pooling(), in_channels=1, out_channels=1, ndim=3, halo=2, stride=2)
    x = torch.randn(2, 1, *shape)
    result = network(x)
    assert result.shape == x.shape
    inside = tuple(slice(n // 2 * 2) for n in shape)
    assert torch.allclose(result[(..., *inside)], Pooling()(x[(..., *inside)]))
    assert network.receptive_radius == (2, 2, 2) and network.stride == (2, 2, 2) and network.minimum_shape == (2, 2, 2)


def test_foreign_refuses_what_does_not_fit():
    network = Foreign(Pooling(), in_channels=1, out_channels=1, ndim=3, halo=(1, 2, 3), stride=8, normalize=False)
    assert network.takes_raw and network.minimum_shape == (5, 5, 5)
    with pytest.raises(NetworkMismatch, match="thin"):
        network(torch.zeros(1, 1, 4, 8, 8))
    with pytest.raises(NetworkMismatch, match="channels"):
        network(torch.zeros(1, 2, 8, 8, 8))
    with pytest.raises(NetworkMismatch, match="returned 1 x 1 x 6 x 6 x 6"):
        Foreign(nn.Conv3d(1, 1, 3), in_channels=1, out_channels=1, ndim=3, halo=1)(torch.zeros(1, 1, 8, 8, 8))
    for wrong in ({"halo": -1}, {"halo": (1, 2)}, {"halo": 1, "stride": 0}, {"halo": 1, "ndim": 4}):
        with pytest.raises(BadNetwork):
            Foreign(Pooling(), **{"in_channels": 1, "out_channels": 1, "ndim": 3, **wrong})


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_onnx_equals_torch(tmp_path, ndim, batch):
    weight = onnx_file(tmp_path / "net.onnx", ndim=ndim, metadata={"halo": 1, "classes": ["background", "cell"]})
    network = nets.load(tmp_path / "net.onnx")
    x = torch.randn(batch, 1, *(6, 7, 8)[:ndim])
    convolve = nn.functional.conv3d if ndim == 3 else nn.functional.conv2d
    assert torch.allclose(network(x), convolve(x, weight, padding=1), atol=1e-5)
    assert network.receptive_radius == (1,) * ndim and network.card.classes == ["background", "cell"]
    assert (network.in_channels, network.out_channels, network.ndim) == (1, 2, ndim)


def test_onnx_without_metadata(tmp_path):
    onnx_file(tmp_path / "net.onnx")
    network = nets.load(tmp_path / "net.onnx")
    assert network.receptive_radius is None and network.stride == (1, 1, 1) and not network.takes_raw


@pytest.mark.parametrize(
    "options, word",
    [
        ({"metadata": "{halo"}, "JSON"),
        ({"metadata": "[1]"}, "JSON"),
        ({"metadata": {"halo": "wide"}}, "halo"),
        ({"metadata": {"stride": 0}}, "stride"),
        ({"metadata": {"classes": ["one"]}}, "1 classes for 2"),
        ({"outputs": 2}, "2 outputs"),
        ({"dtype": onnx.TensorProto.DOUBLE}, "net.onnx"),
        ({"ndim": 1}, "axes"),
    ],
)
def test_onnx_files_that_do_not_fit_are_refused(tmp_path, options, word):
    onnx_file(tmp_path / "net.onnx", **options)
    with pytest.raises(BadNetwork, match=word) as caught:
        nets.load(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 200])
def test_truncated_onnx_is_refused(tmp_path, cut):
    onnx_file(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:cut])
    with pytest.raises(BadNetwork) as caught:
        nets.load(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


def test_weights_beside_the_model_are_read_and_counted_in_the_digest(tmp_path):
    weight = onnx_file(tmp_path / "net.onnx", outside="net.data")
    x = torch.randn(1, 1, 5, 5, 5)
    expected = nn.functional.conv3d(x, weight, padding=1)
    assert torch.allclose(nets.load(tmp_path / "net.onnx")(x), expected, atol=1e-5)
    before = nets.digest(tmp_path / "net.onnx")
    (tmp_path / "net.data").write_bytes(bytes(weight.numel() * 4))
    assert nets.digest(tmp_path / "net.onnx") != before


def test_weights_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    onnx_file(tmp_path / "sub" / "net.onnx", outside="../secret")
    with pytest.raises(BadNetwork, match="secret"):
        nets.load(tmp_path / "sub" / "net.onnx")
    onnx_file(tmp_path / "sub" / "net.onnx", outside=str(tmp_path / "secret"))
    with pytest.raises(BadNetwork, match="secret"):
        nets.load(tmp_path / "sub" / "net.onnx")
    onnx_file(tmp_path / "sub" / "net.onnx", outside="inner")
    (tmp_path / "sub" / "inner").unlink()
    (tmp_path / "sub" / "inner").symlink_to(tmp_path / "secret")
    with pytest.raises(BadNetwork, match="inner"):
        nets.load(tmp_path / "sub" / "net.onnx")


def test_missing_runtime_names_the_extra(tmp_path, monkeypatch):
    onnx_file(tmp_path / "net.onnx")
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("onnx"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadNetwork, match=r"pip install medhpc\[onnx\]"):
        nets.load(tmp_path / "net.onnx")


def test_onnx_refuses_other_channels(tmp_path):
    onnx_file(tmp_path / "net.onnx")
    with pytest.raises(NetworkMismatch, match="channels"):
        nets.load(tmp_path / "net.onnx")(torch.zeros(1, 3, 5, 5, 5))
