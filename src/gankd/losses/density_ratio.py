"""Losses whose minimum over a network is the density ratio p_real / p_fake; all scalars in float32."""

import torch.nn.functional as F
from torch import Tensor


def logistic_ratio_loss(log_ratio_fake: Tensor, log_ratio_real: Tensor) -> Tensor:
    """Cross-entropy of classifying real against fake, in nats; least at log p_real / p_fake, ln 2 if they are equal.

        1/2 E_fake[softplus(l)] + 1/2 E_real[softplus(-l)]

    Separate means give both sides the same prior, so the optimum holds for any N and M [1].

    Args:
        log_ratio_fake: (N,) log-ratios of generated samples.
        log_ratio_real: (M,) log-ratios of real samples.

    [1] Sugiyama, Suzuki, Kanamori. Density Ratio Estimation in Machine Learning (2012).
    """
    return (F.softplus(log_ratio_fake.float()).mean() + F.softplus(-log_ratio_real.float()).mean()) / 2


def softplus_ratio_loss(ratio_fake: Tensor, ratio_real: Tensor, penalty: float = 0.0) -> Tensor:
    """Softplus density-ratio loss [1], least at r(x) = p_real(x) / p_fake(x); may be negative.

        E_fake[sigmoid(r) r - softplus(r)] - E_real[sigmoid(r)] + penalty (E_fake[r] - 1)^2

    The true ratio has E_fake[r] = 1, so the penalty steadies training and leaves the minimum in place.

    Args:
        ratio_fake: (N,) ratios of generated samples, each >= 0.
        ratio_real: (M,) ratios of real samples; M may differ from N.
        penalty: lambda in [1], >= 0; 0.01 in cGAN-KD.

    [1] Ding, Wang, Welch. Subsampling GANs: density ratio estimation in feature space with
        softplus loss. IEEE Trans. Signal Processing 68 (2020).
    """
    fake, real = ratio_fake.float(), ratio_real.float()
    fake_term = (fake.sigmoid() * fake - F.softplus(fake)).mean()
    return fake_term - real.sigmoid().mean() + penalty * (fake.mean() - 1) ** 2


def ulsif_ratio_loss(ratio_fake: Tensor, ratio_real: Tensor, penalty: float = 0.0) -> Tensor:
    """Least-squares density-ratio loss (uLSIF), least at r(x) = p_real(x) / p_fake(x); may be negative.

        1/2 E_fake[r^2] - E_real[r]  =  1/2 E_fake[(r - p_real / p_fake)^2] + constant         [1]

    To this, penalty (E_fake[r] - 1)^2 is added, as in `softplus_ratio_loss`.

    Args:
        ratio_fake: (N,) ratios of generated samples.
        ratio_real: (M,) ratios of real samples; M may differ from N.
        penalty: lambda, >= 0.

    [1] Kanamori, Hido, Sugiyama. A least-squares approach to direct importance estimation. JMLR 10 (2009).
    """
    fake = ratio_fake.float()
    return fake.square().mean() / 2 - ratio_real.float().mean() + penalty * (fake.mean() - 1) ** 2
