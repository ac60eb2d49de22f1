"""A local app in twenty lines: one question, answered by the base and by a profile at the same time.

python examples/ask_two.py "Define: love" examples/hacker.bitdelta
"""

import asyncio
import sys

from zen_mlx import ZenPersonalizationManager
from zen_mlx.errors import ProfileExistsError


async def answer(manager: ZenPersonalizationManager, question: str, profile: str | None) -> str:
    stream = await manager.stream_async(question, profile=profile, max_tokens=60, temperature=0.0)
    text = "".join([piece.text async for piece in stream])
    return f"{profile or 'base'}: {text}\n({stream.finish.completion_tokens} tokens, {stream.finish.finish_reason})"


async def main(question: str, file: str) -> None:
    manager = ZenPersonalizationManager("smollm2-135m")
    try:
        name = manager.import_profile(file, "asked")
    except ProfileExistsError:
        name = "asked"
    print(*await asyncio.gather(answer(manager, question, None), answer(manager, question, name)), sep="\n\n")
    manager.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:3]))
