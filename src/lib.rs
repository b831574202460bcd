//! Captures the whole signal state of Linux processes, and puts it back.
