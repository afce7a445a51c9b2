"""`rollout`: the cost of a sequence of controls, as one convex function of all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convexnet.arrays import is_whole
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.certificate import certify


class Rollout(nn.Module):
    """The cost of a sequence of controls: what `rollout` makes.

    Args:
        dynamics: (state, control) -> the next state.
        cost: (state, control) -> (B,) or (B, 1), of every step, at its state before the step.
        horizon: the number of steps.
    """

    def __init__(self, dynamics: nn.Module, cost: nn.Module, horizon: int) -> None:
        super().__init__()
        self.dynamics, self.cost, self.horizon = dynamics, cost, horizon

    def forward(self, state: Tensor, controls: Tensor) -> Tensor:
        """The sum of the costs, (B,), of controls (B, horizon, m)."""
        total = torch.zeros(())
        for step in range(self.horizon):
            control = controls[:, step]
            spent = self.cost(state, control)
            total = total + (spent[:, 0] if spent.ndim == 2 else spent)
            state = self.dynamics(state, control)
        return total


def rollout(
    dynamics: nn.Module, cost: nn.Module, horizon: int, example: tuple[Tensor, Tensor] | None = None
) -> Rollout:
    """Return the cost of a sequence of controls as one module, to be minimised over them (model predictive control).

    Args:
        dynamics: (state (B, s), control (B, m)) -> the next state (B, s).
        cost: (state, control) -> (B,) or (B, 1), of every step.
        horizon: the number of steps.
        example: a state and controls (B, horizon, m), to certify the module with at once; None: `minimise` certifies it
            when it is first used.

    Returns:
        A module (state, controls) -> (B,). It is convex in the controls where, as the calculus proves, the cost is
        convex and the dynamics affine; or the dynamics convex and the cost convex and non-decreasing in the state.

    Raises:
        NotCertified: the example shows that it is not proved convex in the controls.
        ValueError: a horizon below 1.

    Source: Chen, Shi & Zhang (2019), "Optimal control via neural networks: a convex approach".

    Example:
        >>> import convexnet as cx
        >>> class Drift(torch.nn.Module):
        ...     def forward(self, state, control):
        ...         return 0.9 * state + control
        >>> class Effort(torch.nn.Module):
        ...     def forward(self, state, control):
        ...         return state.square().sum(1) + 0.1 * control.square().sum(1)
        >>> plan = rollout(Drift(), Effort(), 3)
        >>> found = cx.minimise(plan, cx.Box(-1, 1, shape=(3, 1)), given=torch.ones(1, 1))
        >>> found.status, bool(found.x[0, 0, 0] < -0.7)
        (('converged',), True)
    """
    if not is_whole(horizon) or int(horizon) < 1:
        raise ValueError(f"horizon is a number of steps, at least 1, not {horizon!r}")
    made = Rollout(unwrap(dynamics), unwrap(cost), int(horizon))
    if example is not None:
        certify(made, example, wrt=1).require()
    return made
