"""The measurements of Liu et al. 2020: Hessian, gradient scattering, connectivity, linear classifier."""
