"""From a module to its graph, with shapes."""

from skntk.tracing.tracer import Trace, trace

__all__ = ["Trace", "trace"]
