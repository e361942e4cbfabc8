"""What can go wrong, as types.

    DiffusionSatError
    ├── MetadataError (ValueError)       a place, date, resolution or cloud cover that cannot be
    ├── ConfigError (ValueError)         an option, a size, a name that is not known
    ├── RasterError (ValueError)         a raster that cannot be read, or an output that cannot be written
    ├── DatasetError (ValueError)        a data set that is absent, incomplete or of another kind
    ├── CheckpointError (OSError)        a checkpoint that is absent, damaged, foreign or unsafe
    └── MissingExtraError (ImportError)  a job that needs packages which are not installed

A message says what was given, what is possible and what to do next.
"""


class DiffusionSatError(Exception):
    """Root of the errors that this package raises on purpose."""


class MetadataError(DiffusionSatError, ValueError):
    """A place, date, resolution or cloud cover cannot be."""


class ConfigError(DiffusionSatError, ValueError):
    """An option, a size or a name is not known or not possible."""


class RasterError(DiffusionSatError, ValueError):
    """A raster cannot be read, or an output cannot be written."""


class DatasetError(DiffusionSatError, ValueError):
    """A data set is absent, incomplete or of another kind."""


class CheckpointError(DiffusionSatError, OSError):
    """A checkpoint is absent, damaged, foreign or unsafe to load."""


class MissingExtraError(DiffusionSatError, ImportError):
    """A job needs packages that are not installed.

    Args:
        what: The job, as the start of a sentence.
        extra: The extra of this package that brings them.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs packages that are not installed. Run: pip install 'diffusionsat[{extra}]'"
        )
