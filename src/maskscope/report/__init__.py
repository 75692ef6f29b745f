"""What a run found, for people: tables on the terminal, and one HTML file that works offline."""
