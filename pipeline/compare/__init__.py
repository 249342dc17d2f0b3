"""The comparison of the two paths: agreement, freshness, latency, completeness, cost, growth."""
