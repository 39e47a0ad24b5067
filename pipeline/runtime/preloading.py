"""The first module that the process loads from which workers are forked: none is looked through for garbage.

Modules live for ever, and collecting takes a third of their import. `open_worker` turns it on again.
"""

import gc

gc.disable()
