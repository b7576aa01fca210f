//! Etherfuse in the sandbox.
