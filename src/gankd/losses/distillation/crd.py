"""Contrastive representation distillation: recognise an image by the teacher's embedding among those of others."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.config import require
from gankd.errors import DataError
from gankd.losses.distillation.spec import loss
from gankd.losses.vicinal import kappa_base


@loss("CRD", paper="Tian et al., ICLR 2020", weight=0.8)
class CRD(nn.Module):
    """Recognise an image by the teacher's embedding among those of other images, and the reverse.

    With a, b unit rows, linear in the two embeddings, and m_k the stored row of image k from the other network:

        loss_i = sum over both directions of - log D(a_i, b_i) - sum_k v_ik log(1 - D(a_i, m_k))        (classes)
        D(a, b) = h / (h + K_i / M),  h = exp(a.b / tau) / Z,  K_i = sum_k v_ik

    k runs over K of the memory's M entries, drawn at random. v_ik = 1 if image k is of another class, else 0. K_i / M
    is the constant of noise-contrastive estimation: K_i negatives for one positive, each with probability 1 / M. Z,
    one per direction, is fixed at the first training batch to M times the mean of exp(a.m / tau) over it.

    For values the vicinity of CcGAN gives each entry a weight as positive, w_ik = exp(-nu (y_i - y_k)^2), y in [0, 1]:

        loss_i = ... - [log D(a_i, b_i) + sum_k w_ik log D(a_i, m_k)] / (1 + sum_k w_ik)
                     - sum_k (1 - w_ik) log(1 - D(a_i, m_k)),  K_i = sum_k (1 - w_ik)

    with nu = 1 / (vicinity kappa_base)^2, kappa_base the largest gap between neighbouring labels [2]; of n values the
    squares are sums over them, and the gap is the largest distance of a label to its nearest other one. In the first
    line w_ik is 0 for images not seen yet, whose memory is still random.

    Memory: 2 M dim 4 bytes for both memories (50,000 images: 51 MB), and some arrays of 2 K dim and 2 N K floats in
    each step, where drawing negatives per image would take 2 N K dim (1 GB for N = 64).

    Unlike in the authors' code, one sample of K, with replacement, serves the whole batch, so scores are one matrix
    product; a memory of at most K images is read completely. Hence K_i instead of K, and classes may be of any size.
    The positive b_i is the other network's current row for the image, as in [1], section 3.1, and not the stored one,
    which is random for a generated image that is seen once; like the memory, it is held constant. Z uses only memory.

    Args:
        student_embedding: (N, F).
        teacher_embedding: (N, F'), without gradient.
        dataset_labels: (M,) int64 classes, or values on the [0, 1] scale, (M, n) of n values.
        labels: (N,) or (N, n) of the same kind.
        index: (N,) int64 place of each image in the memory, which is updated in training mode, after the loss:
            m <- momentum m + (1 - momentum) (mean of this batch's rows of that index), back to unit length.
        generator: random numbers for the negatives.
        negatives: K.
        tau: temperature.
        momentum: share of the old memory in the new.
        dim: common width.
        vicinity: for values, multiple of the label gap; 2 as in CcGAN.

    Returns:
        (N,).

    Raises:
        DataError: all values in `dataset_labels` are equal.

    [1] Tian, Krishnan, Isola. Contrastive representation distillation. ICLR 2020, section 3.1.
    [2] Ding, Wang, Xu, Welch, Wang. CcGAN: continuous conditional generative adversarial networks. ICLR 2021.
    """

    memory: Tensor
    seen: Tensor
    log_z: Tensor
    dataset_labels: Tensor

    def __init__(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        dataset_labels: Tensor,
        *,
        negatives: int = 16_384,
        tau: float = 0.07,
        momentum: float = 0.5,
        dim: int = 128,
        vicinity: float = 2.0,
    ) -> None:
        super().__init__()
        require(negatives >= 1, f"CRD: negatives must be at least 1, got {negatives}")
        require(tau > 0, f"CRD: tau must be positive, got {tau}")
        require(0 <= momentum < 1, f"CRD: momentum must lie in [0, 1), got {momentum}")
        require(dim >= 1, f"CRD: dim must be at least 1, got {dim}")
        require(vicinity > 0, f"CRD: vicinity must be positive, got {vicinity}")
        self.negatives, self.tau, self.momentum = negatives, tau, momentum
        self.nu = 0.0
        if dataset_labels.is_floating_point():
            if (dataset_labels == dataset_labels[0]).all():
                raise DataError("CRD compares images by their values, and all training labels are equal; use RKD or SP")
            self.nu = (vicinity * kappa_base(dataset_labels)) ** -2
        self.student = nn.Linear(student_embedding.shape[1], dim)
        self.teacher = nn.Linear(teacher_embedding.shape[1], dim)
        size = len(dataset_labels)
        # [0] holds the teacher's rows and is read by the student's; [1] the reverse.
        self.register_buffer("memory", F.normalize(torch.randn(2, size, dim), dim=2))
        self.register_buffer("seen", torch.zeros(size))
        self.register_buffer("log_z", torch.full((2, 1, 1), torch.nan))
        self.register_buffer("dataset_labels", dataset_labels.clone(), persistent=False)
        self._may_lack_z = True

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        labels: Tensor,
        index: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        embedded = [self.student(student_embedding), self.teacher(teacher_embedding)]
        anchors = F.normalize(torch.stack(embedded), dim=2)  # (2, N, dim)
        partners = anchors.detach().flip(0)

        size = len(self.seen)
        if self.negatives < size:
            drawn = torch.randint(size, (self.negatives,), generator=generator, device=self.seen.device)
            memory, seen, memory_labels = self.memory[:, drawn], self.seen[drawn], self.dataset_labels[drawn]
        else:  # a copy: backward reads it after the memory has been updated
            memory, seen, memory_labels = self.memory.clone(), self.seen, self.dataset_labels
        scores = (anchors / self.tau) @ memory.mT  # (2, N, K)
        log_z = self._log_z(scores)

        difference = labels[:, None] - memory_labels  # (N, K), or (N, K, n) of n values
        squared = difference.square().sum(2) if difference.ndim == 3 else difference.square()
        near = (-self.nu * squared).exp() if self.nu else (squared == 0).to(scores.dtype)
        far = 1 - near
        count = far.sum(1, keepdim=True).clamp_min(1)
        # D = sigmoid(score - offset), so -log D = softplus(offset - score) and -log(1 - D) = softplus(score - offset).
        offset = log_z + (count / size).log()
        logits = scores - offset
        as_negative = F.softplus(logits)
        positive = F.softplus(offset[..., 0] - (anchors * partners).sum(2) / self.tau)  # (2, N)
        if self.nu:
            near = near * seen
            positive = (positive + (near * (as_negative - logits)).sum(2)) / (1 + near.sum(1))
        if self.training:
            self._remember(partners, index)
        return (positive + (far * as_negative).sum(2)).sum(0)

    def _log_z(self, scores: Tensor) -> Tensor:
        """(2, 1, 1) log Z, from these scores if there is none yet."""
        if not self._may_lack_z:
            return self.log_z
        count = scores[0].numel() / len(self.seen)
        estimate = scores.detach().logsumexp((1, 2), keepdim=True) - math.log(count)
        # Reading the buffer's value on the host would synchronise the device. A loaded value stays.
        log_z = torch.where(self.log_z.isnan(), estimate, self.log_z)
        if self.training:
            self.log_z.copy_(log_z)
            self._may_lack_z = False
        return log_z

    @torch.no_grad()
    def _remember(self, rows: Tensor, index: Tensor) -> None:
        """Mix (2, N, dim) rows into the memory. Rows of equal index count as their mean, in any order."""
        equal = index[:, None] == index
        mean = (equal.to(rows.dtype) @ rows) / equal.sum(1, keepdim=True)
        mean = mean[:, equal.int().argmax(1)]  # bit-equal for equal indices, so the order of writing does not matter
        mixed = self.momentum * self.memory[:, index] + (1 - self.momentum) * mean
        self.memory[:, index] = F.normalize(mixed, dim=2)
        self.seen[index] = 1
