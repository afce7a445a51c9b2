"""Q-learning: what is learnt is known, episodes end in two ways, faults are words, and a stop changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import convexnet as cx
from convexnet.learner import run
from convexnet.rl import EnvironmentFault, Environments, LimitedActions, Policy, QLearning, Settings, make, power_budget
from convexnet.rl.environments import describe
from tests.rl import worlds

SMALL = Settings(steps=60, warmup=20, batch=16, hidden=(16, 16), every=30, episodes=1, gamma=0.5, scale=1.0)


def short() -> gym.Env[Any, Any]:
    """Pendulum with episodes of seven steps."""
    return make("Pendulum-v1", max_episode_steps=7)


@pytest.mark.parametrize(("terminal", "value"), [(True, 1.0), (False, 2.0)])
def test_a_terminal_state_is_worth_nothing_and_one_that_was_cut_off_goes_on(terminal: bool, value: float) -> None:
    own = replace(SMALL, steps=160, every=160, warmup=40, tau=0.3, rate=5e-3, l2=0.0)
    learner = QLearning(lambda: worlds.Ending(terminal), own, seed=1)
    run(learner)
    assert bool((learner.ring.terminal[: len(learner.ring)] == float(terminal)).all())
    with torch.no_grad():
        q = -learner.network(2 * torch.rand(50, 2) - 1, 2 * torch.rand(50, 1) - 1)
    assert float((q - value).abs().mean()) < 0.1


def greedy_error(learner: QLearning) -> float:
    """How far the learnt greedy action is from the linear-quadratic regulator's, as a share of the range of actions."""
    world = worlds.Quadratic()
    gain = torch.from_numpy(world.gain(learner.settings.gamma)).float()
    torch.manual_seed(5)
    states = 1.4 * torch.rand(200, 2) - 0.7
    policy: Any = learner.policy
    actions = learner.environments.description.scaled(cx.rl.Actor(policy)(states))
    return float((actions + states @ gain.T).abs().mean() / 4)


def quadratic(steps: int, **changes: Any) -> QLearning:
    """A learner of the linear-quadratic problem."""
    given = {"steps": steps, "every": steps, "warmup": 500, "batch": 256, "hidden": (64, 64), "rate": 3e-3, "l2": 0.0}
    settings = Settings(**{**given, "gamma": 0.8, "tau": 0.05, "sigma": 0.5, "episodes": 1, "weight": 0.01, **changes})
    learner = QLearning(worlds.Quadratic, settings, seed=0)
    run(learner)
    return learner


@pytest.mark.slow
def test_the_greedy_action_is_that_of_the_regulator() -> None:
    """On average within 2 % of the range of actions, where 6,000 steps come to 1.3 %."""
    assert greedy_error(quadratic(3000)) < 0.02


def interrupted(make_one: Callable[[], QLearning], every: int) -> tuple[QLearning, list[dict[str, float]]]:
    """A learner that is thrown away and restored after every few advances, and its curve."""
    learner, points = make_one(), list[dict[str, float]]()
    while not learner.done:
        for _ in range(every):
            if not learner.done and (point := learner.advance()):
                points.append(point)
        state = learner.state()
        learner = make_one()
        learner.restore(state)
    return learner, points


@pytest.mark.parametrize(
    "changes",
    [
        {"copies": 2, "double": True},
        {"method": "naf"},
        pytest.param({"acting": "exact", "refresh": 4, "targets": "exact", "batch": 4}, marks=pytest.mark.slow),
    ],
    ids=["copies and double", "naf", "exact"],
)
def test_what_was_stopped_and_restored_goes_on_to_the_same(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(SMALL, **{"steps": 40, "every": 40, **changes})
    monkeypatch.setattr("convexnet.rl.learning.CHUNK", 3)  # which ends within an episode
    whole = QLearning(short, own, seed=3)
    curve = run(whole)
    learner, points = interrupted(lambda: QLearning(short, own, seed=3), 2)
    assert points == curve
    assert points[0]["step"] == 40
    weights = learner.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.network.state_dict().items())


def test_an_environment_that_cannot_be_taken_back_says_so(caplog: pytest.LogCaptureFixture) -> None:
    first = Environments(worlds.Forgetful, 1, seed=0)
    first.step(torch.zeros(1, 1))
    with caplog.at_level(logging.WARNING, "convexnet.rl"):
        second = Environments(worlds.Forgetful, 1, seed=0)
        second.load_state_dict(first.state_dict())
    assert "lead elsewhere" in caplog.text
    assert second.episodes == [1]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raises", "raises RuntimeError: the arm fell off"),
        ("observation", "nan"),
        ("shape", "the observation of"),
        ("reward", "the reward of .* is inf"),
    ],
)
def test_a_fault_of_the_environment_is_in_words(what: str, words: str) -> None:
    learner = QLearning(lambda: worlds.Faulty(what), SMALL)
    with pytest.raises(EnvironmentFault, match=words) as caught:
        run(learner)
    assert "Faulty" in str(caught.value)
    assert "episode 0" in str(caught.value)


@pytest.fixture
def endless() -> Any:
    gym.register("Endless-v0", entry_point=worlds.Endless)
    yield "Endless-v0"
    del gym.registry["Endless-v0"]


def test_spaces_that_do_not_fit_are_refused(endless: str) -> None:
    with pytest.raises(ValueError, match=r"takes actions without bounds \(element 0.*bound=1.0"):
        make(endless)
    assert describe(make(endless, bound=1.5)).high.tolist() == [1.5] * 3
    with pytest.raises(ValueError, match="needs a Box"):
        make("CartPole-v1")
    with pytest.raises(ValueError, match="no environment 'Pendulum-v9'"):
        make("Pendulum-v9")
    with pytest.raises(ValueError, match="must be a positive number"):
        make(endless, bound=-1.0)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the 7 copies"):
        Settings(copies=7)
    with pytest.raises(ValueError, match=r"targets is one of .*did you mean 'exact'"):
        Settings(targets="exakt")  # pyright: ignore
    with pytest.raises(ValueError, match="the budget of power is"):
        power_budget(describe(short()), -1.0)
    domain = power_budget(describe(short()), 1.0)
    with pytest.raises(ValueError, match="entropy is that of a cube"):
        QLearning(short, SMALL, domain=domain)


def test_a_budget_of_power_is_kept_by_ours_and_moves_others() -> None:
    domain = power_budget(describe(short()), 1.0)
    made: list[LimitedActions] = []

    def limited() -> LimitedActions:
        made.append(LimitedActions(short(), domain))
        return made[-1]

    own = replace(SMALL, steps=30, targets="cutting-planes")
    run(QLearning(limited, own, seed=0, domain=domain))
    assert sum(one.asked for one in made) > 30
    assert sum(one.moved for one in made) == 0
    other = limited()
    other.reset(seed=0)
    *_, info = other.step(other.action_space.low)
    assert info["violation"] == pytest.approx(0.5)
    torch.testing.assert_close(float(other.unwrapped.last_u), -1.0)  # pyright: ignore


def test_mujoco_writes_nothing_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make("InvertedPendulum-v5").close()
    make("HalfCheetah-v5").close()
    assert list(tmp_path.iterdir()) == []


def test_a_saved_policy_is_whole(tmp_path: Path) -> None:
    domain = power_budget(describe(short()), 1.0)
    learner = QLearning(short, replace(SMALL, targets="cutting-planes"), domain=domain)
    cx.save(learner.policy, tmp_path / "policy.safetensors")
    found = cx.load(tmp_path / "policy.safetensors")
    assert isinstance(found, Policy)
    assert found.environment == "Pendulum-v1"
    states, actions = torch.randn(4, 3), torch.rand(4, 1)
    assert torch.equal(found(states, actions), learner.policy(states, actions))
    assert cx.certify(found, (states, actions), wrt=1).convex
    assert found.description.high.tolist() == [2.0]
    assert found.domain.contains(torch.tensor([[0.5], [0.51]])).tolist() == [True, False]
