"""Result files become tables for people and programs; no framework is needed, nothing rerun."""
