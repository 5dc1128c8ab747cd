"""A Parallel-WaveNet-like model: four inverse-autoregressive flows that turn noise into sound.

The paper's own model is not public. This one has the published sizes (flows of 10, 10, 10 and 30
dilated layers of filter size 3, dilations 1 to 512 over and over, 64 channels) and is written the
way such models are, channels last, so that its export is full of operations that only move data:

* a causal convolution pads on the left, and does its dilation by moving time into the batch (pad
  to a multiple, reshape, transpose, reshape; undone by reshape, transpose, reshape, slice);
* around every convolution, transposes between `[batch, time, channel]` and what `conv1d` takes;
* the input of a flow is shifted by a step (pad, slice); gates are halves of a tensor (slices);
* conditioning is repeated from frames to samples and joined with the embedding of the speaker.

Residual and skip connections are those of WaveNet. (The published student is said to have no skip
connections; open implementations, which exports come from, do.)

Sources: van den Oord et al., Parallel WaveNet, arXiv 1711.10433; time in the batch as in
github.com/ibab/tensorflow-wavenet.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Sizes:
    """Extents of the model; the defaults are the published ones, for 80 ms at 24 kHz."""

    flows: tuple[int, ...] = (10, 10, 10, 30)
    """Layers of each flow."""
    cycle: int = 10
    """Layers after which dilations start again at 1."""
    channels: int = 64
    features: int = 80
    """Channels of the conditioning at frame rate."""
    speaker: int = 16
    """Channels of the embedding of the speaker."""
    frames: int = 16
    hop: int = 120
    """Samples of a frame."""

    @property
    def samples(self) -> int:
        """The length of the sound."""
        return self.frames * self.hop


SMALL = Sizes(flows=(2, 3), cycle=3, channels=8, features=6, speaker=4, frames=3, hop=6)
"""For tests: 18 samples, which the dilations 1, 2 and 4 divide or do not."""


def time_to_batch(value: torch.Tensor, dilation: int) -> torch.Tensor:
    """Return `[batch, time, channel]` as `[dilation * batch, time / dilation, channel]`."""
    batch, time, channels = value.shape
    value = functional.pad(value, (0, 0, 0, -time % dilation))
    value = value.reshape(batch, -1, dilation, channels)
    return value.permute(2, 0, 1, 3).reshape(dilation * batch, -1, channels)


def batch_to_time(value: torch.Tensor, dilation: int) -> torch.Tensor:
    """Undo `time_to_batch`, but for the time that it added."""
    channels = value.shape[2]
    value = value.reshape(dilation, -1, value.shape[1], channels)
    value = value.permute(1, 2, 0, 3)
    return value.reshape(value.shape[0], -1, channels)


def shift_right(value: torch.Tensor) -> torch.Tensor:
    """Return `value` a step later, zero first: a sample depends on those before it only."""
    return functional.pad(value, (0, 0, 1, 0))[:, :-1]


class Conv(nn.Module):
    """A 1-d convolution of tensors with channels last."""

    def __init__(self, inputs: int, outputs: int, taps: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, taps)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Return `[batch, time - taps + 1, outputs]`."""
        return self.conv(value.transpose(1, 2)).transpose(1, 2)


class CausalConv(nn.Module):
    """A dilated convolution of 3 taps whose output at `t` reads up to `t`."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv, self.dilation = Conv(inputs, outputs, taps=3), dilation

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Return `[batch, time, outputs]`."""
        padded = functional.pad(value, (0, 0, 2 * self.dilation, 0))
        if self.dilation == 1:
            return self.conv(padded)
        result = batch_to_time(self.conv(time_to_batch(padded, self.dilation)), self.dilation)
        return result[:, : value.shape[1]]


class Layer(nn.Module):
    """A gated dilated convolution with its residual and skip connections."""

    def __init__(self, sizes: Sizes, dilation: int) -> None:
        super().__init__()
        channels = sizes.channels
        self.dilated = CausalConv(channels, 2 * channels, dilation)
        self.condition = Conv(sizes.features + sizes.speaker, 2 * channels)
        self.residual = Conv(channels, channels)
        self.skip = Conv(channels, channels)

    def forward(
        self, value: torch.Tensor, condition: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the input of the next layer and what this one adds to the flow's result."""
        both = self.dilated(value) + self.condition(condition)
        filtered, gate = both.chunk(2, dim=2)
        gated = torch.tanh(filtered) * torch.sigmoid(gate)
        return value + self.residual(gated), self.skip(gated)


class Flow(nn.Module):
    """An inverse-autoregressive flow: scales and shifts each sample by what came before it."""

    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        self.first = CausalConv(1, sizes.channels)
        dilations = [2 ** (layer % sizes.cycle) for layer in range(layers)]
        self.layers = nn.ModuleList(Layer(sizes, dilation) for dilation in dilations)
        self.mix = Conv(sizes.channels, sizes.channels)
        self.last = Conv(sizes.channels, 2)

    def forward(self, sound: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return `[batch, time]`, the same as `sound`."""
        value = self.first(shift_right(sound.unsqueeze(2)))
        skips = None
        for layer in self.layers:
            value, skip = layer(value, condition)
            skips = skip if skips is None else skips + skip
        value = self.last(torch.relu(self.mix(torch.relu(skips))))
        mean, log_scale = value.split(1, dim=2)
        return sound * torch.exp(log_scale.squeeze(2)) + mean.squeeze(2)


class ParallelWaveNet(nn.Module):
    """From noise `[batch, time]`, features `[batch, frames, features]` and a speaker to sound."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.hop = sizes.hop
        self.flows = nn.ModuleList(Flow(sizes, layers) for layers in sizes.flows)

    def forward(
        self, noise: torch.Tensor, features: torch.Tensor, speaker: torch.Tensor
    ) -> torch.Tensor:
        """Return sound, `[batch, time]`."""
        repeated = features.repeat_interleave(self.hop, dim=1)
        everywhere = speaker.unsqueeze(1).expand(-1, noise.shape[1], -1)
        condition = torch.cat([repeated, everywhere], dim=2)
        sound = noise
        for flow in self.flows:
            sound = flow(sound, condition)
        return sound


def build(sizes: Sizes | None = None, seed: int = 0) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return the model with random weights, and random inputs of batch 1."""
    sizes = sizes or Sizes()
    torch.manual_seed(seed)
    model = ParallelWaveNet(sizes).eval()
    inputs = (
        torch.randn(1, sizes.samples),
        torch.randn(1, sizes.frames, sizes.features),
        torch.randn(1, sizes.speaker),
    )
    return model, inputs
