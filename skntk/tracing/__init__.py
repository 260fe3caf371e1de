"""From a module to its graph, with shapes."""

from skntk.tracing.tracer import Trace, place, trace

__all__ = ["Trace", "place", "trace"]
