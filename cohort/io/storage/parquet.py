"""Parquet as it is read everywhere: by this thread alone.

Arrow's pools of threads, which it wakes for a column or two, are at times still busy when the process ends, and then abort it:
exit code 134 after all was said (apache/arrow#34314, #50482; three of 120 audits). Our tables are small enough for one thread.
"""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def table(content: bytes) -> "pa.Table":
    """Columns of a file, as Arrow holds them. Raises `ValueError` or `OSError` if it is damaged."""
    import pyarrow.parquet as pq

    # A file of its own: `read_table` makes a dataset of it, whose scanner has threads whatever is asked.
    with pq.ParquetFile(io.BytesIO(content), pre_buffer=False) as file:
        return file.read(use_threads=False)


def frame(content: bytes) -> "pd.DataFrame":
    """Rows of a file, as pandas reads them. Raises `ValueError` or `OSError` if it is damaged."""
    return table(content).to_pandas(use_threads=False)
