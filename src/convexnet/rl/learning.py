"""Q-learning with a Q-function whose negative is convex in the action: the best action is the least of a convex f."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import convexnet.constraints as constraints
from convexnet.domains import Box, Polyhedron
from convexnet.errors import ConvexNetError
from convexnet.learner import Attributes, Point
from convexnet.rl.argmin import Best, bundle_entropy, cutting_planes
from convexnet.rl.copies import Environments
from convexnet.rl.environments import Environment
from convexnet.rl.evaluate import returns
from convexnet.rl.networks import NAF, function_at, negated_q
from convexnet.rl.noise import OrnsteinUhlenbeck
from convexnet.rl.policy import TOLERANCE, Actor, Policy
from convexnet.rl.replay import Batch, Ring
from convexnet.rl.settings import Settings
from convexnet.solve import Minimiser
from convexnet.training import derived_seed

CHUNK = 100
"""Steps that one `advance` takes at most: a few seconds."""

LARGEST = 10.0
"""The norm that a gradient is shortened to."""


class QLearning(Attributes):
    """Learn Q(s, a) = −f(s, a), with f convex in a, from an environment.

    Targets are r + γ max_a' Q'(s', a'), with Q' a slowly following copy; where the environment ended the episode by
    itself they are r, and where it was cut off by a limit of time it counts as going on. An actor would be a second
    network that learns where Q is largest: here that is found by convex minimisation.

    All that happens is drawn from `seed` and from where the learner is: stopped between two calls of `advance` and
    restored, it goes on to the same end, where the environment is one that the same seed and actions lead through the
    same states.

    Args:
        makes: makes an environment with a Box of actions (`convexnet.rl.make`).
        settings: all else.
        seed: of the start, the exploration, the order of learning and the episodes.
        domain: a polyhedron of [-1, 1]^m that actions must lie in (see `power_budget`); None: all of it.

    Raises:
        ValueError: settings that do not go together.
        EnvironmentFault: in `advance`: the environment raises, or returns what is not a finite number.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), sections 4.3 and 6.3; with "naf" Gu et al.
        (2016).

    Example:
        >>> from convexnet.learner import run
        >>> from convexnet.rl import make
        >>> small = Settings(steps=40, warmup=20, batch=8, hidden=(8, 8), every=20, episodes=1)
        >>> learner = QLearning(lambda: make("Pendulum-v1", max_episode_steps=5), small, seed=0)
        >>> [point["step"] for point in run(learner)]
        [20, 40]
    """

    kept = (
        *("step", "network", "target", "optimiser", "noise", "generator", "ring", "environments", "scale"),
        *("updates", "losses", "seconds", "best", "chosen", "acting", "read_at"),
    )

    def __init__(
        self,
        makes: Callable[[], Environment],
        settings: Settings | None = None,
        seed: int = 0,
        domain: Polyhedron | None = None,
    ) -> None:
        own = Settings() if settings is None else settings
        self.makes, self.settings, self.seed = makes, own, seed
        self.environments = Environments(makes, own.copies, seed)
        known = self.environments.description
        if domain is not None and domain.shape.numel() != known.actions:
            raise ValueError(f"the domain has {domain.shape.numel()} elements, and actions have {known.actions}")
        if domain is not None and own.method == "icnn" and "bundle-entropy" in (own.targets, own.acting):
            raise ValueError(
                "the entropy is that of a cube: over a polyhedron choose targets and acting of cutting-planes or exact"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "network"))
            self.network: nn.Module = (negated_q if own.method == "icnn" else NAF)(
                known.states, known.actions, own.hidden
            )
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=own.rate, weight_decay=own.l2, fused=True)
        if own.method == "icnn":
            example = torch.zeros(2, known.states), torch.zeros(2, known.actions)
            constraints.constrain(self.network, example, wrt=1).attach(self.optimiser)
        self.limits, self.policy = domain, Policy(self.network, known, domain)
        self.domain = self.policy.domain
        # Exact acting reads the network now and then: what it read is a part of the state.
        self.acting: nn.Module = copy.deepcopy(self.network) if own.acting == "exact" else nn.Identity()
        self.actor = Actor(self.policy)
        self.noise = OrnsteinUhlenbeck(own.copies, known.actions, own.theta, own.sigma)
        self.generator = torch.Generator().manual_seed(derived_seed(seed, "drawing"))
        self.ring = Ring(min(own.replay, own.steps), known.states, known.actions)
        self.step = self.updates = self.read_at = 0
        self.scale = own.scale
        self.losses: list[float] = []
        self.chosen = torch.zeros(own.copies, known.actions)
        self.seconds: dict[str, float] = dict.fromkeys(("argmin", "learning", "simulator", "evaluation"), 0.0)
        self.best = -math.inf

    @property
    def done(self) -> bool:
        """Return whether all steps have been taken."""
        return self.step >= self.settings.steps

    def advance(self) -> Point | None:
        """Take some steps, up to the next evaluation; return what that measured."""
        own = self.settings
        if own.acting == "exact":
            self.actor = self.actor_of(self.acting)
        next_look = min(own.steps, (self.step // own.every + 1) * own.every)
        for _ in range(CHUNK):
            self.one_step()
            if self.step >= next_look:
                return self.evaluated()
        return None

    def actor_of(self, f: nn.Module) -> Actor:
        """Who acts by f as it is now.

        What was asked of a network before may change the last bits of what is found; so each gets a copy of its own,
        and a run that was stopped finds the same as one that was not.
        """
        return Actor(Policy(copy.deepcopy(f), self.environments.description, self.limits))

    # --- one step ---

    def one_step(self) -> None:
        """Act with every copy, remember, and learn."""
        own = self.settings
        states = self.environments.states.clone()
        actions = self.explore(states)
        with self.clock("simulator"):
            taken = self.environments.step(actions)
        self.ring.add(states, actions, taken.rewards, taken.states, taken.terminated)
        self.noise.begin(taken.ended)
        self.step += own.copies
        if self.step < own.warmup:
            return
        if not self.scale:
            self.scale = float(self.ring.rewards[: len(self.ring)].square().mean().sqrt()) or 1.0
        for _ in range(own.updates * own.copies):
            self.learn(self.ring.sample(own.batch, self.generator))

    def explore(self, states: Tensor) -> Tensor:
        """The actions to take, (n, m): the best ones and noise, or random ones in the warm-up."""
        if self.step < self.settings.warmup:
            shape = len(states), self.environments.description.actions
            return self.allowed(2 * torch.rand(shape, generator=self.generator) - 1)
        with self.clock("argmin"):
            self.chosen = self.best_now(states)
        return self.allowed(self.chosen + self.noise.draw(self.generator))

    def best_now(self, states: Tensor) -> Tensor:
        """The best actions by the network that learns, (n, m)."""
        own = self.settings
        if own.acting == "exact":
            if self.updates - self.read_at >= own.refresh:
                self.read_at = self.updates
                self.acting.load_state_dict(self.network.state_dict())
                self.actor.policy.f.load_state_dict(self.network.state_dict())
                self.actor.refresh()
            return self.actor(states)
        if own.method == "naf":
            return self.actor(states)
        return self.few_cuts(own.acting, self.network, states, self.chosen).actions.float()

    def allowed(self, actions: Tensor) -> Tensor:
        """The nearest actions that may be taken."""
        clipped = actions.clamp(-1, 1)
        if isinstance(self.domain, Box) or bool(self.domain.contains(clipped).all()):
            return clipped
        return self.domain.project(actions)

    # --- learning ---

    def learn(self, batch: Batch) -> None:
        """Make one update of the network and of the copy that follows it."""
        own = self.settings
        with self.clock("argmin"), torch.no_grad():
            after, actions = self.value_after(batch)
        with self.clock("learning"):
            self.ring.guess[batch.rows] = actions
            aim = batch.rewards / self.scale + own.gamma * (1 - batch.terminal) * after
            found = -self.network(batch.states, batch.actions)[:, 0]
            loss = torch.nn.functional.mse_loss(found, aim)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST)
            self.optimiser.step()
            with torch.no_grad():
                for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
                    slow.lerp_(fast, own.tau)
        if not math.isfinite(value := float(loss.detach())):
            raise ConvexNetError(
                f"the loss is {value} in step {self.step}: a smaller rate than {own.rate:g}, or a larger scale than "
                f"{self.scale:g} for the rewards, may help; the last checkpoint is whole"
            )
        self.losses.append(value)
        self.updates += 1

    def value_after(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """max_a Q'(s', a), (B,), and the actions, (B, m)."""
        own = self.settings
        chooser = self.network if own.double else self.target
        if isinstance(chooser, NAF):
            actions, least = chooser.best(batch.after)
        else:
            best = self.few_cuts(own.targets, chooser, batch.after, batch.guess)
            actions, least = best.actions.float(), best.values.float()
        if own.double:
            least = self.target(batch.after, actions)[:, 0]
        return -least, actions

    def few_cuts(self, how: str, f: nn.Module, states: Tensor, start: Tensor) -> Best:
        """The best actions of some states, and f there, by the way that was chosen."""
        own = self.settings
        if how == "exact":
            solver = Minimiser(f, self.domain, tol=TOLERANCE)
            found = solver(states, start=start)
            return Best(found.x, found.value, found.lower_bound)
        here = function_at(f, states)
        if how == "bundle-entropy":
            return bundle_entropy(here, start, own.cuts, own.weight)
        matrix, right = self.policy.get_buffer("matrix").double(), self.policy.get_buffer("right").double()
        return cutting_planes(here, start, (matrix, right), self.centre, own.cuts)

    @property
    def centre(self) -> Tensor:
        """A point strictly inside of the set of actions."""
        return self.domain.centre.double()

    # --- measuring ---

    def evaluated(self) -> Point:
        """Play episodes without noise, and return what is known at this step."""
        own = self.settings
        with self.clock("evaluation"):
            actor = self.actor_of(self.network)
            earned = returns(actor, self.makes, own.episodes, self.seed)
        mean = sum(earned) / len(earned)
        point: Point = {"step": self.step, "return": mean, "least": min(earned), "most": max(earned)}
        point["proved"] = actor.proved / max(1, actor.asked)
        for name, values in (("loss", self.losses), ("exploring", self.environments.finished)):
            if values:
                point[name] = sum(values) / len(values)
            values.clear()
        self.best = max(self.best, mean)
        return point

    @contextmanager
    def clock(self, what: str) -> Generator[None, None, None]:
        """Add the processor seconds that something takes."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[what] += time.process_time() - start
