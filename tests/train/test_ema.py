import numpy as np
import paddle

from ppgan_fr.train.ema import Ema
from tests.train.conftest import Net, toy_batch


def test_the_average_follows_what_learns_and_copies_the_rest():
    net = Net(4, 3)
    net.last.weight.stop_gradient = True
    ema = Ema(net, 0.75)
    first = net.first.weight.numpy().copy()
    with paddle.no_grad():
        net.first.weight.set_value(first + 1)
        net.last.weight.set_value(net.last.weight + 1)
    net.train()
    net(toy_batch(0)["lq"])  # moves the batch statistics
    ema.update()
    np.testing.assert_allclose(ema.average["first.weight"].numpy(), first + 0.25, rtol=1e-6)
    np.testing.assert_array_equal(ema.average["last.weight"].numpy(), net.last.weight.numpy())
    np.testing.assert_array_equal(ema.average["norm._mean"].numpy(), net.norm._mean.numpy())


def test_the_average_is_in_place_only_within_the_context():
    net = Net(4, 3)
    net.train()
    ema = Ema(net, 0.5)
    with paddle.no_grad():
        net.first.weight.set_value(net.first.weight + 1)
    own = net.first.weight.numpy().copy()
    with ema.applied() as averaged:
        np.testing.assert_allclose(averaged.first.weight.numpy(), own - 1, rtol=1e-5, atol=1e-6)
        assert not averaged.training
    np.testing.assert_array_equal(net.first.weight.numpy(), own)
    assert net.training
    assert not net.first.weight.stop_gradient
