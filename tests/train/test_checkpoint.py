import numpy as np
import pytest
from paddle import nn

from ppgan_fr.train import checkpoint
from ppgan_fr.train.checkpoint import Checkpoint, CheckpointError
from ppgan_fr.train.recipe import Optim
from ppgan_fr.train.step import make_optimizer
from tests.train.conftest import Critic, toy_batch


def small(step):
    return Checkpoint(
        {"generator": {"a": np.full(3, step, np.float32)}}, {"g": {"a|moment1": np.ones(3)}}, {"step": step}
    )


def test_what_is_saved_is_what_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "latest", small(4))
    kept = checkpoint.load(tmp_path / "latest")
    assert kept.counters == {"step": 4}
    np.testing.assert_array_equal(kept.networks["generator"]["a"], [4, 4, 4])
    np.testing.assert_array_equal(kept.optimizers["g"]["a|moment1"], [1, 1, 1])
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


@pytest.mark.parametrize("when", ["while writing", "between the renames", "before cleaning up"])
def test_a_kill_at_any_time_leaves_a_whole_checkpoint(tmp_path, monkeypatch, when):
    latest = tmp_path / "latest"
    checkpoint.save(latest, small(1))

    class Killed(BaseException):
        pass

    def kill(*_args, **_kwargs):
        raise Killed

    renamed = checkpoint.Path.rename

    def rename(self, target):
        if self.name.endswith(".tmp"):
            raise Killed
        return renamed(self, target)

    if when == "while writing":
        monkeypatch.setattr(checkpoint.np, "savez", kill)
    elif when == "between the renames":
        monkeypatch.setattr(checkpoint.Path, "rename", rename)
    else:
        monkeypatch.setattr(checkpoint, "_flush_parent", kill)
    with pytest.raises(Killed):
        checkpoint.save(latest, small(2))
    monkeypatch.undo()
    found = checkpoint.find(latest)
    assert checkpoint.load(found).counters["step"] == (2 if when == "before cleaning up" else 1)
    checkpoint.save(latest, small(3))
    assert checkpoint.load(checkpoint.find(latest)).counters["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


def test_a_broken_checkpoint_is_one_clear_error(tmp_path):
    checkpoint.save(tmp_path / "latest", small(1))
    state = tmp_path / "latest" / checkpoint.STATE_FILE
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        checkpoint.load(tmp_path / "latest")


def test_nothing_there_is_nothing_found(tmp_path):
    assert checkpoint.find(tmp_path / "latest") is None


def test_a_milestone_stays_when_the_latest_changes(tmp_path):
    checkpoint.save(tmp_path / "latest", small(1))
    checkpoint.copy(tmp_path / "latest", tmp_path / "step_00000001")
    checkpoint.save(tmp_path / "latest", small(2))
    assert checkpoint.load(tmp_path / "step_00000001").counters["step"] == 1


def test_optimizer_state_does_not_care_what_was_built_first():
    def train(critic, optimizer, count):
        for _ in range(count):
            critic(toy_batch(1)["gt"]).mean().backward()
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)

    first = Critic()
    optimizer = make_optimizer(Optim(), first)
    train(first, optimizer, 2)
    state, networks = checkpoint.optimizer_state(optimizer, first), first.state_dict()
    nn.Conv2D(3, 3, 3)  # shifts Paddle's own numbering
    second = Critic()
    second.set_state_dict({name: value.numpy() for name, value in networks.items()})
    other = make_optimizer(Optim(), second)
    checkpoint.load_optimizer_state(other, second, state)
    train(first, optimizer, 2)
    train(second, other, 2)
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), second.state_dict()[name].numpy())


def test_state_of_another_network_is_refused():
    critic = Critic()
    with pytest.raises(CheckpointError, match="do not exist: other"):
        checkpoint.load_optimizer_state(make_optimizer(Optim(), critic), critic, {"other|moment1": np.ones(1)})
