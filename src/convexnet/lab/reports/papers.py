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

TABLE_2: Mapping[tuple[str, str], Numbers] = MappingProxyType(
    {
        ("cifar10", "allconv"): Numbers(99.31, 92.8),
        ("cifar10", "ioc-allconv"): Numbers(93.2, 90.6),
        ("cifar10", "densenet"): Numbers(99.46, 94.06),
        ("cifar10", "ioc-densenet"): Numbers(94.22, 91.12),
        ("cifar100", "allconv"): Numbers(97.87, 69.5),
        ("cifar100", "ioc-allconv"): Numbers(67.07, 65.08),
        ("cifar100", "densenet"): Numbers(98.42, 75.36),
        ("cifar100", "ioc-densenet"): Numbers(74.9, 68.53),
    }
)
"""Sivaprasad et al. 2021, table 2, without its MLPs, which are those of table 1."""

TABLE_3: Mapping[tuple[float, str], tuple[Numbers, Numbers]] = MappingProxyType(
    {
        (20.0, "allconv"): (Numbers(72.8, 85.72), Numbers(98.73, 76.31)),
        (40.0, "allconv"): (Numbers(56.48, 80.47), Numbers(97.96, 61.83)),
        (60.0, "allconv"): (Numbers(38.52, 75.80), Numbers(97.80, 46.71)),
        (80.0, "allconv"): (Numbers(22.40, 60.24), Numbers(97.83, 27.75)),
        (100.0, "allconv"): (Numbers(98.63, 10.53), Numbers(97.80, 10.1)),
        (20.0, "ioc-allconv"): (Numbers(69.92, 85.85), Numbers(70.22, 83.61)),
        (40.0, "ioc-allconv"): (Numbers(55.01, 81.58), Numbers(54.63, 81.01)),
        (60.0, "ioc-allconv"): (Numbers(37.90, 75.91), Numbers(39.31, 71.75)),
        (80.0, "ioc-allconv"): (Numbers(21.93, 61.48), Numbers(23.80, 56.20)),
        (100.0, "ioc-allconv"): (Numbers(9.98, 10.62), Numbers(10.21, 9.94)),
    }
)
"""Sivaprasad et al. 2021, table 3, CIFAR-10: at the peak and at convergence, by percent of labels drawn anew and model.
Training accuracy is on the labels used."""

TABLE_5: Mapping[tuple[str, str], tuple[float, float]] = MappingProxyType(
    {
        ("cifair10", "mlp"): (63.6, 63.08),
        ("cifair10", "ioc-mlp"): (69.89, 69.51),
        ("cifair10", "allconv"): (92.8, 91.14),
        ("cifair10", "ioc-allconv"): (90.6, 90.47),
        ("cifair10", "densenet"): (94.06, 93.28),
        ("cifair10", "ioc-densenet"): (91.12, 90.73),
    }
)
"""Sivaprasad et al. 2021, table 5: test accuracy on CIFAR-10 and on ciFAIR-10; its gap of AllConv is 1 too small."""

REPORT: Mapping[tuple[str, str], Numbers] = MappingProxyType(
    {
        ("cifar10", "mixer"): Numbers(85.72, 71.1),
        ("cifar10", "mixer-report"): Numbers(78.57, 67.97),
        ("cifar10", "cyclemlp-b1"): Numbers(99.71, 82.87),
        ("cifar10", "cyclemlp-b1-report"): Numbers(81.42, 72.26),
        ("cifar100", "cyclemlp-b1"): Numbers(99.69, 51.98),
        ("cifar100", "cyclemlp-b1-report"): Numbers(79.98, 39.56),
    }
)
"""Singh 2022, tables 1 to 3, by data set and model. Its code measures the Mixers on a part of the training images, in
the best epoch of that part."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "mnist": "MNIST",
        "fashion-mnist": "Fashion-MNIST",
        "stl10": "STL-10",
        "svhn": "SVHN",
        "cifar10": "CIFAR-10",
        "cifar10-holdout": "CIFAR-10, hold-out",
        "cifar100": "CIFAR-100",
        "cifair10": "ciFAIR-10",
        "cifair100": "ciFAIR-100",
        "cifar10-animals": "CIFAR-10, animals or not",
        "cifar10-holdout-animals": "CIFAR-10, hold-out, animals or not",
        "tiny-imagenet-20": "Tiny-ImageNet, 20 classes",
        "imagenet": "ImageNet",
        "digits": "digits (smoke test)",
        "fashion-mnist-tops": "Fashion-MNIST, tops",
        "digits-odd": "digits, odd or even (smoke test)",
    }
)
"""What tables call a data set."""
