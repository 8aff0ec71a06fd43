"""Enhanced multi-frame files, frame by frame: each as the classic slice it would have been.

A frame's own functional groups say where and when it was taken and what its numbers mean, the shared ones say what
all frames have in common. Neither the order of frames nor the geometry at the top level proves anything.

Oracle: DICOM PS3.3 C.7.6.16 and the macros of the Enhanced CT, MR and PET modules.
"""

from collections.abc import Sequence

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from cohort.io.slices import elements
from cohort.io.slices.elements import Elements

Flat = dict[int, RawDataElement | DataElement]

SHARED, PER_FRAME = 0x52009229, 0x52009230


def _tags(keywords: str) -> tuple[int, ...]:
    return tuple(int(Tag(keyword)) for keyword in keywords.split())


_GROUPS = _tags(
    "UnassignedSharedConvertedAttributesSequence UnassignedPerFrameConvertedAttributesSequence "
    "PixelMeasuresSequence PlanePositionSequence PlaneOrientationSequence FrameContentSequence "
    "PixelValueTransformationSequence MRImageFrameTypeSequence CTImageFrameTypeSequence PETFrameTypeSequence "
    "MREchoSequence MRTimingAndRelatedParametersSequence MRModifierSequence MRAveragesSequence "
    "CardiacSynchronizationSequence CTXRayDetailsSequence FrameAnatomySequence MRDiffusionSequence "
    "RealWorldValueMappingSequence"
)
"""Functional groups that say what a classic header says."""

_PHILIPS = 0x2005140F
"""Philips' own group, which repeats a classic header, positions of another corner included ..."""

_PHILIPS_SCALES = (0x2005100D, 0x2005100E)
"""... and of which only these count."""

_GEOMETRY = _tags("ImagePositionPatient ImageOrientationPatient PixelSpacing")
_PLACES = _tags("InStackPositionNumber ImagePositionPatient ImagePositionVolume")
"""Dimensions of space."""

_FRAME_TIME, *_ROOT_TIME = _tags("FrameAcquisitionDateTime AcquisitionDate AcquisitionTime")

_OWN = _tags(
    "FrameType EffectiveEchoTime TemporalPositionIndex NominalCardiacTriggerDelayTime FrameAcquisitionDateTime"
)
_CLASSIC = _tags("ImageType EchoTime TemporalPositionIdentifier TriggerTime AcquisitionDateTime")
"""How a classic slice calls the same."""


def flattened(root: Elements, n_frames: int, *, only: int | None = None) -> list[Flat]:
    """Give the elements of each frame under their classic names.

    Parameters
    ----------
    root : Elements
        Of the file, functional groups included.
    n_frames : int
        As NumberOfFrames says.
    only : int, optional
        One frame, from 0.

    Returns
    -------
    list of dict of tag -> element
        One a frame, in the order of the file; empty if the file does not describe that many.
    """
    shared, own = (elements.sequence(root, key) for key in (SHARED, PER_FRAME))
    own = own or [Dataset() for _ in range(n_frames) if n_frames == 1]
    if len(own) != n_frames:
        return []
    base = _plain(root, without=_GEOMETRY)
    for item in shared[:1]:
        base |= _grouped(item)
    return [_renamed(base | _grouped(item)) for item in (own if only is None else [own[only]])]


def volume_indices(root: Elements, frames: Sequence[Flat]) -> list[int | None]:
    """Rank frames by those of their DimensionIndexValues that do not say where they lie.

    Returns
    -------
    list of int
        From 1, the same for frames that differ in place only; None where the file does not tell.
    """
    pointers = [_pointer(item) for item in elements.sequence(root, "DimensionIndexSequence")]
    keys: list[tuple[float, ...]] = []
    for frame in frames:
        values = elements.numbers(frame, "DimensionIndexValues", len(pointers)) or []
        pairs = zip(values, pointers, strict=False)
        keys.append(tuple(value for value, pointer in pairs if pointer not in _PLACES))
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys)), 1)}
    return [ranks[key] if key else None for key in keys]


def _pointer(item: Elements) -> int:
    """Tag to which an index of a dimension points; 0 if there is none."""
    group, element = elements.numbers(item, "DimensionIndexPointer", 2) or (0, 0)
    return int(group) << 16 | int(element)


def _plain(item: Elements, *, without: Sequence[int] = ()) -> Flat:
    """Elements of one level that are no sequences, as they stand in the file."""
    found = {int(tag): elements.element(item, tag) for tag in item.keys()}  # noqa: SIM118
    return {
        tag: element
        for tag, element in found.items()
        if element is not None and element.VR != "SQ" and tag not in without
    }


def _grouped(item: Elements) -> Flat:
    """What one item of functional groups says."""
    found: Flat = {}
    for group in _GROUPS:
        for below in elements.sequence(item, group)[:1]:
            found |= _plain(below)
    for below in elements.sequence(item, _PHILIPS)[:1]:
        found |= {tag: e for tag, e in _plain(below).items() if tag in _PHILIPS_SCALES}
    return found


def _renamed(frame: Flat) -> Flat:
    if _FRAME_TIME in frame:
        frame = {tag: element for tag, element in frame.items() if tag not in _ROOT_TIME}
    names = zip(_OWN, _CLASSIC, strict=True)
    return frame | {classic: frame[own] for own, classic in names if own in frame}
