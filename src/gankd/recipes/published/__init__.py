"""The tables of the papers as recipes, by name."""

from gankd.config import require, suggest
from gankd.recipes.published import cifar10, cifar100, imagenet100, values
from gankd.recipes.published.table import Pair, Protocol, PublishedTable, Scale

TABLES: dict[str, PublishedTable] = {
    table.name: table for family in (cifar100, imagenet100, values, cifar10) for table in family.TABLES
}


def find_table(name: str, protocol: Protocol = "gankd") -> PublishedTable:
    """The table of this name, under a protocol.

    Raises:
        ConfigError: there is none.
    """
    require(name in TABLES, f"no published table {name!r}; {suggest(name, TABLES)}; all: gankd list recipes")
    return TABLES[name].with_protocol(protocol)


__all__ = ["TABLES", "Pair", "Protocol", "PublishedTable", "Scale", "find_table"]
