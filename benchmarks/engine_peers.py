"""The peers of the native engine: the same MS-D network as others evaluate it, block (c, z, y, x) to scores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from medhpc import engine as engines
from medhpc.engine.openvino import load_openvino
from medhpc.nets import MSD

Evaluate = Callable[[np.ndarray], np.ndarray]


def native(network: MSD, threads: int, variant: str | None = None) -> Evaluate:
    """The engine of this benchmark."""
    from medhpc.engine.native import NativeEngine

    engine = NativeEngine(network, threads, variant)
    return lambda block: engine(block, "raw")


def stock_engine(network: MSD, threads: int, name: str) -> Evaluate:
    """medhpc's order of work on stock convolutions."""
    engine = engines.load(network, name=name, device="cpu", threads=threads)
    return lambda block: engine(block, "raw")


def torch_cat(network: MSD, threads: int) -> Evaluate:
    """PyTorch as a user writes it: layer by layer, all earlier maps concatenated."""

    def evaluate(block: np.ndarray) -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return _planes(network, block, lambda batch: cat(network, torch.from_numpy(batch)).numpy())

    return evaluate


def onnx_runtime(network: MSD, threads: int) -> Evaluate:
    """ONNX Runtime on the graph of :func:`torch_cat`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(onnx_graph(network), options, providers=["CPUExecutionProvider"])
    return lambda block: _planes(network, block, lambda batch: session.run(None, {"x": batch})[0])


def openvino(network: MSD, threads: int, precision: str = "f32") -> Evaluate:
    """OpenVINO on the same graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        path.write_bytes(onnx_graph(network))
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
        compiled = load_openvino().Core().compile_model(os.fspath(path), "CPU", settings)
    return lambda block: _planes(network, block, lambda batch: compiled(batch)[0])


def onnx_graph(network: MSD) -> bytes:
    """Concat, Pad, Conv and Relu a layer, as torch.onnx would export :func:`torch_cat`; width 1 only."""
    from onnx import TensorProto, helper, numpy_helper

    assert network.width == 1
    constants, nodes, maps = [], [], ["x"]

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def convolution(source: str, weight: torch.Tensor, bias: torch.Tensor, name: str, dilation: int = 1) -> None:
        inputs = [source, constant(f"w{name}", weight.detach().numpy()), constant(f"b{name}", bias.detach().numpy())]
        nodes.append(helper.make_node("Conv", inputs, [name], dilations=[dilation] * network.ndim))

    for layer, dilation in enumerate(network.dilations):
        nodes.append(helper.make_node("Concat", list(maps), [f"all{layer}"], axis=1))
        pads = np.array([0, 0, *[dilation] * network.ndim] * 2)
        mode = {"reflect": "reflect", "zero": "constant"}[network.padding]
        nodes.append(
            helper.make_node("Pad", [f"all{layer}", constant(f"p{layer}", pads)], [f"padded{layer}"], mode=mode)
        )
        convolution(f"padded{layer}", network.weights[layer], network.biases[layer], f"sum{layer}", dilation)
        nodes.append(helper.make_node("Relu", [f"sum{layer}"], [f"map{layer}"]))
        maps.append(f"map{layer}")
    nodes.append(helper.make_node("Concat", maps, ["everything"], axis=1))
    head = network.head_weight.unflatten(1, (-1, *(1,) * network.ndim))
    convolution("everything", head, network.head_bias, "scores")
    space = list("zyx"[-network.ndim :])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *space])
        for name, channels in (("x", network.in_channels), ("scores", network.out_channels))
    ]
    graph = helper.make_graph(nodes, "msd", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def cat(network: MSD, maps: torch.Tensor) -> torch.Tensor:
    """Scores of a batch, layer by layer, all earlier maps concatenated."""
    convolve = F.conv3d if network.ndim == 3 else F.conv2d
    mode = "reflect" if network.padding == "reflect" else "constant"
    for weight, bias, s in zip(network.weights, network.biases, network.dilations, strict=True):
        padded = F.pad(maps, (s,) * (2 * network.ndim), mode=mode)
        maps = torch.cat([maps, F.relu(convolve(padded, weight, bias, dilation=s))], 1)
    head = network.head_weight.unflatten(1, (-1, *(1,) * network.ndim))
    return (F.conv3d if network.ndim == 3 else F.conv2d)(maps, head, network.head_bias)


def _planes(network: MSD, block: np.ndarray, evaluate: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Give a 3D network the block, a 2D one each of its planes."""
    if network.ndim == 3:
        return evaluate(block[None])[0]
    return np.stack([evaluate(np.ascontiguousarray(block[None, :, z]))[0] for z in range(block.shape[1])], 1)
