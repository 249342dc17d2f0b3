"""What can stand in for the exchange: replay a recording, record one, make the sample."""
