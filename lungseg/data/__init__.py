"""Arrays and files: slices, volumes, scans and tables; splits, augmentation, phantoms."""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.data.augment import Augmentation as Augmentation
    from lungseg.data.classes import read_classes as read_classes, to_labels as to_labels
    from lungseg.data.ct import grey_to_hu as grey_to_hu, hu_to_grey as hu_to_grey, hu_to_unit as hu_to_unit
    from lungseg.data.elastic import elastic_displacement as elastic_displacement
    from lungseg.data.manifest import ImageRecord as ImageRecord, read_manifest as read_manifest
    from lungseg.data.phantoms.captions import captioned_crops as captioned_crops
    from lungseg.data.phantoms.folders import (
        write_phantom_folder as write_phantom_folder,
        write_phantom_volumes as write_phantom_volumes,
    )
    from lungseg.data.phantoms.scene import (
        phantom_crops as phantom_crops,
        phantom_patient as phantom_patient,
        phantom_volume as phantom_volume,
    )
    from lungseg.data.pickles.table import read_table as read_table
    from lungseg.data.samples import Samples as Samples
    from lungseg.data.scans import read_scans as read_scans
    from lungseg.data.slices import (
        SliceDataset as SliceDataset,
        SliceWriter as SliceWriter,
        check_folder as check_folder,
    )
    from lungseg.data.splits import (
        Fold as Fold,
        near_duplicate_groups as near_duplicate_groups,
        split_by_group as split_by_group,
    )
    from lungseg.data.volumes import (
        CropDataset as CropDataset,
        PatchDataset as PatchDataset,
        VolumeDataset as VolumeDataset,
        VolumeWriter as VolumeWriter,
        check_volume_folder as check_volume_folder,
    )

_EXPORTS = {
    "augment": ("Augmentation",),
    "classes": ("read_classes", "to_labels"),
    "ct": ("grey_to_hu", "hu_to_grey", "hu_to_unit"),
    "elastic": ("elastic_displacement",),
    "manifest": ("ImageRecord", "read_manifest"),
    "phantoms.captions": ("captioned_crops",),
    "phantoms.folders": ("write_phantom_folder", "write_phantom_volumes"),
    "phantoms.scene": ("phantom_crops", "phantom_patient", "phantom_volume"),
    "pickles.table": ("read_table",),
    "samples": ("Samples",),
    "scans": ("read_scans",),
    "slices": ("SliceDataset", "SliceWriter", "check_folder"),
    "splits": ("Fold", "near_duplicate_groups", "split_by_group"),
    "volumes": ("CropDataset", "PatchDataset", "VolumeDataset", "VolumeWriter", "check_volume_folder"),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
