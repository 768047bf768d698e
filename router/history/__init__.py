"""What requests came to: their figures for the pages, and the latest of them one by one; no prompt text."""
