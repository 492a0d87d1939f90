"""The last layer of a network as a layer of its own, for losses that reuse the teacher's."""

import torch
from torch import Tensor, nn

from gankd.errors import ModelError
from gankd.models.contract import ImageModel
from gankd.models.read_out import ReadOut
from gankd.models.taps import undisturbed
from gankd.tasks import Task


def teacher_head(model: ImageModel, images: Tensor, task: Task) -> nn.Linear:
    """A frozen copy of the layer that turns the embedding into outputs: logits, or values on the [0, 1] label scale.

    For an ensemble, the mean of the members' layers, which read their parts of the embedding.

    Raises:
        ModelError: there is no such layer, or it does not give the outputs by itself (something follows it).
    """
    with ReadOut(model.members, type(model.net).__name__) as read_out, undisturbed(model, images):
        read_out.start()
        outputs = model(images)
        read = read_out.finish(outputs)
    if not read:
        raise ModelError(read_out.reason)
    layers = [layer for layer, _ in read]
    embedding = torch.cat([features for _, features in read], 1).float()
    offset, factor = (torch.tensor(each).to(images.device) for each in task.output_scale)  # () or (n,)
    own_offset, own_factor = (torch.tensor(each).to(images.device) for each in (model.offset, model.factor))
    order = slice(None) if model.order is None else model.order
    with torch.no_grad():
        weight = torch.cat([layer.weight.flatten(1) for layer in layers], 1).float()[order] / len(layers)
        bias = torch.stack([_bias(layer) for layer in layers]).mean(0)[order]
        head = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], device=weight.device)
        head.requires_grad_(False)
        head.weight.copy_(weight * (own_factor / factor).reshape(-1, 1))
        head.bias.copy_((own_offset + own_factor * bias - offset) / factor)
        fits = embedding.shape[1] == weight.shape[1] and len(weight) == (outputs.shape[1] if outputs.ndim == 2 else 1)
        expected = (outputs.reshape(len(outputs), -1) - offset) / factor
        rounding = max(1e-3, *(4 * torch.finfo(layer.weight.dtype).eps for layer in layers))
        if not fits or (head(embedding) - expected).abs().max() > rounding * expected.abs().max().clamp_min(1e-3):
            raise ModelError(
                f"{type(model.net).__name__} changes what its last layer gives or joins several; losses that reuse the "
                "teacher's head need a teacher that ends in one nn.Linear"
            )
    return head


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.float()
