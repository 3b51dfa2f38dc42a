"""The equations as one training loop, compiled by Numba."""
