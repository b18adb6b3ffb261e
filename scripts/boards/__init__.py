"""Shell scripts that train and evaluate the rows of the boards, and the page of their commands."""
