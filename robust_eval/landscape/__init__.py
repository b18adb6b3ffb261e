"""Why a model generalises: landscapes of the adversarial loss over the weights, and figures of them."""
