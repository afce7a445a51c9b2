"""The numbers that papers print, in percent, for the tables of studies; gaps are computed from them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Numbers:
    """Train and test accuracy in percent; `spread` is half of the confidence interval of each, where one is given."""

    train: float
    test: float
    spread: tuple[float, float] | None = None

    @property
    def gap(self) -> float:
        """Train minus test. The paper's own gaps differ by a rounding or a slip in some rows."""
        return self.train - self.test


TABLE_1: Mapping[tuple[str, str], Numbers] = MappingProxyType(
    {
        ("mnist", "mlp"): Numbers(99.34, 99.16),
        ("mnist", "ioc-mlp"): Numbers(98.77, 99.25),
        ("fashion-mnist", "mlp"): Numbers(94.8, 90.61),
        ("fashion-mnist", "ioc-mlp"): Numbers(90.41, 90.58),
        ("stl10", "mlp"): Numbers(81.0, 52.32),
        ("stl10", "ioc-mlp"): Numbers(62.3, 54.55),
        ("svhn", "mlp"): Numbers(91.76, 86.19),
        ("svhn", "ioc-mlp"): Numbers(81.18, 86.37),
        ("cifar10", "mlp"): Numbers(97.99, 63.83),
        ("cifar10", "ioc-mlp"): Numbers(73.27, 69.89),
        ("cifar100", "mlp"): Numbers(84.6, 32.68),
        ("cifar100", "ioc-mlp"): Numbers(46.9, 41.08),
    }
)
"""Sivaprasad et al. 2021, table 1, by data set and model."""

TABLE_4: Mapping[str, Numbers] = MappingProxyType(
    {
        "mlp": Numbers(99.17, 63.83),
        "relu-mlp": Numbers(46.81, 27.36),
        "ficnn": Numbers(62.8, 53.07),
        "ioc-mlp": Numbers(73.27, 69.89),
    }
)
"""Sivaprasad et al. 2021, table 4, CIFAR-10. Its training accuracy of the MLP, 99.17, is 97.99 in table 1."""

APPENDIX_C: Mapping[str, Numbers] = MappingProxyType(
    {
        "mlp": Numbers(97.99, 63.83, (0.18, 0.12)),
        "ioc-mlp": Numbers(73.27, 69.89, (0.41, 0.21)),
        "allconv": Numbers(99.12, 92.21, (1.03, 0.18)),
        "ioc-allconv": Numbers(92.61, 90.34, (1.45, 0.20)),
        "densenet": Numbers(99.08, 93.86, (0.75, 0.46)),
        "ioc-densenet": Numbers(93.8, 90.43, (0.83, 0.59)),
    }
)
"""Sivaprasad et al. 2021, appendix C, CIFAR-10, five runs."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "mnist": "MNIST",
        "fashion-mnist": "Fashion-MNIST",
        "stl10": "STL-10",
        "svhn": "SVHN",
        "cifar10": "CIFAR-10",
        "cifar10-holdout": "CIFAR-10, hold-out",
        "cifar100": "CIFAR-100",
        "cifar10-animals": "CIFAR-10, animals or not",
        "cifar10-holdout-animals": "CIFAR-10, hold-out, animals or not",
        "digits": "digits (smoke test)",
        "digits-odd": "digits, odd or even (smoke test)",
    }
)
"""What tables call a data set."""
