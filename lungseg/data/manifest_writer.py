"""A new folder with a manifest, written completely or not at all: what writers of slices and of volumes share."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from lungseg.data.classes import checked_classes, write_classes
from lungseg.data.manifest import ImageRecord, check_id, check_record, write_manifest
from lungseg.data.splits import check_disjoint
from lungseg.files import is_free, whole_folder


class ManifestWriter:
    """A folder that is being written, under a hidden name until it is complete (`lungseg.files.whole_folder`).

    An error or Ctrl-C inside the `with` removes it: nobody ever trains on half a data set.

    Args:
        folder: a new or an empty folder.
        classes: names of the lesion classes, if the targets are label maps 0..K of several.

    Attributes:
        path: where the files are until the folder is complete.
        records: those written so far; a subclass appends to them.
    """

    subfolders: tuple[str, ...] = ()

    def __init__(self, folder: str | Path, classes: Sequence[str] = ()):
        self.classes = checked_classes(classes) if classes else ()
        self.folder = Path(folder).absolute()
        self.path = self.folder
        self.records: list[ImageRecord] = []
        self._ids: dict[str, str] = {}  # those written, as `check_id` keeps them
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if not is_free(self.folder):
            raise ValueError(f"{self.folder} exists already. Remove it, or choose another folder.")
        with ExitStack() as opening:  # an error in here removes the folder, too: then __exit__ is not called
            self.path = opening.enter_context(whole_folder(self.folder))
            for name in self.subfolders:
                (self.path / name).mkdir()
            self._open = opening.pop_all()
        return self

    def check(self, record: ImageRecord) -> None:
        """Refuse, before anything is written, what a reader would refuse: an id such as "../x" leaves the folder."""
        check_record(record)
        before = len(self._ids)
        check_id(record.id, self._ids)
        if any("\ud800" <= c <= "\udfff" for c in record.id):  # Python's replacement for bytes that are not text
            raise ValueError(f"id {record.id!r} is not UTF-8 text, so no manifest can hold it. Rename the file.")
        if len(self._ids) == before:
            raise ValueError(f"id {record.id!r} appears twice. Give every slice or volume its own id.")

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error_type is not None:
            self._open.__exit__(error_type, error, traceback)  # removes what was written
            return
        with self._open:  # takes the final name at the end
            check_disjoint(*([getattr(r, n) for r in self.records] for n in ("id", "group", "split")))
            write_manifest(self.path / "manifest.csv", self.records)
            write_classes(self.path, self.classes)
