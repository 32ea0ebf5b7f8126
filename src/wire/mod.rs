connectrpc::include_generated!();
