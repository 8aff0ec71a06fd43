"""Tables to effects. Knows nothing of images.

A module is what one calls; a package beside it holds the parts of one.

- From a table to a design: `columns`, `formula`, `design` (parts in ``table`` and ``terms``); before any p: `screen`
  (``screening``), `consistency`, `reliability`, `agreement` (with an expert).
- Effects: `regression`, `outcomes` (many at once: ``regions``), `contrasts`, `means`, `comparison`, `ladder`, `effects`,
  `equivalence`, `multiplicity`, `robust` (``clustering``), `diagnostics`, `persite`.
- Other errors and other rows: `mixed` (``subjects``), `permutation` (``exchanges``), `imputation` (``draws``).
- Other outcomes: `adjust` (head size), `harmonize` (``sites``).
- A model of a catalog: `analysis` fits all of it, `models` writes it (``asked``); ``wording`` says it.
"""
