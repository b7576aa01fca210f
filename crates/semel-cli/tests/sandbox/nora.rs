//! Nora in the sandbox.
