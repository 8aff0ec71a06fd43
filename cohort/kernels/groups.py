"""Numbers of one scheme to those of another."""

import numpy as np


def regrouped(labels: np.ndarray, *, names: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Group of each label, uint8: `groups` (n,) of `names` (n,), which rise; 0 stays 0."""
    place = np.minimum(np.searchsorted(names, labels), names.size - 1)
    known = names[place] == labels
    if not (known | (labels == 0)).all():
        others = np.unique(labels[~known & (labels != 0)])
        listed = ", ".join(map(str, others[:5])) + (", ..." if others.size > 5 else "")
        raise ValueError(
            f"labels hold {listed}, which no group names; add them to one, to 'other' if they are no tissue"
        )
    return np.where(known, groups[place], 0).astype(np.uint8)
