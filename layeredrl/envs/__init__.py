"""What is known of environments."""
