"""Weights on disk."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from strategies import specs

from lightning_lemonade.errors import HistoryError
from lightning_lemonade.graph import GraphSpec, build
from lightning_lemonade.history.weights import read_weights, weights_name, write_weights


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(spec=specs())
def test_the_weights_of_any_network_come_back_bit_for_bit(path: Path, spec: GraphSpec) -> None:
    state = build(spec).state_dict()
    checksum = write_weights(path, {"raw": state})
    back = read_weights(path, checksum)
    assert sorted(back) == sorted(state)
    assert all(torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)
    assert write_weights(path, {"raw": state}) == checksum


def test_sets_are_kept_apart_even_where_they_share_memory(path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    checksum = write_weights(path, {"raw": {"n1.weight": weight, "n2.weight": weight.T}, "averaged": {"n1.weight": weight + 1}})
    raw, averaged = read_weights(path, checksum), read_weights(path, checksum, "averaged")
    assert torch.equal(raw["n1.weight"], weight)
    assert torch.equal(raw["n2.weight"], weight.T)
    assert list(averaged) == ["n1.weight"]
    assert torch.equal(averaged["n1.weight"], weight + 1)
    with pytest.raises(HistoryError, match="no set 'polished'; they hold: averaged, raw"):
        read_weights(path, checksum, "polished")


def test_values_that_are_no_numbers_and_empty_tensors_come_back(path: Path) -> None:
    state = {"a": torch.tensor([float("nan"), float("inf"), -0.0]), "b": torch.zeros(0, 3), "c": torch.tensor(7)}
    back = read_weights(path, write_weights(path, {"raw": state}))
    assert torch.equal(back["a"].view(torch.int32), state["a"].view(torch.int32))
    assert back["b"].shape == (0, 3)
    assert back["c"].item() == 7
    back["a"].zero_()  # writable


@pytest.mark.parametrize("position", [0, 9, 100, -1])
def test_a_flipped_bit_is_noticed(path: Path, position: int) -> None:
    checksum = write_weights(path, {"raw": {"n1.weight": torch.ones(64)}})
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(HistoryError, match="damaged"):
        read_weights(path, checksum)


@pytest.mark.parametrize("length", [0, 7, 50, -1])
def test_a_truncated_file_is_noticed(path: Path, length: int) -> None:
    checksum = write_weights(path, {"raw": {"n1.weight": torch.ones(64)}})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(HistoryError, match="damaged"):
        read_weights(path, checksum)


def test_a_missing_file_and_a_foreign_one_are_errors(path: Path) -> None:
    with pytest.raises(HistoryError, match="can't be read"):
        read_weights(path, "0" * 64)
    torch.save({"n1.weight": torch.ones(1)}, path)
    import hashlib

    with pytest.raises(HistoryError, match="no safetensors file"):
        read_weights(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksum = write_weights(path, {"raw": {"n1.weight": torch.ones(4)}})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HistoryError, match=r"can't be written.*No space left"):
        write_weights(path, {"raw": {"n1.weight": torch.zeros(4)}})
    assert torch.equal(read_weights(path, checksum)["n1.weight"], torch.ones(4))


@pytest.mark.parametrize("name", ["", "a/b"])
def test_names_of_sets_are_checked(path: Path, name: str) -> None:
    with pytest.raises(HistoryError, match="set of weights"):
        write_weights(path, {name: {}})


def test_file_names_hold_numbers_only() -> None:
    assert weights_name(7, 1) == "weights/000007-1.safetensors"
    assert weights_name(12345678, 0) == "weights/12345678-0.safetensors"
