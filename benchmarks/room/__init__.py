"""What deciding a request costs the Router: the batch room of a configuration in this process, without Ray and HTTP."""
