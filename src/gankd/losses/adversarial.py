"""GAN losses on discriminator scores, and gradient penalties. Scores are raw (no sigmoid), losses float32.

Per-sample weights come from vicinal sampling (`gankd.losses.vicinal`); class labels have none.
"""

from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

GanLoss = Literal["hinge", "logistic", "relativistic"]


def discriminator_loss(
    kind: GanLoss,
    real_scores: Tensor,
    fake_scores: Tensor,
    real_weights: Tensor | None = None,
    fake_weights: Tensor | None = None,
) -> Tensor:
    """Discriminator loss, a scalar.

        hinge         mean w_r relu(1 - s_r) + mean w_f relu(1 + s_f)     [1]
        logistic      mean w_r softplus(-s_r) + mean w_f softplus(s_f)    [2]
        relativistic  mean w_r w_f softplus(-(s_r - s_f)), pair by pair   [3]

    The logistic loss is least at s = log p_real / p_fake. Weighted terms are averaged over the batch and not
    divided by the sum of the weights, as in CcGAN's code [4]. A relativistic term belongs to a pair, so its
    weight is the product of both weights.

    Args:
        kind: which loss.
        real_scores: (N,) scores of real images.
        fake_scores: (M,) scores of generated images; M = N for relativistic, which pairs i with i.
        real_weights: (N,) weights >= 0; default: ones.
        fake_weights: (M,) weights >= 0; default: ones.

    [1] Lim, Ye. Geometric GAN (2017).
    [2] Goodfellow et al. Generative adversarial nets. NeurIPS 2014.
    [3] Jolicoeur-Martineau. The relativistic discriminator. ICLR 2019; in this form: Huang et al. The GAN is
        dead; long live the GAN! A modern GAN baseline (R3GAN). NeurIPS 2024.
    [4] Ding et al. CcGAN: continuous conditional generative adversarial networks. ICLR 2021.
    """
    real, fake = real_scores.float(), fake_scores.float()
    match kind:
        case "hinge":
            real_terms, fake_terms = F.relu(1 - real), F.relu(1 + fake)
        case "logistic":
            real_terms, fake_terms = F.softplus(-real), F.softplus(fake)
        case "relativistic":
            assert real.shape == fake.shape, f"pairs need as many real as fake: {real.shape}, {fake.shape}"
            return _weighted(_weighted(F.softplus(fake - real), real_weights), fake_weights).mean()
        case _:
            assert_never(kind)
    return _weighted(real_terms, real_weights).mean() + _weighted(fake_terms, fake_weights).mean()


def generator_loss(kind: GanLoss, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
    """Generator loss, a scalar; sources as in `discriminator_loss`.

        hinge         -mean s_f
        logistic      mean softplus(-s_f)            the non-saturating form
        relativistic  mean softplus(-(s_f - s_r)), pair by pair

    Args:
        kind: which loss.
        fake_scores: (N,) scores of generated images.
        real_scores: (N,) scores of real images under the same conditions; only for the relativistic loss.
    """
    fake = fake_scores.float()
    match kind:
        case "hinge":
            return -fake.mean()
        case "logistic":
            return F.softplus(-fake).mean()
        case "relativistic":
            assert real_scores is not None, "the relativistic generator loss compares with real scores"
            assert fake.shape == real_scores.shape, f"pairs: {fake.shape} fake, {real_scores.shape} real"
            return F.softplus(real_scores.float() - fake).mean()
        case _:
            assert_never(kind)


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Exact zero-centred penalty, mean |dD/dx|^2 / 2, a scalar: R1 on real images, R2 on generated ones [1].

    Differentiable through a second backward pass, which torch.compile does not support. Each score must
    depend only on its own image: with batch statistics in D the gradients mix.

    Args:
        scores: (N,) scores of `images`, computed outside autocast.
        images: (N, ...) with requires_grad set before the forward pass.

    [1] Mescheder, Geiger, Nowozin. Which training methods for GANs do actually converge? ICML 2018.
    """
    return squared_gradient(scores, images).mean() / 2


def squared_gradient(scores: Tensor, images: Tensor) -> Tensor:
    """|dD/dx|^2 of each image (N,), of which `gradient_penalty` is half the mean; see there."""
    (gradient,) = torch.autograd.grad(scores.float().sum(), images, create_graph=True)
    return gradient.float().flatten(1).square().sum(1)


def _weighted(terms: Tensor, weights: Tensor | None) -> Tensor:
    return terms if weights is None else terms * weights.float()
