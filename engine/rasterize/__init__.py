"""One signature for drawing Gaussians; gsplat on CUDA, a CPU backend, and a reference."""
