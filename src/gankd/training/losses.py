"""Distillation losses by name: those of `gankd.losses.distillation`, of `gankd.virtual.losses`, and the user's own."""

from functools import cache

from gankd.config import suggest
from gankd.errors import ConfigError
from gankd.losses import distillation
from gankd.losses.distillation.spec import Loss, losses_of, package_losses
from gankd.own_code import import_own
from gankd.virtual import losses as virtual_losses


@cache
def all_losses() -> dict[str, Loss]:
    """The losses of gankd by name, in alphabetical order."""
    found = package_losses(distillation) | package_losses(virtual_losses)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def find_loss(name: str) -> Loss:
    """A loss by name, or "module:name" of the user's own.

    Raises:
        ConfigError: no such loss (with suggestions), or that object is not marked by `loss`.
    """
    module_name, colon, attribute = name.rpartition(":")
    if not colon:
        if name in all_losses():
            return all_losses()[name]
        raise ConfigError(f"no loss {name!r}; {suggest(name, all_losses())}; for your own write module:name")
    module = import_own(module_name, f"loss {name}", ConfigError)
    own = losses_of(module)
    found = getattr(getattr(module, attribute, None), "gankd_loss", None) or own.get(attribute)
    if not isinstance(found, Loss):
        remedy = suggest(attribute, own) if own else "mark the function with @gankd.losses.distillation.loss"
        raise ConfigError(f"no loss {attribute!r} in {module_name}; {remedy}")
    return found
