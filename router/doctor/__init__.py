"""Look at an installation without changing it, and say how to mend what is wrong."""
