"""Tables of results as plain values that JSON can hold."""

import math
from typing import Any

import pandas as pd


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as plain values that JSON can hold; NaN and infinity as None."""
    return [
        {
            str(name): None if isinstance(cell, float) and not math.isfinite(cell) else cell
            for name, cell in record.items()
        }
        for record in frame.to_dict("records")
    ]
