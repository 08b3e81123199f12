"""Networks on disk: what is saved comes back, and nothing else is ever loaded."""

from __future__ import annotations

import json
import os
import pickle
import stat

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from medhpc import nets
from medhpc.errors import BadNetwork, MedhpcError, NoPermission
from medhpc.nets.card import NetworkCard
from medhpc.nets.msd import MSD

torch.set_num_threads(1)


@pytest.fixture
def network():
    network = MSD(2, 3, depth=5, width=2, padding="zero", dilations=(1, 2, 4))
    torch.nn.init.normal_(network.head_weight)
    network.card = NetworkCard(
        normalization={"mean": [10.0, 3.5], "std": [2.0, 1.0]},
        classes=["background", "soma", "glia"],
        voxel_size=[5.0, 2.0, 2.0],
        training={"steps": 12, "volumes": ["brain.tif"]},
    )
    return network


def about(network, **changed):
    return {"format_version": 1, "architecture": network.architecture(), **network.card.to_json(), **changed}


def write(path, tensors, metadata):
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path, {"medhpc": json.dumps(metadata)})
    return path


def refused(path, word="."):
    with pytest.raises(BadNetwork, match=word) as caught:
        nets.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_saved_network_comes_back(tmp_path, network):
    network.save(tmp_path / "net.safetensors")
    again = nets.load(tmp_path / "net.safetensors")
    x = torch.randn(1, 2, 6, 7, 8)
    with torch.no_grad():
        assert torch.equal(again(x), network(x))
    assert again.card == network.card and again.architecture() == network.architecture()
    assert not again.training
    assert again(x).requires_grad  # can be trained further
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_windows_are_kept_and_files_without_them_are_read(tmp_path):
    network = MSD(2, 2, 3, window=[None, (-0.5, 1.25)])
    network.save(tmp_path / "net.safetensors")
    assert nets.load(tmp_path / "net.safetensors").window == (None, (-0.5, 1.25))
    older = about(network)
    del older["architecture"]["window"]
    assert nets.load(write(tmp_path / "old.safetensors", network.state_dict(), older)).window is None


def test_umask_is_respected(tmp_path, network):
    before = os.umask(0o027)
    try:
        network.save(tmp_path / "net.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "net.safetensors").stat().st_mode) == 0o640


def test_failed_save_leaves_the_old_file(tmp_path, network, monkeypatch):
    path = tmp_path / "net.safetensors"
    network.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(MedhpcError, match="full"):
        network.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net.safetensors"]


def test_save_asks_for_its_suffix_and_its_folder(tmp_path, network):
    with pytest.raises(BadNetwork, match="safetensors"):
        network.save(tmp_path / "net.pt")
    with pytest.raises(NoPermission, match="folder"):
        network.save(tmp_path / "absent" / "net.safetensors")


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pkl", "net.safetensors", "net.onnx", "net"])
def test_pickles_are_never_loaded(tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    torch.save({"a": Bomb()}, tmp_path / name)
    refused(tmp_path / name, "execute code")
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / name, "execute code")
    assert not (tmp_path / "exploded").exists()


def test_text_and_absent_files_are_refused(tmp_path):
    refused(tmp_path / "absent.safetensors", "no such network")
    (tmp_path / "net.safetensors").write_text("weights")
    refused(tmp_path / "net.safetensors", "not a safetensors")
    (tmp_path / "net.safetensors").write_bytes(b"")
    refused(tmp_path / "net.safetensors", "not a safetensors")
    refused(tmp_path, "no such network")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_truncated_and_damaged_files(tmp_path, network, data):
    """A cut anywhere is refused; flipped bits never raise anything but our own error."""
    path = tmp_path / "net.safetensors"
    network.save(path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut])
    refused(path)
    place = data.draw(st.integers(0, min(3000, len(whole) - 1)))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :])
    try:
        nets.load(path)
    except BadNetwork as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "changed, word",
    [
        ({"format_version": 2}, "version 2"),
        ({"format_version": None}, "version None"),
        ({"architecture": {"name": "unet"}}, "'unet'"),
        ({"architecture": "msd"}, "'msd'"),
        ({"architecture": {"name": "msd"}}, "do not fit"),
        ({"architecture": {"name": "msd", "depth": 10**12, "in_channels": 1, "out_channels": 1}}, "depth"),
        ({"architecture": {"name": "msd", "depth": 900, "in_channels": 4096, "out_channels": 4096}}, "do not fit"),
        ({"architecture": {"name": "msd", "depth": 4, "in_channels": 2, "out_channels": 3}}, "do not fit"),
        ({"architecture": {"name": "msd", "depth": 4, "in_channels": 2, "out_channels": 3, "code": 1}}, "do not fit"),
        ({"normalization": {"mean": [1.0]}}, "normalization"),
        ({"normalization": {"mean": [1.0], "std": [0.0]}}, "normalization"),
        ({"classes": "ab"}, "class"),
        ({"voxel_size": [1.0]}, "voxel size"),
        ({"training": 3}, "training"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, network, changed, word):
    path = write(tmp_path / "net.safetensors", network.state_dict(), about(network, **changed))
    refused(path, word)


def test_tensors_that_do_not_fit_are_refused(tmp_path, network):
    path = tmp_path / "net.safetensors"
    tensors = dict(network.state_dict())
    refused(write(path, {**tensors, "more": torch.zeros(1)}, about(network)), "do not fit")
    refused(write(path, {**tensors, "head_bias": torch.zeros(7)}, about(network)), "do not fit")
    refused(write(path, {**tensors, "head_bias": torch.zeros(3, dtype=torch.int32)}, about(network)))
    save_file({"a": torch.zeros(1)}, path)
    refused(path, "without medhpc's description")


def test_unknown_keys_of_later_versions_are_passed_over(tmp_path, network):
    path = write(tmp_path / "net.safetensors", network.state_dict(), about(network, colour="blue"))
    assert nets.load(path).card == network.card


def test_digests_tell_networks_apart(tmp_path, network):
    path = tmp_path / "net.safetensors"
    network.save(path)
    other = MSD(2, 3, depth=5, width=2, padding="reflect", dilations=(1, 2, 4))
    other.load_state_dict(network.state_dict())
    digests = {nets.digest(path), nets.digest(network), nets.digest(other), nets.digest("identity")}
    assert len(digests) == 4 and all(len(d) == 64 for d in digests)
    assert nets.digest(nets.load(path)) == nets.digest(network)
    assert nets.digest(nets.load("identity")) == nets.digest("identity")
    with torch.no_grad():
        network.head_bias[0] += 1
    assert nets.digest(network) not in digests
    with pytest.raises(BadNetwork):
        nets.digest(tmp_path / "absent")


def test_a_header_of_any_length_is_no_pickle(tmp_path):
    # The length of the header comes first; its lowest byte can be 0x80, with which a pickle begins.
    path, first_bytes = tmp_path / "net.safetensors", set()
    for length in range(0, 256, 8):
        network = MSD(1, 2, 1)
        network.card = NetworkCard(training={"note": "x" * length})
        network.save(path)
        first_bytes.add(path.read_bytes()[0])
        assert nets.load(path).depth == 1
    assert 0x80 in first_bytes
