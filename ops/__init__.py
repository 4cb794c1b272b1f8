"""What an operator runs by hand: `python -m ops --help`."""
