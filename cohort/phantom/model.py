"""The stated model from which subjects are drawn: what a regression on the demo's cohort has to find.

Everything about a subject depends on (seed, index) alone. Subjects come in pairs of one patient and one
control. Patients are older, so the crude difference between the groups holds age as well; at given age and
skull volume a patient's brain is `PATIENT_ML` smaller. Brain volume is exactly linear::

    brain_ml = 1185 + 0.72 (intracranial_ml - 1500) - 4 (age - 70) - 60 patient + N(0, 18)
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

BRAIN_ML = 1185.0
"""Mean brain volume of a control of 70 years with an intracranial volume of 1500 ml."""
PATIENT_ML = -60.0
"""Effect of being a patient on brain volume, ml, at given age and intracranial volume."""
AGE_ML = -4.0
"""Effect of a year of age, ml."""
SKULL_ML = 0.72
"""Effect of one ml of intracranial volume, ml."""
NOISE_ML = 18.0
"""Standard deviation of brain volume around the model, ml."""
SKULL_RANGE_ML = (1150.0, 1900.0)

_PURPOSES = ("pair", "subject", "head")


@dataclass(frozen=True)
class Subject:
    """One person: what a researcher knows, and the volumes that the images have to give back."""

    participant_id: str
    age_years: float
    sex: Literal["M", "F"]
    group: Literal["patient", "control"]
    intracranial_ml: float
    brain_ml: float


def generator(
    *, seed: int, index: int, purpose: Literal["pair", "subject", "head"]
) -> np.random.Generator:
    """A stream of random numbers that depends on its three arguments alone.

    Raises
    ------
    ValueError
        If `seed` or `index` is negative or has more than 32 bits.
    """
    if not (0 <= seed < 1 << 32 and 0 <= index < 1 << 32):
        raise ValueError(
            f"seed and index must lie within 0..{(1 << 32) - 1}; found seed {seed}, index {index}"
        )
    return np.random.Generator(np.random.Philox(key=[seed, index << 2 | _PURPOSES.index(purpose)]))


def subject(*, seed: int, index: int) -> Subject:
    """Draw one subject.

    Parameters
    ----------
    seed, index : int
        Within 0..2**32 - 1.

    Returns
    -------
    Subject
        Intracranial volume N(1500, 130) ml, plus 60 for men, minus 60 for women, within 1150-1900 ml. Age
        uniform: 55-83 years for controls, 62-90 for patients.
    """
    first_is_patient = generator(seed=seed, index=index // 2, purpose="pair").random() < 0.5
    patient = first_is_patient == (index % 2 == 0)
    rng = generator(seed=seed, index=index, purpose="subject")
    age = round(float(rng.uniform(62, 90) if patient else rng.uniform(55, 83)), 1)
    male = rng.random() < 0.5
    skull = float(np.clip(rng.normal(1560 if male else 1440, 130), *SKULL_RANGE_ML))
    brain = BRAIN_ML + SKULL_ML * (skull - 1500) + AGE_ML * (age - 70) + PATIENT_ML * patient
    return Subject(
        participant_id=f"phantom{index:03d}",
        age_years=age,
        sex="M" if male else "F",
        group="patient" if patient else "control",
        intracranial_ml=skull,
        brain_ml=float(brain + rng.normal(0, NOISE_ML)),
    )


def subjects(n: int, *, seed: int) -> "pd.DataFrame":
    """Table of the first `n` subjects of a seed, without their images.

    Returns
    -------
    DataFrame
        One row a subject: participant_id, age (years), sex, group, intracranial_ml, brain_ml, csf_ml.

    Examples
    --------
    >>> sorted(subjects(2, seed=0)["group"])
    ['control', 'patient']
    """
    import pandas as pd

    table = pd.DataFrame([vars(subject(seed=seed, index=index)) for index in range(n)])
    table = table.rename(columns={"age_years": "age"})
    return table.assign(csf_ml=table["intracranial_ml"] - table["brain_ml"])
