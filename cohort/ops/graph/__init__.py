"""The only builder of Dask graphs: kernels over blocks, with halos, partials and faces.

Every function takes arrays backed by NumPy or by Dask, by the names under which the caller knows them. NumPy-backed
arrays run as one block at once; with Dask nothing is computed, and a result has the chunks of the first array.
Leading dims (time, echo) are looped over: a kernel sees blocks of one to three spatial axes.

Modules: `chunking` (arithmetic of chunks), `inputs` (arrays to one chunking, layers), `stencils`, `reductions`, `joining`,
`lines`, `parts`, `series`, `whole` (what cannot be cut), `storage` and `settling` (what does not fit in memory), and `tasks` (what one
task does).
"""

from cohort.ops.graph.chunking import cut
from cohort.ops.graph.joining import join_faces
from cohort.ops.graph.lines import map_lines
from cohort.ops.graph.parts import map_parts
from cohort.ops.graph.reductions import reduce_partials, reduce_rounds
from cohort.ops.graph.rounds import Kept, keep
from cohort.ops.graph.series import map_series
from cohort.ops.graph.settling import free, settle
from cohort.ops.graph.stencils import map_points, map_stencil, map_vectors
from cohort.ops.graph.storage import ScratchError, scratch
from cohort.ops.graph.whole import in_one_task

__all__ = [
    "Kept",
    "ScratchError",
    "cut",
    "free",
    "in_one_task",
    "join_faces",
    "keep",
    "map_lines",
    "map_parts",
    "map_points",
    "map_series",
    "map_stencil",
    "map_vectors",
    "reduce_partials",
    "reduce_rounds",
    "scratch",
    "settle",
]
