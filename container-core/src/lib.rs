//! A container engine as a library: typed builder, one launch path, safe defaults, root and rootless, no daemon.
