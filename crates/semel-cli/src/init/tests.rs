//! What becomes of documents.
