"""A checker in the style of Jepsen's total-queue: numbers go through a broker while faults strike at random.

`python -m tests.chaos [--seed N] [--messages N] [BROKER...]` prints what was lost, doubled, recovered and unexpected.
Publisher and consumers are processes that keep a history each; the verdict is read from the histories alone.
"""
