r"""A plucked string: pitch, decay and brightness are heard in a spectrogram.

Story
    Each row is half a second of a plucked string. It has a pitch, a time in which its fundamental
    dies down, and a brightness: how strong its overtones are beside the fundamental. Overtones die
    faster, as air and bridge take more from them. The ear hears the loudness of each band of
    frequencies in each short frame of time, on a logarithmic scale, with an error of some decibels.
    There is no network to learn: the decoder is physics, its causes mean something, and the priors
    say what strings are like. This is `vae` with knowledge in place of data.

Program
    pitch ~ Normal(0, 5^2)                  in semitones from the A of 220 hertz
    decay ~ LogNormal(log 0.3, 0.5)
    brightness ~ Beta(3, 3)
    x ~ Normal(log spectrogram of string(pitch, decay, brightness), noise_scale^2)
    string(t) = sum_k brightness^(k-1) exp(-k t / decay) sin(2 pi k 220 2^(pitch/12) t)

Graph
    +-- data (n) ------------------+
    |   (pitch) --------> [x]      |
    |   (decay) ----------^        |
    |   (brightness) -----^        |
    +------------------------------+
    noise_scale ---> [x]

Sites
    | name       | role     | shape | support  | unit  |
    |------------|----------|-------|----------|-------|
    | pitch      | latent   | ()    | real     | semitones from 220 hertz |
    | decay      | latent   | ()    | positive | seconds |
    | brightness | latent   | ()    | [0, 1]   | strength of an overtone over the one below |
    | x          | observed | (P,)  | real     | nats of power, frames times bands |

Source
    N. H. Fletcher, T. D. Rossing (1998). The physics of musical instruments (damped strings).
    K. Karplus, A. Strong (1983). Digital synthesis of plucked-string and drum timbres.
"""

__all__ = ["PluckedString"]

from math import log, pi
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

HERTZ_OF_A = 220.0
FLOOR = 1e-3  # power of a silent band, in units of the loudest possible


class PluckedString(PyroModule):
    """A damped string heard through a noisy logarithmic spectrogram; nothing is learned unless
    freed.

    Arguments:
        rate: Samples of sound per second.
        frame: Samples in a frame, and as many between frames.
        num_frames: Frames of a row.
        num_partials: Fundamental and overtones.
        noise_scale: Error of the ear, in nats of power (1 nat is 4.3 decibels).
    """

    example: ClassVar[str] = "simulated"

    def __init__(
        self,
        rate: int = 4000,
        frame: int = 200,
        num_frames: int = 8,
        num_partials: int = 6,
        noise_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.rate, self.frame, self.num_partials = rate, frame, num_partials
        self.noise_scale = noise_scale
        self.register_buffer("time", torch.arange(frame * num_frames) / rate)
        self.register_buffer("window", torch.hann_window(frame))
        self.register_buffer("concert", torch.zeros(()))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            pitch = pyro.sample("pitch", dist.Normal(self.concert, 5.0))
            decay = pyro.sample("decay", dist.LogNormal(log(0.3), 0.5))
            brightness = pyro.sample("brightness", dist.Beta(3.0, 3.0))
            heard = self.spectrogram(self.sound(pitch, decay, brightness, self.time))
            pyro.sample("x", dist.Normal(heard, self.noise_scale).to_event(1))

    def sound(self, pitch: Tensor, decay: Tensor, brightness: Tensor, time: Tensor) -> Tensor:
        """The wave at each time, from causes `(*,)` and times `(T,)` in seconds to `(*, T)`,
        between -1 and 1."""
        partial = torch.arange(1, self.num_partials + 1, device=time.device).to(time)
        hertz = HERTZ_OF_A * 2 ** (pitch[..., None] / 12) * partial  # (*, K)
        heard = hertz < self.rate / 2  # beyond, sampling would fold it back
        strength = brightness[..., None] ** (partial - 1)
        loudest = strength.sum(-1, keepdim=True)
        fading = -partial[:, None] * time / decay[..., None, None]  # (*, K, T)
        wave = fading.exp() * (2 * pi * hertz[..., None] * time).sin()
        return ((strength * heard)[..., None] * wave).sum(-2) / loudest

    def spectrogram(self, wave: Tensor) -> Tensor:
        """Log power of each frame and band, `(*, T)` to `(*, P)`, in nats."""
        frames = wave.unflatten(-1, (-1, self.frame)) * self.window
        power = torch.fft.rfft(frames).abs().square() / (self.window.sum() / 2) ** 2
        return (power + FLOOR).log().flatten(-2)
