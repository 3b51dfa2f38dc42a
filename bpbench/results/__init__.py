"""What does a run leave behind, and what does it mean? Result rows and their files."""
