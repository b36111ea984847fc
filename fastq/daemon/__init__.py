"""Running in the background: pid files, log files, users, detaching. For any long-running command; knows nothing of workers."""
