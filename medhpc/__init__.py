"""medhpc: from a volume on disk to a stitched, measured result."""

__version__ = "0.1.0.dev0"
