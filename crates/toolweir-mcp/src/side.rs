//! What other layers do with a server beside its calls: probe it, warm it up, look after its token.
