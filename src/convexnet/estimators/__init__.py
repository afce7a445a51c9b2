"""Convex networks by the conventions of scikit-learn: `ConvexRegressor` and `BrenierMap`.

Needs scikit-learn, of the extra `lab`. In reading order: `quasi_newton.py` trains, `regressor.py` and `brenier.py` are
the estimators.
"""

from convexnet.extras import need

need("sklearn", "lab")

from convexnet.estimators.brenier import BrenierMap  # noqa: E402
from convexnet.estimators.regressor import ConvexRegressor  # noqa: E402

__all__ = ["BrenierMap", "ConvexRegressor"]
