"""The two networks of improved label input (ILI) for continuous labels (Ding et al., CcGAN, IEEE TPAMI 2023).

T1 learns image -> embedding -> label; T2 then learns label -> embedding, so that T1's head reads the label back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.label_embedding import LabelToEmbedding
from gankd.models.contract import ImageModel
from gankd.models.resnet import ResNet
from gankd.runs import Stage
from gankd.seeds import Batches, rng
from gankd.tasks import Classification
from gankd.training.supervised import SupervisedConfig, train_supervised


class ImageToEmbedding(nn.Module):
    """T1: a residual network to the 128-d embedding, ReLU, and a linear head to the n values of the label on [0, 1]."""

    def __init__(self, in_channels: int, num_outputs: int) -> None:
        super().__init__()
        self.body = ResNet(in_channels, LabelToEmbedding.width, depth=14, width=16)
        self.head = nn.Linear(LabelToEmbedding.width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)))


def train_label_embedding(
    train: LabelledImages, val: LabelledImages, updates: int, engine: Engine, seed: int, stage: Stage
) -> LabelToEmbedding | None:
    """Train T1 on images, then T2 on noisy labels against T1's frozen head; return T2, or None for classes.

    T2's loss is MSE(head(T2(y)), y) over distinct labels with N(0, 0.2^2) noise, clipped to [0, 1].
    """
    task = train.task
    if isinstance(task, Classification):  # classes have learned vectors: there is nothing to embed beforehand
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        t1_net, t2 = ImageToEmbedding(train.shape[0], task.head_size), LabelToEmbedding(task)
    t1 = train_supervised(
        ImageModel.for_data(t1_net, train),
        train,
        val,
        SupervisedConfig(updates=updates, batch_size=64),
        engine,
        seed,
        stage.part("T1"),
    )
    del t1  # only its head is needed
    head = t1_net.head.requires_grad_(False).float()
    engine.place(t2)
    distinct = task.normalise(train.labels.unique(dim=0)).to(engine.device)  # (D,) or (D, n), on [0, 1]
    optimizer = torch.optim.AdamW(t2.parameters(), 1e-3, weight_decay=1e-4, fused=True)
    batches = Batches(len(distinct), 128, seed, "ili")
    part = stage.part("T2")
    for step in part.steps(updates, t2=t2, optimizer=optimizer):
        labels01 = distinct[batches(step).to(engine.device)]
        noise = torch.randn(labels01.shape, generator=rng(seed, "ili noise", step)).to(engine.device)
        labels01 = (labels01 + 0.2 * noise).clamp(0, 1)
        # (N,) or (N, n) -> (N, 128) -> (N, n): the head reads the label back from its embedding.
        loss = F.mse_loss(head(t2(task.denormalise(labels01))).view(labels01.shape), labels01)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        part.report(len(labels01), loss=loss.detach())
    return t2.requires_grad_(False).eval()
