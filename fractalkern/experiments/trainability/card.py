"""What a CUDA card holds, and how many networks of a grid it is given at once."""

from dataclasses import dataclass

import torch

# At most, whatever the width: 512 threads, 8 of them a network.
_RESIDENT_ON_A_MULTIPROCESSOR = 64
# A tile is at least so many times what trains at once: the end, when some have run out of networks,
# must not count.
_ROUNDS_OF_A_TILE = 16
# Rates and results of a network, the parts and their concatenation.
_BYTES_PER_NETWORK = 96


@dataclass(frozen=True)
class Card:
    """What tiles and calls are sized by."""

    multiprocessors: int
    memory: int  # bytes

    @staticmethod
    def current() -> "Card":
        """torch's current device."""
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return Card(properties.multi_processor_count, properties.total_memory)

    @property
    def networks_at_once(self) -> int:
        """An upper bound of those that train at the same time; fewer would idle the card."""
        return self.multiprocessors * _RESIDENT_ON_A_MULTIPROCESSOR

    @property
    def networks_of_a_tile(self) -> int:
        """Enough to keep the card busy, in half of its memory; few enough to lose seconds by an
        interrupt."""
        room = self.memory // 2 // _BYTES_PER_NETWORK
        return max(1, min(_ROUNDS_OF_A_TILE * self.networks_at_once, room))
