"""Programs as they are written for uWSGI: nothing in them knows of this project."""
