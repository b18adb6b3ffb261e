"""The landscapes of Wu, Xia and Wang 2020 (AWP): curves, planes, and loss under weight perturbations."""
