"""Ahead-of-time plans: the train step compiled for hardware that is not here, and what it would cost there.

topology.py  what one chip can do; names of slices, and their devices as the compiler sees them
flops.py     floating point operations of a loss and of a step, counted on what is traced
hlo.py       the compiled text: computations, loops, collectives, memory traffic
network.py   which wires a collective uses, and for how long
memory.py    bytes on a chip by what they are for, and what did not fit
report.py    one plan: all of it together, as a table and as JSON
search.py    other meshes, batches and rematerialisation policies, tried and ranked
"""
