"""What knows the disk: settings, folders, signals, processes, and the loop kept in a folder."""
