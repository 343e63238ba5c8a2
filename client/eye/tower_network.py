"""The convolutions of the picture tower, apart: torch is loaded only where a picture is looked at.

Plain convolutions with residual pairs (He et al., "Deep residual learning", CVPR 2016). Features are pooled
at three depths, since grain and weave show early and shapes late. In training each convolution is followed by
a batch normalisation; in the shipped weights it is folded into the convolution, so the network that runs has
none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (24, 48, 80, 144)
FEATURES = 128


class Convolution(nn.Sequential):
    """A convolution with, in training, its batch normalisation.

    (n, inner, h, w) to (n, outer, h / stride, w / stride).
    """

    def __init__(self, inner: int, outer: int, size: int, stride: int, norm: bool) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inner, outer, size, stride, size // 2, bias=not norm)]
        if norm:
            layers.append(nn.BatchNorm2d(outer, momentum=0.02))
        super().__init__(*layers)


class Pair(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.first = Convolution(width, width, 3, 1, norm)
        self.second = Convolution(width, width, 3, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, (n, width, h, w) like what came in."""
        return F.relu(x + self.second(F.relu(self.first(x))))


class PictureNetwork(nn.Module):
    """The network from pictures to features and logits.

    (n, 3, 128, 128) in [-1, 1] to (n, 128) and (n, subjects + each category's values and none).
    """

    def __init__(self, logits: int, norm: bool = False) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = Convolution(3, a, 5, 2, norm)  # (n, a, 64, 64)
        self.down = nn.ModuleList(
            Convolution(i, o, 3, 2, norm) for i, o in ((a, b), (b, c), (c, d))
        )  # to 32, 16, 8
        self.pairs = nn.ModuleList(Pair(width, norm) for width in (b, c, d))
        self.gather = nn.Linear(b * 2 + c * 2 + d * 2, FEATURES)
        self.answer = nn.Linear(FEATURES, logits)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features, at least zero, and logits."""
        x = F.relu(self.stem(x))
        pooled = []
        for down, pair in zip(self.down, self.pairs, strict=True):
            x = pair(F.relu(down(x)))
            pooled += [x.mean((2, 3)), x.amax((2, 3))]
        features = F.relu(self.gather(torch.cat(pooled, 1)))
        return features, self.answer(features)


def folded(network: PictureNetwork, logits: int) -> PictureNetwork:
    """Return a network without normalisations that computes what the trained one does in evaluation."""
    plain = PictureNetwork(logits)
    own = dict(network.eval().named_modules())
    state: dict[str, Tensor] = {}
    for name, module in plain.named_modules():
        if isinstance(module, Convolution):
            convolution, norm = own[name][0], own[name][1]
            scale = norm.weight.float() / (norm.running_var + norm.eps).sqrt()
            state[f"{name}.0.weight"] = convolution.weight.float() * scale[:, None, None, None]
            state[f"{name}.0.bias"] = norm.bias.float() - norm.running_mean * scale
        elif isinstance(module, nn.Linear):
            state[f"{name}.weight"], state[f"{name}.bias"] = (p.float() for p in own[name].parameters())
    plain.load_state_dict(state)
    return plain.eval()


def from_tensors(tensors: Mapping[str, Tensor], logits: int) -> PictureNetwork:
    """Return the network of shipped weights.

    Raises:
        RuntimeError: a tensor is missing or has another shape.
    """
    network = PictureNetwork(logits)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval().requires_grad_(False)
