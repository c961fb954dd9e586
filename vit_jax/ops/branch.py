"""Work on a batch that is left out where no image needs it."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Bool, Num


def if_any(
    chosen: Bool[Array, "b"], change: Callable[[Array], Array], images: Num[Array, "b h w c"]
) -> Num[Array, "b h w c"]:
    """`change(images)`, which leaves as they are those that are not chosen.

    On a CPU it is left out where none is chosen. In a large batch one always is; then the branch
    still serves to have its result stored: XLA for CPUs would compute a pixel anew for each of its
    uses, such as the four of an affine warp, and does not heed `optimization_barrier` there.
    Accelerators store it anyway, and would have to wait for the branch's condition.
    """

    def on_cpu(chosen, images):
        return jax.lax.cond(chosen.any(), change, lambda images: images, images)

    return jax.lax.platform_dependent(
        chosen, images, cpu=on_cpu, default=lambda _, images: change(images)
    )
