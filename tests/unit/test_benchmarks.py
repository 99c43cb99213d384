"""What the benchmark compares is equal: losses and gradients of the training step, and what comes out of the rest."""

from __future__ import annotations

import torch

from tests.benchmarks import clustering, training
from tests.benchmarks.sides import Row, Size, compare
from tests.benchmarks.table import as_table


def tiny_setup() -> training.Setup:
    config = training.config_of(Size(quick=True, folder=None))
    # AdamW's first steps are as long for a gradient of 1e-12 as for one of 1: rounding would be seen in the next losses.
    config.train.learning_rate = 1e-9
    return training.Setup.of(config, clip_s=0.2).double()


def distance(ours: torch.nn.Module, plain: torch.nn.Module) -> float:
    """Largest difference of a parameter's gradient, relative to the norm of the plain one's.

    Gradients below 1e-9 of the whole are rounding: a key's bias shifts all scores of a row, which softmax ignores.
    """
    theirs = {name: parameter.grad for name, parameter in plain.named_parameters()}
    smallest = 1e-9 * torch.stack([grad.norm() for grad in theirs.values()]).norm()
    return max(
        float((parameter.grad - theirs[name]).norm() / theirs[name].norm().clamp_min(smallest))
        for name, parameter in ours.named_parameters()
    )


def test_our_training_step_has_the_plain_ones_losses_and_gradients() -> None:
    ours, plain = tiny_setup(), tiny_setup()
    state, step = ours.our_state(), plain.plain_step()
    gradients = gradients_after_each_backward(state.optimizer_d)
    torch.manual_seed(4)
    losses = training.train_step(state, ours.batch)
    plain_gradients = gradients_after_each_backward(step.optimizer_d)
    torch.manual_seed(4)
    expected = step(plain.batch)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(
            loss, expected[name].detach(), rtol=1e-6, atol=0, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert distance(state.generator, step.generator) < 1e-7
    for mine, theirs in zip(gradients, plain_gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-7 * theirs.norm()


def gradients_after_each_backward(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Filled by the optimiser's next step with copies of the gradients it is given."""
    kept: list[torch.Tensor] = []
    inner = getattr(optimizer, "optimizer", optimizer)

    def keep(*_: object) -> None:
        kept.extend(p.grad.clone() for group in inner.param_groups for p in group["params"])

    inner.register_step_pre_hook(keep)
    return kept


def test_our_inference_gives_the_plain_ones_audio() -> None:
    size = Size(quick=True, folder=None)
    ours, plain = training.our_inference(size)(), training.plain_inference(size)()
    assert abs(ours["mean_square"] - plain["mean_square"]) < 1e-5 * plain["mean_square"]


def test_our_centers_are_as_close_as_the_plain_ones() -> None:
    size = Size(quick=True, folder=None)
    ours, plain = clustering.our_centers(size)(), clustering.plain_centers(size)()
    assert ours["mean_squared_distance"] < 1.05 * plain["mean_squared_distance"]


def test_a_row_is_measured_on_both_sides_and_reported() -> None:
    row = Row("k-means", clustering.our_centers, clustering.plain_centers)
    done = compare(row, Size(quick=True, folder=None))
    assert len(done.ratios()) == 1 and done.ours.peak_bytes > 10_000_000
    table = as_table([done], title="quick", quick=True)
    assert "| k-means |" in table and "mean squared distance" in table
