"""Train the sparse auto-encoder of the published density ratio for scalar labels."""

import torch
import torch.nn.functional as F

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.generators.networks import to_float
from gankd.runs import Stage
from gankd.seeds import Batches
from gankd.subsampling.autoencoder import SparseAutoencoder

BATCH = 128
"""Images in each step (published)."""
SPARSITY = 1e-3
"""Weight of the mean code (published)."""


def train_autoencoder(
    network: SparseAutoencoder, train: LabelledImages, updates: int, engine: Engine, seed: int, stage: Stage
) -> SparseAutoencoder:
    """Train in place; return in eval mode. Loss: MSE(reconstruction) + 0.001 mean(code) + task loss of the label.

    Raises:
        TrainingError: the loss is not finite.
    """
    engine.place(network)
    train = train.to(engine.device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    batches = Batches(len(train), BATCH, seed, "autoencoder")
    for step in stage.steps(updates, network=network, optimizer=optimizer):
        network.train()
        index = batches(step).to(engine.device)
        images = train.images[index]  # (N, C, H, W) uint8
        with engine.autocast():
            picture, code, outputs = engine.shards(network, images, trains=network)  # (N, C, H, W), (N, F), (N,)
        pixels = F.mse_loss(picture.float(), to_float(images))
        label = train.task.loss(outputs, train.labels[index]).mean()
        loss = pixels + SPARSITY * code.float().mean() + label
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        stage.report(len(images), loss=loss.detach(), pixels=pixels.detach(), label=label.detach())
    return network.eval()
