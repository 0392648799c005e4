"""The arrays that annotations name, with shapes by jaxtyping: `Float[Array, "batch tokens width"]`.

The tests check them at run time (tests/conftest.py); a library that is used does not. To a type checker, which knows
no shapes, they are any type: most functions take arrays of numpy and of JAX alike and give what they were given.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Array: TypeAlias = Any
    Scalar: TypeAlias = Any
else:
    import jax
    import numpy as np

    Array = jax.Array | np.ndarray
    Scalar = Array | np.number | float | int
