"""What is proved of an ensemble: a certificate for each expert, and a sentence about what they make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from convexnet.curvature import Certificate, certify
from convexnet.curvature.arguments import two_rows

GATED = (
    "The ensemble is not convex and nothing certifies it: its output is a convex combination of what the experts "
    "compute, and the gate's weights depend on the input. Each certificate holds for one expert alone, on the whole "
    "input space. A convex ensemble of the same experts is convexnet.ensembles.fuse."
)
VOTING = (
    "The ensemble is not convex and nothing certifies it: its output counts votes, which are constant between the "
    "experts' decision boundaries and jump there. Each certificate holds for one expert alone. A convex ensemble of "
    "the same experts is convexnet.ensembles.fuse."
)


@dataclass(frozen=True)
class Certificates:
    """The certificates of the experts, and what the ensemble itself is.

    It has no truth value, since a proof for every expert is not one for the ensemble.

    Attributes:
        experts: one certificate for each expert, in order.
        ensemble: a sentence on what the experts make together.

    Example:
        >>> import torch
        >>> from convexnet.ensembles import MixtureOfExperts
        >>> pair = MixtureOfExperts([nn.Linear(2, 1), nn.Linear(2, 1)], nn.Linear(2, 2))
        >>> found = pair.certificates(torch.zeros(1, 2))
        >>> found.convex_experts, found.ensemble[:44]
        (2, 'The ensemble is not convex and nothing certi')
    """

    experts: tuple[Certificate, ...]
    ensemble: str

    @property
    def convex_experts(self) -> int:
        """Return how many experts are certified convex."""
        return sum(certificate.convex for certificate in self.experts)

    def require(self) -> Certificates:
        """Return these certificates if each proves its expert convex.

        Raises:
            NotCertified: by the first expert that is not certified.
        """
        for certificate in self.experts:
            certificate.require()
        return self

    def __bool__(self) -> bool:
        raise TypeError(
            "certificates of experts have no truth value, for the ensemble is not convex: ask convex_experts, or "
            "require()"
        )

    def __str__(self) -> str:
        lines = [f"expert {index}: {certificate.headline()}" for index, certificate in enumerate(self.experts)]
        return "\n".join([*lines, self.ensemble])


def certificates_of(experts: Sequence[nn.Module] | nn.ModuleList, example: Tensor, ensemble: str) -> Certificates:
    """Certify each expert on an example (B, ...).

    Example:
        >>> import torch
        >>> certificates_of([nn.SiLU()], torch.zeros(1, 2), VOTING).convex_experts
        0
    """
    return Certificates(tuple(certify(expert, two_rows(example)) for expert in experts), ensemble)
