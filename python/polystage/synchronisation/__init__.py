"""The order between queues: which there must be, which follows from others, and as semaphores."""

from polystage.synchronisation.accesses import View
from polystage.synchronisation.calls import Calls, aliases, extract_calls, main_body
from polystage.synchronisation.extraction import INSTRUCTIONS, Extraction
from polystage.synchronisation.kernel import Ordered, order_kernel
from polystage.synchronisation.order import Edge
from polystage.synchronisation.program import Kernel, order_program
from polystage.synchronisation.queues import assign_queues
from polystage.synchronisation.semaphores import Semaphore, semaphores

__all__ = [
    "INSTRUCTIONS",
    "Calls",
    "Edge",
    "Extraction",
    "Kernel",
    "Ordered",
    "Semaphore",
    "View",
    "aliases",
    "assign_queues",
    "extract_calls",
    "main_body",
    "order_kernel",
    "order_program",
    "semaphores",
]
