"""What the services share: each module alone decides one thing (see README, Layout)."""
