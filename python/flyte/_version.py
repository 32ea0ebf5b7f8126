"""The version of this package, in one place that costs nothing to import."""

__version__ = "0.1.0"


def version() -> str:
    """Return the version of this package, such as `"0.1.0"`.

    Example:
        >>> import flyte
        >>> flyte.version() == flyte.__version__
        True
    """
    return __version__
