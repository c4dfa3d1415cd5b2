"""What is to be done after an incident: action items, their owners and their ends."""
