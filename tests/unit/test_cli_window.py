"""How much of an import may be under way."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from services.cli.window import Window


@given(sizes=st.lists(st.integers(0, 150), min_size=1, max_size=30), most_products=st.integers(1, 5))
def test_the_limits_hold_and_everything_gets_through(sizes: list[int], most_products: int) -> None:
    async def go() -> list[tuple[int, int]]:
        window, inside, seen = Window(most_products, 100), [], []

        async def one(size: int) -> None:
            async with window.holding(size):
                inside.append(size)
                seen.append((len(inside), sum(inside)))
                await asyncio.sleep(0)
                inside.remove(size)

        await asyncio.gather(*map(one, sizes))
        return seen

    seen = asyncio.run(go())
    assert len(seen) == len(sizes)
    assert all(count <= most_products and (size <= 100 or count == 1) for count, size in seen)
