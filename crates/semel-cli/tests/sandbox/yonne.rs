//! Yonne in the sandbox.
