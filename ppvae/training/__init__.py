r"""What `ppvae.fit` is made of.

Reading order: `fit`, `trainer` (epochs, and the state of a checkpoint), `train_step` (one step of
the optimizer, with `bfloat16`), `validation` and `nonfinite` (what is measured), `callbacks` with
`ema`, `early_stopping`, `checkpointing` (and its `signals`) and `tensorboard`; `devices`;
`distributed` (several processes).
"""

__all__ = ["Callback", "History", "TensorBoard", "Trainer"]

from ppvae.training.callbacks import Callback
from ppvae.training.history import History
from ppvae.training.tensorboard import TensorBoard
from ppvae.training.trainer import Trainer
