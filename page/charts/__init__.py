"""The page's charts: those of the market and those of the comparison."""
