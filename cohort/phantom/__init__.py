"""Synthetic whole heads and beating hearts with known truth, and the demo's cohort of heads."""

from cohort.phantom.folder import planted_damage, write_cohort
from cohort.phantom.heads import Head, Tissue, head
from cohort.phantom.hearts import Heart
from cohort.phantom.model import PATIENT_ML, Subject, subject, subjects

__all__ = [
    "PATIENT_ML",
    "Head",
    "Heart",
    "Subject",
    "Tissue",
    "head",
    "planted_damage",
    "subject",
    "subjects",
    "write_cohort",
]
