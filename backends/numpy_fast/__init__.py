"""The equations in NumPy, as fast as calls on preallocated arrays can be."""
