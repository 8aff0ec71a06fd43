"""Mutants: sound DICOM and NIfTI files, damaged as disks, tools and attackers damage them.

A number says everything about a mutant. In this folder's parent, ``python -m fuzz read 1234`` reads number 1234 as
the test does, and ``python -m fuzz write 1234 FOLDER`` writes its files.
"""
