//! Credicorp in the sandbox.
