"""DICOM, slice by slice: files and elements, one header a slice, groups, stacks, values, and decoding in a child."""
