"""What services say to each other: messages, topics and published views."""
