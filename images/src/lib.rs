//! What the signal state of a Linux process is, and how it is written down.
