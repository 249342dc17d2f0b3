"""What runs the stack on one machine without containers: broker, topics, supervisor."""
