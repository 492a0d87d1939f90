"""HEIC photographs, as phones take them, read by Pillow through pillow-heif."""

from pathlib import Path

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Main brands of such files (ISO/IEC 23008-12, annex B)."""


def is_heic(source: Path | bytes) -> bool:
    """True if a file, or its content, begins as a HEIC or HEIF image does."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            source = file.read(12)
    return source[4:8] == b"ftyp" and source[8:12] in BRANDS


def heic_formats() -> tuple[str, ...]:
    """Pillow's names of these formats, which it can read from now on.

    Raises:
        ValueError: pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise ValueError('a HEIC image, which needs pillow-heif; pip install "gankd[heic]"') from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)
