"""Files of other people are opened only if they are regular: a pipe blocks for ever, and a device need not end."""

import errno
import os
import stat
from pathlib import Path

_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def require_regular(path: str | Path) -> None:
    """Refuse a file that cannot be read from its beginning to its end.

    Raises:
        OSError: it is missing, or a folder, pipe, socket or device; `strerror` says which.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
        raise OSError(errno.EINVAL, f"not a regular file but {kind}", str(path))
