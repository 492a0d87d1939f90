"""Files of trained weights, as other programs write them."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.errors import CheckpointError
from gankd.models.file_kinds import STATE_DICT, refuse_other_files
from gankd.storage import CHANGED, intact, read_card

NESTS = ("state_dict", "model_state_dict", "model", "net", "params", "ema", "state_dict_ema", "model_ema")
"""Names under which training scripts put a state dict in a checkpoint; the first that is there is read."""


EXTRA = "_extra_state"
"""End of the names of what modules keep besides tensors."""


def load_weights(path: Path) -> dict[str, Tensor]:
    """Trained weights of a user: a safetensors file, or a .pt/.pth state dict read without running pickled code.

    The state dict may be an item of a checkpoint (`nest_of`).

    Raises:
        CheckpointError: the file is missing or damaged, or would run code when read.
    """
    return _read_weights(path)[0]


def nest_of(path: Path) -> str:
    """Name of the item of a checkpoint that `load_weights` reads, one of `NESTS`, and of others that it could have
    read, in words for the user; empty if the file is a state dict.
    """
    return _read_weights(path)[1]


def _read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load

    refuse_other_files(path)
    try:
        if path.suffix == ".safetensors":
            content = path.read_bytes()  # as in load_state
            if intact(content) is False:
                raise CheckpointError(f"{path} is truncated or damaged (it has {CHANGED}); get it again")
            state = load(content)
            if state and all(re.fullmatch(r"\d{5}", name) for name in state):
                raise CheckpointError(
                    f"{path} is an internal file of a run; to use its student elsewhere: gankd export RUN"
                )
            return state | read_card(path).get("extra_state", {}), ""
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise CheckpointError(f"{path} holds pickled code{what}, which is never run; {STATE_DICT}") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise CheckpointError(f"{path} is truncated or not a weights file ({reason})") from None
    if _is_state_dict(state):
        return state, ""
    nests = [name for name in NESTS if isinstance(state, dict) and state.get(name) and _is_state_dict(state[name])]
    if not nests:
        held = (
            [str(name) for name, value in state.items() if value and _is_state_dict(value)]
            if isinstance(state, dict)
            else []
        )
        beside = f" (but one each under {', '.join(held)})" if held else ""
        raise CheckpointError(
            f"{path} is not a state_dict (names to tensors), nor has it one under {', '.join(NESTS)}{beside}; "
            "save only model.state_dict()"
        )
    others = f", not from {', '.join(nests[1:])}: save that as a file of its own to use it" if nests[1:] else ""
    return state[nests[0]], f"read from {nests[0]}{others}"


def _is_state_dict(value: Any) -> bool:
    """True for names and tensors, among which may be the plain data of `get_extra_state`."""
    return isinstance(value, dict) and all(
        isinstance(item, Tensor) or str(name).endswith(EXTRA) for name, item in value.items()
    )
