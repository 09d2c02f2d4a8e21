"""CT of five patients that Python packages ship (`kdrun fetch ct_patches`), each as a volume in HU.

    abdomen      122 x 101 x 112 voxels of 3 mm, no contrast agent, with masks of organs (TotalSegmentator)
    other        20 slices of 512 x 512, 0.98 mm, with contrast agent, as a DICOM series, with masks (TotalSegmentator)
    angiography  chest, 1.5 mm, arterial contrast (TotalSegmentator)
    chest_1      512 x 512 x 48, 0.57 x 0.57 x 5 mm (pyradiomics)
    chest_2      512 x 512 x 61, 0.63 x 0.63 x 5 mm (pyradiomics)

The masks are what a segmentation network found, so they are good labels, not a radiologist's.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from kdrun.domains.ct.nifti import read_nifti
from kdrun.domains.ct.series import AIR, MOST, Volume, orient, read_series
from kdrun.problems import UserError, closest

DICOM = "CT.1.3.12.2.1107.5.1.4."
PATIENTS = {
    "abdomen": ("example_ct.nii", "example_seg_fast_force_split.nii"),
    "other": (DICOM, "example_seg_dicom.nii"),
    "angiography": ("ct.nii", None),
    "chest_1": ("lung1_image.nrrd", None),
    "chest_2": ("lung2_image.nrrd", None),
}


def shipped(patient: str, files: dict[str, Path]) -> Volume:
    """The volume of one of PATIENTS, from {name: path} of what was fetched."""
    if patient not in PATIENTS:
        raise UserError(f"there is no patient {patient!r}{closest(patient, PATIENTS)}; there is {', '.join(PATIENTS)}")
    name = PATIENTS[patient][0]
    if name == DICOM:
        return read_series([path for file, path in sorted(files.items()) if file.startswith(DICOM)])
    read = _read_nrrd if name.endswith(".nrrd") else read_nifti
    hu, spacing = orient(*read(files[name]))
    return Volume(np.clip(hu, AIR, MOST).astype(np.int16), spacing)


def organs(patient: str, files: dict[str, Path]) -> np.ndarray:
    """uint8 [D, H, W]: number of the organ at every voxel of `shipped(patient)`, 0 elsewhere."""
    return orient(*read_nifti(files[PATIENTS[patient][1]]))[0]


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(int16 [i, j, k], affine to RAS) of a gzipped NRRD file of 16 bits with a space of left-posterior-superior."""
    header, _, content = path.read_bytes().partition(b"\n\n")
    lines = header.decode().splitlines()
    fields = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("#"))
    wanted = {"type": "short", "encoding": "gzip", "endian": "little", "space": "left-posterior-superior"}
    other = {key: fields.get(key) for key, value in wanted.items() if fields.get(key) != value}
    if other:
        raise ValueError(f"{path.name} is another kind of NRRD file than was pinned: {other}")
    shape = tuple(map(int, fields["sizes"].split()))
    array = np.frombuffer(gzip.decompress(content), "<i2").reshape(shape, order="F")
    affine = np.eye(4)
    columns = [_vector(text) for text in fields["space directions"].split()]
    affine[:3] = np.column_stack([*columns, _vector(fields["space origin"])])
    affine[:2] *= -1
    return array, affine


def _vector(text: str) -> list[float]:
    return [float(value) for value in text.strip("()").split(",")]
