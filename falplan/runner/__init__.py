"""What runs on a machine beside the app. Imports nothing else of falplan; the supervisor needs Python 3.9 alone."""
