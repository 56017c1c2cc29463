r"""What `ppvae.fit` is made of.

Reading order: `settings` (how to train, in one record), `step` (one step of the optimiser: `average`, `bfloat16`), `trainer`
(epochs, validation and the state of a checkpoint: `history`, `telemetry`, `raise_nonfinite`), `keeping` (what stays on disk, and what
`interrupts` do), `callbacks` (what may be called as training goes on, `tensorboard` among it).
"""

__all__ = ["Callback", "History", "TensorBoard", "TrainConfig", "Trainer"]

from ppvae.training.callbacks import Callback
from ppvae.training.config import TrainConfig
from ppvae.training.history import History
from ppvae.training.tensorboard import TensorBoard
from ppvae.training.trainer import Trainer
