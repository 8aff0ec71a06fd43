"""`map` on the workers of a call: what they do not answer is done here, so that the result is the same without any."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.dispatch.window import Connect, Failure, each

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_SECONDS = 0.04
"""Work of one task: whoever asked waits for the last of them."""


def mapped(
    function: Callable[[Item], Result], items: Sequence[Item], *, connect: Connect
) -> Iterator[Result]:
    """Call `function`, which changes nothing, on every item, in processes of the workers.

    Parameters
    ----------
    function : callable
        Importable by name on the workers.
    items : sequence
        Short ones: they travel in batches.
    connect : callable
        Gives the client; None for a plain loop.

    Yields
    ------
    Result
        In the order of the items.

    Raises
    ------
    Exception
        What `function` raises here, after a worker had no answer either.
    """
    client = connect()
    if client is None:
        yield from map(function, items)
        return
    numbers = {id(item): number for number, item in enumerate(items)}
    early: dict[int, Result] = {}
    following = 0
    # Workers that are gone are no reason to end the call here: it goes on without them. A signal interrupts, as in a loop.
    results = each(
        function, items, client=client, name="look", stop=Stop(), batch_seconds=BATCH_SECONDS
    )
    for item, result, _ in results:
        if not isinstance(result, Failure):
            early[numbers[id(item)]] = result
        while following in early:
            yield early.pop(following)
            following += 1
    for number in range(following, len(items)):
        yield early.pop(number) if number in early else function(items[number])
