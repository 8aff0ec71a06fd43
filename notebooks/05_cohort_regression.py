# %% [markdown]
# # A cohort, a group, two confounds
# The long course ends with a t-test on brain volumes of patients and controls, and divides by skull volume. Patients are older and
# heads differ, so neither says what the disease does. 240 people of a stated model, as a table alone: the truth is -60 ml.

# %%
# ruff: noqa: B018 - what stands last in a cell is shown
# %matplotlib inline
import tempfile
from pathlib import Path

from scipy import stats

import cohort
from cohort.api import Options
from cohort.phantom import PATIENT_ML, subjects

here = tempfile.TemporaryDirectory()
folder = Path(here.name)
people = subjects(240, seed=1)
people.to_csv(folder / "people.csv", index=False)
people.groupby("group")[["age", "intracranial_ml", "brain_ml"]].mean().round(1)

# %% [markdown]
# The tutorial's way:

# %%
patients, controls = (people[people["group"] == g] for g in ("patient", "control"))
crude = patients["brain_ml"].mean() - controls["brain_ml"].mean()
p = stats.ttest_ind(patients["brain_ml"], controls["brain_ml"], equal_var=False).pvalue
print(f"difference of means {crude:.1f} ml, p = {p:.2g}; the truth is {PATIENT_ML} ml")

# %% [markdown]
# ## A model with its confounds
# A catalog without scans is a cohort that is only a table.

# %%
(folder / "catalog.yaml").write_text(
    """\
cohort: people
sources: []
store: store
ids: keep
participants:
  table: people.csv
  id: participant_id
  derive: {patient: group == patient, male: sex == M}
  units: {age: years, brain_ml: ml, intracranial_ml: ml}
models:
  brain-by-group:
    outcome: brain_ml
    formula: patient + age + intracranial_ml
    confounds: [age, intracranial_ml]
    head: intracranial_ml
    group: patient
"""
)
cohort.ingest(folder / "catalog.yaml", options=Options(workers=0))
study = cohort.open(folder / "catalog.yaml")
fitted = study.fit("brain-by-group")
fitted.tidy[["term", "estimate", "se", "ci_low", "ci_high", "p", "hc3_se"]]

# %%
effect = fitted.tidy.set_index("term").filter(like="patient", axis=0).iloc[0]
print(
    f"patients: {effect['estimate']:.1f} ml [{effect['ci_low']:.1f}, {effect['ci_high']:.1f}] at given age and head size"
)
assert effect["ci_low"] < PATIENT_ML < effect["ci_high"]
assert abs(effect["estimate"] - PATIENT_ML) < abs(crude - PATIENT_ML)

# %% [markdown]
# ## What this adds to the tutorial
# The table is screened before anything is fitted; head size is taken into account in six ways, side by side, so that nobody has to
# believe in one; robust errors stand beside the usual ones.

# %%
print(fitted.summary())

# %%
fitted.adjustments

# %%
fitted.figure("ladder")

# %%
here.cleanup()
