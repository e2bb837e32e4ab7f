import numpy as np
import paddle
import pytest

from ppgan_fr import losses
from ppgan_fr.train.recipe import Optim, Phase, Recipe
from ppgan_fr.train.step import DivergedError, Stepper, check_finite, make_optimizer, only_trainable
from tests.train.conftest import Critic, Net, toy_batch, toy_recipe


def weights_of(network):
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def test_only_the_network_of_the_phase_gets_gradients_and_frozen_ones_stay_frozen():
    net, critic = Net(4, 3), Critic()
    critic.last.weight.stop_gradient = True
    with only_trainable(net, among=[net, critic]):
        critic(net(toy_batch(0)["lq"])).mean().backward()
    assert net.first.weight.grad is not None
    assert critic.first.weight.grad is None
    assert not critic.first.weight.stop_gradient
    assert critic.last.weight.stop_gradient


def test_a_generator_phase_leaves_the_critic_alone_and_the_other_way_round():
    recipe = toy_recipe()
    before = weights_of(recipe.networks["critic"])
    only_g = Recipe(networks=recipe.networks, phases=recipe.phases[:1], sample=recipe.sample)
    Stepper(only_g).step([toy_batch(0)], 1)
    assert all((before[name] == value).all() for name, value in weights_of(recipe.networks["critic"]).items())


def test_the_lazy_term_is_added_every_second_step_times_two():
    recipe = toy_recipe()
    stepper = Stepper(recipe)
    batch = toy_batch(0)
    assert "d/r1" not in stepper.step([batch], 1)
    expected = recipe.phases[1].lazy_losses(recipe.sample(batch, 2))["r1"].item()
    assert stepper.step([batch], 2)["d/r1"].item() == pytest.approx(2 * expected, rel=1e-5)


def test_a_detached_term_is_logged_and_not_minimised():
    net = Net(2, 3)
    phase = Phase(name="g", network=net, losses=lambda b: {"score": net(b["lq"]).mean().detach()})
    before = weights_of(net)
    said = Stepper(Recipe(networks={"generator": net}, phases=[phase])).step([toy_batch(0)], 1)
    assert list(said) == ["g/score"]
    assert (before["first.weight"] == net.first.weight.numpy()).all()


def test_two_half_batches_equal_one_batch_without_batch_norm():
    results = []
    whole = toy_batch(0, count=8)
    halves = [{key: value[start : start + 4] for key, value in whole.items()} for start in (0, 4)]
    for batches in ([whole], halves):
        paddle.seed(3)
        critic = Critic()
        phase = Phase(
            name="d",
            network=critic,
            losses=lambda b, critic=critic: {"x": losses.softplus_real(critic(b["gt"]))},
            optim=Optim(kind="sgd", lr=0.1),
        )
        stepper = Stepper(Recipe(networks={"generator": critic}, phases=[phase]))
        for step in range(1, 4):
            said = stepper.step(batches, step)
        results.append((said["d/x"].item(), weights_of(critic)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, value in results[0][1].items():
        np.testing.assert_allclose(value, results[1][1][name], atol=1e-7)


def test_a_loss_that_becomes_nan_stops_before_the_weights_change_and_is_named():
    net = Net(2, 3)
    phase = Phase(
        name="g",
        network=net,
        losses=lambda b: {"fine": net(b["lq"]).mean(), "bad": (net(b["lq"]).mean() * float("nan"))},
    )
    before = weights_of(net)
    with pytest.raises(DivergedError, match=r"step 7: g/bad became nan"):
        Stepper(Recipe(networks={"generator": net}, phases=[phase])).step([toy_batch(0)], 7)
    assert (before["first.weight"] == net.first.weight.numpy()).all()


def test_weights_that_are_no_numbers_are_found():
    net = Net(2, 3)
    net.last.bias.set_value(np.array([0, np.inf, 0], np.float32))
    with pytest.raises(DivergedError, match=r"last\.bias of generator"):
        check_finite({"generator": net}, 3)


def test_a_parameter_without_gradient_is_not_moved_by_old_momentum():
    critic = Critic()
    optimizer = make_optimizer(Optim(betas=(0.9, 0.99)), critic)
    critic(toy_batch(0)["gt"]).mean().backward()
    optimizer.step()
    optimizer.clear_grad(set_to_zero=False)
    before = weights_of(critic)
    (critic.last.bias * 1.0).sum().backward()
    optimizer.step()
    assert (before["first.weight"] == critic.first.weight.numpy()).all()


def test_adam_follows_the_published_formula():
    weight = paddle.create_parameter([1], "float32", default_initializer=paddle.nn.initializer.Constant(1.0))
    holder = paddle.nn.Layer()
    holder.add_parameter("weight", weight)
    optim = Optim(lr=0.1, betas=(0.9, 0.99), eps=0.5)
    optimizer = make_optimizer(optim, holder)
    value, m, v = 1.0, 0.0, 0.0
    for step in range(1, 5):
        (weight**2).sum().backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        gradient = 2 * value
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        value -= 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 0.5)
        assert weight.item() == pytest.approx(value, rel=1e-6)


def test_the_half_precision_switch_runs_the_same_code():
    said = Stepper(toy_recipe(), precision="bfloat16").step([toy_batch(0)], 2)
    assert all(np.isfinite(value.item()) for value in said.values())
