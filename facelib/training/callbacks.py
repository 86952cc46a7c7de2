"""The callbacks of a training: one that fails, such as a tracker that cannot be reached, ends no training."""

from collections.abc import Sequence

import keras

from facelib.errors import FaceError


class Callbacks:
    """Calls Keras callbacks. One that raises is one warning, and is not called again.

    A `FaceError` still ends the training: a callback raises it for that.

    Args:
        callbacks: in the order in which they are called.
        model: that they get as `model`.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model):
        self._callbacks = list(callbacks)
        for callback in self._callbacks:
            callback.set_params({})
            callback.set_model(model)

    def call(self, method: str, *arguments: object) -> None:
        """Calls `method`, such as 'on_epoch_end', of each callback."""
        for callback in tuple(self._callbacks):
            try:
                getattr(callback, method)(*arguments)
            except FaceError:
                raise
            except Exception as error:
                self._callbacks.remove(callback)
                reason = " ".join(str(error).split())[:200]
                print(
                    f"\nwarning: the callback {type(callback).__name__} failed in {method} and will not be called "
                    f"again ({type(error).__name__}: {reason}). The training continues.",
                    flush=True,
                )
