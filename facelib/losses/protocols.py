"""What the training step asks of a loss: the protocols `Loss`, `MarginLoss` and `MakeHead`.

`facelib.losses.registry.make_head` makes every loss of docs/losses.md; a loss of your own needs no more than this.
"""

from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

if TYPE_CHECKING:
    from facelib.losses.partial_fc import ClassSplit, SampledClasses


class Loss(Protocol):
    """A Keras layer that computes a loss from the embeddings and labels of a batch.

    Attributes:
        has_class_centres: True for a margin head: the loss then follows `MarginLoss` too. False for a loss that
            compares the faces of a batch.
    """

    has_class_centres: bool

    def loss_and_accuracy(
        self, embeddings, labels, margin_share=1.0, label_smoothing: float = 0.0,
        sampled: "SampledClasses | None" = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Loss and accuracy of a batch.

        Args:
            embeddings: float [B, D], as the network gives them, of all workers.
            labels: int64 [B], of all workers.
            margin_share: float or scalar tensor in [0, 1]; the margin is multiplied by it.
            label_smoothing: share of the target that is spread evenly over all classes; 0 for none.
            sampled: the classes of this step, from `MarginLoss.sample`; None for all of them.

        Returns:
            (loss, accuracy), float32 scalars. The accuracy is measured without the margin.
        """
        ...


class MarginLoss(Loss, Protocol):
    """A loss with class centres, which may be split over the workers and sampled in each step.

    Attributes:
        centres: variable [held classes * K, D].
        sub_centres: K, centres of each class.
        split: which classes this worker holds; set before the layer is built.
        variables: of the layer, as Keras lists them.
    """

    centres: Any
    sub_centres: int
    split: "ClassSplit"

    @property
    def variables(self) -> list: ...

    def build(self, embeddings_shape: tuple[int | None, int]) -> None: ...

    def get_config(self) -> dict[str, Any]: ...

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MarginLoss": ...

    def runs_by_blocks(self, label_smoothing: float) -> bool:
        """Whether the softmax is computed block by block, so that the logits are never in memory together."""
        ...

    def sample(self, labels, step=0) -> "SampledClasses":
        """The classes of a step.

        Args:
            labels: int64 [B], of all workers' faces.
            step: int64 scalar, the number of the step; it decides which classes are drawn.
        """
        ...

    def build_on(self, previous: "MarginLoss") -> None:
        """Builds the layer with the class centres of the head of the stage before."""
        ...


def has_class_centres(loss: Loss | None) -> TypeGuard[MarginLoss]:
    """Whether `loss` is a margin head, and so follows `MarginLoss`."""
    return loss is not None and loss.has_class_centres


class MakeHead(Protocol):
    """Makes the loss of a stage, such as `facelib.losses.registry.make_head`."""

    def __call__(
        self, loss: str, num_classes: int, options: dict | None = None, warmup_scale: float | None = None
    ) -> Loss:
        """A loss that is not built yet.

        Args:
            loss: its name in the recipe.
            num_classes: identities of the training set.
            options: of the loss, by name.
            warmup_scale: the scale at margin_share 0; None when the scale is constant.
        """
        ...
