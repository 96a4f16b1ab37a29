"""What an operator may call instead of plain array code: convolution and pooling."""
