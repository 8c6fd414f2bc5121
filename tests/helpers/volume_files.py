"""Files of volumes made without our writer, also such as it never writes."""

import io
import zipfile

import numpy as np


def save_folder(path, **arrays):
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)


def member(name, data, compression=zipfile.ZIP_STORED):
    """An .npz with one member of these bytes."""

    def damage(path):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(name, data)

    return damage


def npy_bytes(array, version=(1, 0), cut=0):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()[: -cut or None]
