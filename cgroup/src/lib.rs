//! Control groups for programs that run other programs: limits that hold, figures that are true, on v1, v2, hybrid and systemd.
