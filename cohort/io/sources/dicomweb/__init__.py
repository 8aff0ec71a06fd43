"""A DICOM node that speaks DICOMweb as a source: what it lists (QIDO-RS) and what it sends (WADO-RS)."""
