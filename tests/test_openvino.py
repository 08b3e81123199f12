"""What only the engine of OpenVINO has to be watched for; what all engines do is in test_engine.py."""

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from samples import msd

from medhpc import engine as engines
from medhpc.engine import openvino
from medhpc.engine.openvino import OpenVinoEngine
from medhpc.errors import NoEngine
from medhpc.nets import Identity

pytestmark = pytest.mark.skipif(bool(openvino.why_not_openvino()), reason=openvino.why_not_openvino())


def block(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


def test_nothing_is_told_to_anybody():
    program = "from medhpc.engine.openvino import load_openvino; load_openvino(); import sys; "
    program += "print(sys.modules['openvino_telemetry'], sorted(name for name in sys.modules if 'backend_ga' in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "None []\n"


def test_signals_are_survived_when_engines_have_come_and_gone():
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        for _ in range(2):
            engine = OpenVinoEngine(msd(), 1)
            for length in range(5, 5 + openvino.KEPT + 3):
                engine(block(5, 5, length), "raw")
            assert len(engine._compiled) == openvino.KEPT
            del engine
            subprocess.run(["sh", "-c", "true & true & wait"], check=True)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_calls_from_several_threads_take_turns():
    engine = OpenVinoEngine(msd(), 1)
    expected, found = engine(block(8, 9, 10), "raw"), []
    callers = [threading.Thread(target=lambda: found.append(engine(block(8, 9, 10), "raw"))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4 and all(np.array_equal(values, expected) for values in found)


def test_what_it_cannot_evaluate_it_does_not_take():
    assert "MS-D" in openvino.why_not_openvino(Identity())
    assert "float64" in openvino.why_not_openvino(msd().double())
    assert not openvino.why_not_openvino(msd())
    assert not OpenVinoEngine(msd(), 1).sweeps  # or torch would compute what was planned for OpenVINO
    with pytest.raises(NoEngine, match="computes on CPUs"):
        engines.load(msd(), name="openvino", device="cuda")


def test_the_network_is_not_changed():
    network = msd()
    before = [p.clone() for p in network.parameters()]
    OpenVinoEngine(network, 1)(block(8, 8, 8), "probability")
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
