"""One file a kernel: the C++ custom call, and the plain JAX or Python it must equal."""
