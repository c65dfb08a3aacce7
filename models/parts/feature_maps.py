"""Feature maps that make a linear attention of a softmax: phi(q) . phi(k) stands for exp(q . k)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recallfront.kernels.taylor_attention.operator import taylor_features
from recallfront.models.parts.layers import Drawn

FeatureMapName = Literal["taylor", "elu", "relu", "square", "cosformer", "performer", "hedgehog"]


class FeatureMap(nn.Module):
    """Maps x (B, T, H, D) at positions (B or 1, T) to features (B, T, H, F); one map for queries and keys."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        raise NotImplementedError


class Elu(FeatureMap):
    """elu(x) + 1 (arXiv:2006.16236)."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


class Relu(FeatureMap):
    """max(x, 0) (arXiv:2103.13076)."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return F.relu(x)


class Square(FeatureMap):
    """x^2, entry by entry."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return x.square()


class Taylor(FeatureMap):
    """Second-order Taylor polynomial of the exponential (arXiv:2402.18668 sec. 4.1)."""

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return taylor_features(x, x.shape[-1] ** -0.5)


class CosFormer(FeatureMap):
    """max(x, 0) weighed by cos(pi (i - j) / 2M) of the distance, M the horizon (arXiv:2202.08791 eq. 10)."""

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        # rounded after the cosine: a rounded angle of many turns is another angle
        angle = positions[..., None, None].to(torch.float64) * (math.pi / (2 * self.horizon))
        x = F.relu(x)
        return torch.cat([x * angle.cos().to(x.dtype), x * angle.sin().to(x.dtype)], dim=-1)


class Performer(FeatureMap, Drawn):
    """exp(R x - |x|^2 / 2) / sqrt(F) with fixed orthogonal random R, x / d^(1/4) (arXiv:2009.14794 eq. 5)."""

    projection: Tensor

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.register_buffer("projection", torch.empty(features, dim))

    def initialise(self, generator: Generator) -> None:
        features, dim = self.projection.shape
        blocks = []
        for _ in range(-(-features // dim)):
            square = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
            lengths = torch.randn(dim, dim, generator=generator, dtype=torch.float64).norm(dim=1)
            q, r = torch.linalg.qr(square)
            # with R's diagonal made positive Q is uniform: Householder's signs would favour one half space
            blocks.append(lengths[:, None] * (q * r.diagonal().sign()).T)
        self.projection.copy_(torch.cat(blocks)[:features])

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x * x.shape[-1] ** -0.25
        logits = x @ self.projection.T - x.square().sum(-1, keepdim=True) / 2
        features: Tensor = logits.exp() * self.projection.shape[0] ** -0.5
        return features


class Hedgehog(FeatureMap, Drawn):
    """softmax(W x) and softmax(-W x) side by side, W learned a head, from the identity (arXiv:2402.04347)."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, dim, dim))

    def initialise(self, generator: Generator) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.eye(self.weight.shape[1]).expand_as(self.weight))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        logits = torch.einsum("bthd,hde->bthe", x, self.weight)
        return torch.cat([logits.softmax(-1), (-logits).softmax(-1)], dim=-1)


def make_feature_map(name: str, *, heads: int, dim: int, random_features: int, horizon: int) -> FeatureMap:
    """The map called `name`; the configuration has checked it."""
    if name == "cosformer":
        return CosFormer(horizon)
    if name == "performer":
        return Performer(dim, random_features)
    if name == "hedgehog":
        return Hedgehog(heads, dim)
    return {"elu": Elu, "relu": Relu, "square": Square, "taylor": Taylor}[name]()
