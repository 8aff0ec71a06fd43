"""Fault day: twenty faults are injected into real runs, and a table says what each of them cost.

Each fault is a function that prepares a cohort of many small scans, starts the real command line, breaks something real
under it (kills a process, fills or write-protects a file system, stops the object store, flips bits, ...), lets the next
call resume, and compares what is in the store with an undisturbed run, bit for bit. A line says:

- ``injected``: how often it was broken; a fault that never came to pass is no proof, and makes the line red;
- ``scans``: how many of them the cohort has, summed over the rounds;
- ``lost``: scans that in the end are neither measured nor refused by name;
- ``wrong``: scans and tables that differ from the undisturbed run in a single bit, half-written ones among them;
- ``innocents failed``: scans that failed or were refused although the fault was not theirs;
- ``hung``: calls that did not come to an end in their time, and had to be killed;
- ``recovery seconds``: the longest time from the fault until it was overcome: until the workers were complete again, the
  call had stopped as it should, the scan was named; and where a second call repairs, what that call took.

``python -m faults [F1 F7 ...]`` from this folder's parent, or ``make faults``, prints the table; ``tests/test_faults.py``
holds every line to zero.
"""
