"""An LLM router: reads each request, picks the catalog model that serves it best for the money."""

__version__ = "0.1.0"
