"""The arrays that annotations name, with shapes by jaxtyping: `Float[Array, "batch tokens width"]`.

The tests check them at run time (tests/conftest.py); a library that is used does not.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
Scalar = Array | np.number | float | int
