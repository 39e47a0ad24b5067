"""What the contestants of the queues' benchmark run: nothing, upon a message that names ten ids."""
