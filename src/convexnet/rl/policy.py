"""The policy that is saved: a negated Q with the actions that it may take; and who acts by it, with a proof."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convexnet.domains import Box, Polyhedron
from convexnet.memory import remember_example
from convexnet.rl.environments import Description
from convexnet.rl.networks import NAF
from convexnet.solve import Minimiser, Solution

TOLERANCE = 1e-4
"""How exactly the best action is found, by default: see `tol` of `minimise`."""


class Policy(nn.Module):
    """A negated Q-function, and all that is needed to act by it in its environment.

    `convexnet.save` and `load` keep it whole, without pickle; `convexnet.certify(policy, example, wrt=1)` proves that
    it is convex in the action.

    Args:
        f: the negated Q, (B, s), (B, m) -> (B, 1), convex in actions of [-1, 1]^m.
        description: of the environment.
        domain: the part of [-1, 1]^m that actions are chosen from; None: all.

    Shape: (B, s), (B, m) -> (B, 1).

    Example:
        >>> from convexnet.rl.networks import negated_q
        >>> two = torch.full((2,), 2.0)
        >>> policy = Policy(negated_q(3, 2, (8,)), Description("Some-v0", 3, 2, -two, two))
        >>> policy(torch.zeros(5, 3), torch.zeros(5, 2)).shape, policy.domain
        (torch.Size([5, 1]), Box(shape=(2,), lo=-1, hi=1))
    """

    def __init__(self, f: nn.Module, description: Description, domain: Polyhedron | None = None) -> None:
        super().__init__()
        self.f = f
        self.environment = description.name
        self.register_buffer("low", description.low.clone())
        self.register_buffer("high", description.high.clone())
        below = None if domain is None else domain.below
        if domain is not None and (below is None or domain.equal is not None or below.right.ndim != 1):
            raise ValueError("the actions of a Policy lie in a Polyhedron with rows A a <= b, without a batch")
        size = description.actions
        self.register_buffer("matrix", torch.zeros(0, size) if below is None else below.matrix.float())
        self.register_buffer("right", torch.zeros(0) if below is None else below.right.float())
        self.states = description.states
        remember_example(self, (torch.zeros(1, description.states), torch.zeros(1, size)))

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.f(states, actions)

    @property
    def description(self) -> Description:
        """Return what was known of the environment."""
        low, high = self.get_buffer("low"), self.get_buffer("high")
        return Description(self.environment, self.states, len(low), low, high)

    @property
    def domain(self) -> Box | Polyhedron:
        """Return the set that actions are chosen from."""
        box = Box(-1.0, 1.0, shape=len(self.get_buffer("low")))
        matrix, right = self.get_buffer("matrix"), self.get_buffer("right")
        return Polyhedron(matrix.double(), right.double(), within=box) if len(matrix) else box


class Actor:
    """Who acts by a policy: the best action of every state, found exactly, from where the last search ended.

    The policy is as it was when the actor was made, until `refresh()`.

    Args:
        policy: a policy, which acts by the proof of its convexity, or one with a `NAF`, whose best action is known.
        tol: of `minimise`.

    Attributes:
        asked, proved: how many actions were chosen, and how many with a gap that is proved to be within `tol`.

    Raises:
        NotCertified: at the first action, where f is not proved convex in the action.

    Example:
        >>> from convexnet.rl.networks import negated_q
        >>> one = torch.ones(1)
        >>> actor = Actor(Policy(negated_q(3, 1, (8,)), Description("Some-v0", 3, 1, -one, one)))
        >>> actor(torch.randn(4, 3)).shape, actor.asked, actor.proved
        (torch.Size([4, 1]), 4, 4)
    """

    def __init__(self, policy: Policy, tol: float = TOLERANCE) -> None:
        self.policy, self.domain = policy, policy.domain
        self.known = isinstance(policy.f, NAF)
        self.solver: Any = None if self.known else Minimiser(policy.f, self.domain, tol=tol)
        self.last: Solution | None = None
        self.asked = self.proved = 0

    def refresh(self) -> None:
        """Take the policy as it is now.

        Example:
            >>> from convexnet.rl.networks import NAF
            >>> one = torch.ones(1)
            >>> Actor(Policy(NAF(3, 1, (8,)), Description("Some-v0", 3, 1, -one, one))).refresh()
        """
        if self.solver is not None:
            self.solver.refresh()

    def __call__(self, states: Tensor) -> Tensor:
        """Return the best actions (B, m), in [-1, 1]^m."""
        self.asked += len(states)
        if isinstance(self.policy.f, NAF):
            self.proved += len(states) if isinstance(self.domain, Box) else 0
            with torch.no_grad():
                actions, _ = self.policy.f.best(states)
            return actions if isinstance(self.domain, Box) else self.domain.project(actions)
        with torch.no_grad():
            start = self.last if self.last is not None and len(self.last.x) == len(states) else None
            self.last = self.solver(states, start=start)
        assert self.last is not None
        self.proved += int(self.last.converged.sum())
        return self.last.x.float()
