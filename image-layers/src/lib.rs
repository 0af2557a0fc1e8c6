//! OCI images as layers: import, verify, unpack into immutable snapshots, writable layers, diff and commit.
