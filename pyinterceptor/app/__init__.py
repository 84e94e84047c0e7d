"""What a user declares: apps, container classes, their rules."""
