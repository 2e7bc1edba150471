"""The CUDA path without a card: on tensors that say they are on CUDA.

    python -m pytest -m pretended_cuda

A C++ compiler makes a guard of forty lines for CPU builds of torch. Every case runs in a process of
its own: the guard must be there before torch is. It is not part of CI, which promises no compiler.
"""
