"""Opening HDF5 files, and what to do where a shared file system does not give HDF5 the locks it wants."""

from pathlib import Path
from typing import Literal

import h5py

from fungi.errors import FungiError


def open_hdf5(path: Path, mode: Literal["r", "w"]) -> h5py.File:
    """The opened file. FungiError where it can't be locked (NFS, Lustre), OSError where it can't be read."""
    try:
        return h5py.File(path, mode)
    except OSError as error:
        if "lock file" not in str(error):
            raise
        raise FungiError(
            f"{path} can't be locked ({str(error).splitlines()[0]}): its file system has no locks, or another program "
            "holds it open for writing. Set HDF5_USE_FILE_LOCKING=FALSE and try again: files of this program are "
            "written under another name and renamed when whole, so that they need no locks."
        ) from None
