"""Cool a building for a day at the least cost, with a convex network learnt from measurements.

    python examples/building_cooling.py [--hours 24] [--epochs 400] [--out building_cooling.png]

The power that a building draws in an hour depends on the outdoor temperature and on how hard it is cooled; for given
weather it is convex in the cooling (a chiller's efficiency falls with its load). A partially input-convex network
learns it from noisy measurements. The plan for a day is then one convex problem, solved in three ways:

- `cx.minimise` over a `Polyhedron`: bounds, ramps between hours and the cooling that the day needs are its rows;
- CVXPY: the same network as an expression, beside constraints of CVXPY's own;
- HiGHS: a linear program, whose file other tools read, since a ReLU network is piecewise linear.

An ordinary network of the same width fits no worse. Its plan is what projected gradient descent from a few starts
finds, and nothing says how far it is from the best; the convex one's value comes with a bound below every plan.

Needs the extra `solve`; the picture needs matplotlib (extra `lab`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import convexnet as cx

HARDEST = 12.0
"""kW of cooling that the machine can do."""

RAMP = 1.0
"""kW by which the cooling may change from one hour to the next."""

MEAN = 4.0
"""kW of cooling that the day needs on average."""


def power(weather: Tensor, cooling: Tensor) -> Tensor:
    """The true power in kW for an outdoor temperature in °C and a cooling in kW, both (B, 1); (B,)."""
    load = cooling[:, 0]
    efficiency = 5.0 - 0.06 * (weather[:, 0] - 20)
    return load / efficiency + 0.02 * torch.relu(load - 6) ** 2 + 0.3


def measurements(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weather, cooling and noisy power."""
    generator = torch.Generator().manual_seed(seed)
    weather = 15 + 25 * torch.rand(count, 1, generator=generator)
    cooling = HARDEST * torch.rand(count, 1, generator=generator)
    return weather, cooling, power(weather, cooling) + 0.05 * torch.randn(count, generator=generator)


class Convex(nn.Module):
    """The power as a network that is convex in the cooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = cx.nn.PICNN(1, 1, hidden=(width, width), activation="relu")

    def forward(self, weather: Tensor, cooling: Tensor) -> Tensor:
        return self.network((weather - 27) / 8, cooling / 6)[:, 0]


class Ordinary(nn.Module):
    """The power as an ordinary network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, weather: Tensor, cooling: Tensor) -> Tensor:
        return self.network(torch.cat([(weather - 27) / 8, cooling / 6], 1))[:, 0]


class Day(nn.Module):
    """The energy of a day in kWh, of weather (B, hours) and cooling (B, hours)."""

    def __init__(self, hourly: nn.Module) -> None:
        super().__init__()
        self.hourly = hourly

    def forward(self, weather: Tensor, cooling: Tensor) -> Tensor:
        spent = [self.hourly(weather[:, h, None], cooling[:, h, None]) for h in range(cooling.shape[1])]
        return torch.stack(spent).sum(0)


def fit(network: nn.Module, epochs: int) -> float:
    """Train on measurements; returns the mean squared error on others."""
    weather, cooling, used = measurements(2000, seed=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        optimiser.zero_grad()
        nn.functional.mse_loss(network(weather, cooling), used).backward()
        optimiser.step()
        schedule.step()
    weather, cooling, used = measurements(1000, seed=1)
    with torch.no_grad():
        return nn.functional.mse_loss(network(weather, cooling), used).item()


def changes(hours: int) -> Tensor:
    """The matrix that takes a plan to its changes from hour to hour."""
    return torch.eye(hours, dtype=torch.float64).diff(dim=0)


def allowed_plans(hours: int) -> cx.Polyhedron:
    """Plans that the machine can do and that cool enough."""
    change = changes(hours)
    return cx.Polyhedron(
        torch.cat([change, -change]), torch.full((2 * hours - 2,), RAMP),
        torch.ones(1, hours), [MEAN * hours], within=cx.Box(0, HARDEST, shape=hours),
    )  # fmt: skip


def by_cvxpy(day: nn.Module, weather: Tensor, hours: int) -> float:
    """The least energy, with the rows as constraints of CVXPY."""
    import cvxpy as cp

    plan = cp.Variable(hours, bounds=[0, HARDEST])
    energy = cp.sum(cx.to_cvxpy(day, plan, given=weather))
    rows = [cp.abs(cp.diff(plan)) <= RAMP, cp.sum(plan) == MEAN * hours]
    return float(cp.Problem(cp.Minimize(energy), rows).solve(solver=cp.HIGHS))


def by_highs(day: nn.Module, weather: Tensor, hours: int, file: Path | None) -> float:
    """The least energy, with the rows added to the linear program of the network; written to a file on the way."""
    import numpy as np

    lp = cx.to_lp(day, cx.Box(0, HARDEST, shape=hours), given=weather)
    places = np.arange(hours, dtype=np.int32)
    for hour in range(hours - 1):
        lp.addRow(-RAMP, RAMP, 2, places[hour : hour + 2], np.array([-1.0, 1.0]))
    lp.addRow(MEAN * hours, MEAN * hours, hours, places, np.ones(hours))
    if file is not None:
        lp.writeModel(str(file))
    lp.run()
    return float(lp.getInfo().objective_function_value)


def by_descent(day: nn.Module, weather: Tensor, plans: cx.Polyhedron, starts: int = 3, steps: int = 60) -> Tensor:
    """Energies that projected gradient descent ends at, (starts,): no more can be done with an ordinary network."""
    hours = weather.shape[1]
    plan = plans.project(HARDEST * torch.rand(starts, hours, generator=torch.Generator().manual_seed(0)).double())
    for step in range(steps):
        plan.requires_grad_()
        (slope,) = torch.autograd.grad(day(weather.expand(starts, -1), plan).sum(), plan)
        plan = plans.project(plan.detach() - 3.0 / (1 + step) ** 0.5 * slope)
    return day(weather.expand(starts, -1), plan).detach()


def draw(file: Path, weather: Tensor, plan: Tensor, price: Tensor) -> None:
    """A picture of the weather, the plan and the multiplier of every hour's upper ramp."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(weather[0].numpy(), color="#b33", label="outdoor temperature, °C")
    top.step(range(plan.shape[1]), plan[0].numpy(), where="mid", color="#36c", label="cooling, kW")
    top.legend(frameon=False)
    bottom.bar(range(price.shape[1]), price[0].numpy(), color="#888")
    bottom.set(xlabel="hour", ylabel="kWh for 1 kW more ramp")
    figure.savefig(file, dpi=120)


def main(hours: int, epochs: int, out: Path | None) -> None:
    """Train both networks, plan with each, and print what was found."""
    torch.manual_seed(0)
    convex, ordinary = Convex(24), Ordinary(24)
    print(f"mean squared error: convex {fit(convex, epochs):.4f}, ordinary {fit(ordinary, epochs):.4f}, noise 0.0025")
    weather = 27 + 7 * torch.sin(torch.linspace(-2.2, 3.0, hours, dtype=torch.float64))[None]
    day, plain = (Day(network).double().requires_grad_(False) for network in (convex, ordinary))
    plans = allowed_plans(hours)
    best = cx.minimise(day, plans, given=weather)
    print(f"minimise: {best.value.item():.4f} kWh, and no plan needs less than {best.lower_bound.item():.4f}")
    print(f"CVXPY:    {by_cvxpy(day, weather, hours):.4f} kWh")
    print(f"HiGHS:    {by_highs(day, weather, hours, None if out is None else out.with_suffix('.lp')):.4f} kWh")
    found = by_descent(plain, weather, plans)
    print(f"ordinary: {', '.join(f'{value:.4f}' for value in found.tolist())} kWh from three starts, nothing proved")
    if out is not None:
        draw(out, weather, best.x, best.multipliers["inequality"][:, : hours - 1])
        print(f"{out} and {out.with_suffix('.lp')} are written")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    main(options.hours, options.epochs, options.out)
